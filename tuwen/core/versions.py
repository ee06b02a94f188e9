"""versions.yaml: the versions of what decides bytes or figures, by the room that computes with them."""

from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tuwen.core.errors import UserError

VERSIONS = Path("versions.yaml")


def read_versions(keys: Iterable[str] = ()) -> dict[str, str]:
    """Return package -> version of what versions.yaml lists under `keys`, none for all.

    keys: dotted, such as "data.formats.images"; one that the file lacks, such as a room that computes with no
    package, has no versions. Without the file, outside a checkout, there are none: nothing records outs there.
    """
    if not VERSIONS.is_file():
        return {}
    from ruamel.yaml import YAML

    values = YAML(typ="safe", pure=True).load(VERSIONS)
    keys = list(keys)
    parts = [_find(values, key) for key in keys] if keys else [values]
    return dict(sorted(pair for part in parts for pair in flatten_versions(part).items()))


def flatten_versions(values: Mapping[str, Any]) -> dict[str, str]:
    """Return package -> version of nested groups of them."""
    flat = dict[str, str]()
    for name, value in values.items():
        flat |= flatten_versions(value) if isinstance(value, Mapping) else {name: str(value)}
    return flat


def _find(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    for part in key.split("."):
        values = values.get(part, {})
    return values


def require_versions() -> None:
    """Raise UserError where a listed package is installed in another version: the outs' record would be wrong.

    A package that is not installed is for the stage to miss. A local label such as +cpu names a build, no version.
    """
    installed = {name: (_get_version(name), listed) for name, listed in read_versions().items()}
    others = [
        f"{name} {there} is installed, {listed} is listed"
        for name, (there, listed) in installed.items()
        if there not in (None, listed)
    ]
    if others:
        raise UserError(
            f"{VERSIONS}: {'; '.join(others)}. The outs would be recorded as made with what they were not made "
            "with: install the listed versions (`pip install -c constraints.txt …`), or write the installed ones "
            "into that file, which makes the stages that compute with them stale"
        )


def _get_version(name: str) -> str | None:
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return None
