"""The versions of packages that decided the outs, as dvc.lock records them, and what the gate makes of others."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ruamel.yaml import YAML

from flows.repro import Status
from tuwen.core.versions import VERSIONS, flatten_versions


def drop_version_changes(status: Status, stages: Iterable[str]) -> tuple[Status, list[str]]:
    """Return `status` without the changed versions of `stages`, and which of these are stale by versions alone."""
    kept, dropped = dict(status), list[str]()
    for stage in sorted(set(stages) & status.keys()):
        entries = [left for entry in status[stage] if (left := _drop(entry))]
        if entries != list(status[stage]):
            dropped += [] if entries else [stage]
            kept[stage] = entries
    return {stage: entries for stage, entries in kept.items() if entries}, dropped


def _drop(entry: Any) -> Any:
    """Return an entry of `dvc status` without versions.yaml; empty where it tells of nothing else."""
    if not isinstance(entry, Mapping) or "changed deps" not in entry:
        return entry
    deps = {name: change for name, change in entry["changed deps"].items() if name != str(VERSIONS)}
    return {**entry, "changed deps": deps} if deps else {}


def read_recorded_versions(lock: str, stages: Iterable[str]) -> dict[str, str]:
    """Return package -> version that these stages' outs were made with, by the text of dvc.lock."""
    entries = (YAML(typ="safe", pure=True).load(lock) or {}).get("stages", {})
    recorded = dict[str, str]()
    for stage in stages:
        recorded |= flatten_versions(entries.get(stage, {}).get("params", {}).get(str(VERSIONS), {}))
    return recorded


def describe_versions(
    before: Mapping[str, str], after: Mapping[str, str], ran: Sequence[str], outdated: Sequence[str]
) -> list[str]:
    """Return paragraphs for the gate's page; none where the same versions stand behind the figures of both sides.

    before, after: the base's and this checkout's versions (`read_recorded_versions`); ran: the stages that ran for
    this comparison; outdated: those that did not, though their versions changed.
    """
    notes = []
    anew = f" Run anew here: {', '.join(ran)}." if ran else ""
    if not before and after:
        notes.append(f"The base does not record which versions of packages made its figures.{anew}")
    elif before != after:
        notes.append(
            f"Other versions of packages than the base's made these figures: {_format(before, after)}.{anew}"
        )
    if outdated:
        notes.append(
            "Data and model are taken as recorded. For other versions of packages `dvc repro` would make anew: "
            f"{', '.join(outdated)}."
        )
    return notes


def _format(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    names = sorted(before.keys() | after.keys(), key=str.lower)
    changed = [name for name in names if before.get(name) != after.get(name)]
    return ", ".join(f"{name} {before.get(name, 'none')} → {after.get(name, 'none')}" for name in changed)
