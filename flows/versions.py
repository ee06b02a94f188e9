"""Which versions of packages decided the outs: those that dvc.lock records, and what the gate makes of changed ones."""

from collections.abc import Iterable, Mapping
from typing import Any

from ruamel.yaml import YAML

from flows.repro import Status
from tuwen.core.versions import VERSIONS, flatten_versions


def drop_version_changes(status: Status, stages: Iterable[str]) -> tuple[Status, list[str]]:
    """Return `status` without the changed versions of `stages`, and those of them that only versions make stale."""
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


def format_version_changes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Return "pillow 12.0.0 → 13.0.0, …" for what differs, empty where nothing does."""
    names = sorted(before.keys() | after.keys(), key=str.lower)
    changed = [name for name in names if before.get(name) != after.get(name)]
    return ", ".join(f"{name} {before.get(name, 'none')} → {after.get(name, 'none')}" for name in changed)
