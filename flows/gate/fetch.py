"""What a checkout lacks: judged by the hashes of dvc.lock, and fetched only where it is read."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import networkx as nx
from prefect import get_run_logger

from flows.gate.versions import drop_version_changes
from flows.repro import Status, plan, read_status
from flows.watch import watch

ABSENT = ("deleted", "not in cache")


def plan_with_absent(
    graph: Any, targets: Sequence[str], folder: Path, *, also: Sequence[str], never: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Return `plan` of `targets`, in which an out that is not here is up to date where dvc.lock says so.

    What the stages of the plan read and what `targets` make is fetched; only what cannot be had must be made.
    also: outs that the caller reads. never: stages that are not run; where the plan holds one, nothing is fetched.
    They and those above are taken as recorded where nothing but versions of packages changed: the second list.
    """
    from dvc.repo import Repo

    above = set(never).union(*(nx.ancestors(graph, stage) for stage in never))
    lost: set[str] = set()  # fetched in vain
    while True:
        with Repo(folder) as repo:
            recorded = Recorded(repo)
            status: Status = {
                stage: list(_leave_out_absent(entries, stage, recorded, lost))
                for stage, entries in read_status(folder).items()
            }
            status, outdated = drop_version_changes(status, above)
            stale = plan(graph, status, targets, force=False)
            wanted = recorded.find_absent(stale, targets, also)
        if not stale.keys().isdisjoint(never) or wanted <= lost:
            return stale, outdated
        _pull(sorted(wanted - lost), folder)
        lost |= {out for out in wanted if not (folder / out).exists()}


def _leave_out_absent(
    entries: Sequence[Any], stage: str, recorded: "Recorded", lost: set[str]
) -> Iterator[Mapping[str, Any] | str]:
    """Yield what remains of a stage's status without the files that are merely not here."""
    for entry in entries:
        if not isinstance(entry, Mapping):
            yield entry
        elif outs := entry.get("changed outs"):
            if rest := {out: how for out, how in outs.items() if out in lost or not recorded.is_absent(out, how)}:
                yield {"changed outs": rest}
        elif deps := entry.get("changed deps"):
            if rest := {dep: how for dep, how in deps.items() if not recorded.is_of_outs(stage, dep, how)}:
                yield {"changed deps": rest}
        else:
            yield entry


class Recorded:
    """The deps and outs of each stage with their hashes in dvc.lock; `repo`: an open dvc.repo.Repo."""

    def __init__(self, repo: Any) -> None:
        self._root = Path(repo.root_dir)
        self._deps = {stage.name: self._name(stage.deps) for stage in repo.index.stages}
        self._outs = {stage.name: self._name(stage.outs) for stage in repo.index.stages}
        self._all_outs = {path: out for outs in self._outs.values() for path, out in outs.items()}

    def is_absent(self, out: str, how: str) -> bool:
        """Tell whether a recorded out is merely not here, rather than another one."""
        return how in ABSENT and not (self._root / out).exists() and bool(self._all_outs[out].hash_info)

    def is_of_outs(self, stage: str, dep: str, how: str) -> bool:
        """Tell whether a dep that is not here is what the stages that make it last made."""
        if how not in ABSENT or dep not in self._deps[stage]:
            return False
        hash_info = self._deps[stage][dep].hash_info
        return bool(hash_info) and bool(hash_info.value == self._compute_hash(dep))

    def find_absent(self, stages: Iterable[str], targets: Sequence[str], also: Sequence[str]) -> set[str]:
        """Return the outs that are not here and that these stages read, `targets` make or `also` names."""
        read = {dep for stage in stages for dep in self._deps[stage]} | set(also)
        of_deps = {out for dep in read for out in self._find_outs(dep)}
        made = {out for target in targets for out in self._outs[target]}
        return {out for out in of_deps | made if not (self._root / out).exists()}

    def _find_outs(self, dep: str) -> list[str]:
        """Return the outs that a dep is, lies in or holds."""
        return [out for out in self._all_outs if f"{dep}/".startswith(f"{out}/") or out.startswith(f"{dep}/")]

    def _compute_hash(self, dep: str) -> str | None:
        """Return the hash of an out, a part of one or a folder of outs, from their lists of files alone."""
        from dvc_data.hashfile.tree import Tree

        if dep in self._all_outs:
            return str(self._all_outs[dep].hash_info.value)
        tree = Tree()  # type: ignore[no-untyped-call]  # dvc_data is typed in part
        for out in self._find_outs(dep):
            for path, meta, hash_info in self._list_files(out):
                if path == dep:
                    return str(hash_info.value)
                if path.startswith(f"{dep}/"):
                    tree.add(tuple(path.removeprefix(f"{dep}/").split("/")), meta, hash_info)
        tree.digest()
        return tree.hash_info.value if len(tree) else None

    def _list_files(self, out: str) -> Iterator[tuple[str, Any, Any]]:
        recorded = self._all_outs[out]
        if not recorded.is_dir_checksum:
            yield out, None, recorded.hash_info
            return
        for key, meta, hash_info in recorded.get_dir_cache() or ():  # the list is fetched, its files are not
            yield "/".join((out, *key)), meta, hash_info

    def _name(self, outs: Sequence[Any]) -> dict[str, Any]:
        return {os.path.relpath(out.fs_path, self._root): out for out in outs}


def _pull(outs: Sequence[str], folder: Path) -> None:
    code, _ = watch([sys.executable, "-m", "dvc", "--wait-for-lock", "pull", *outs], folder, "pull")
    if code:
        get_run_logger().warning("not all that dvc.lock records could be fetched")
