"""`manifest.json`: what a model or data folder was made from, and the sha256 of each of its files."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tuwen.core.errors import UserError
from tuwen.core.versions import read_versions
from tuwen.data.formats.json_file import write_json

MANIFEST = "manifest.json"
PACKAGE = Path(__file__).parents[2]


def write_manifest(
    folder: Path,
    inputs: Mapping[str, Path | str],
    params: Mapping[str, Any],
    hashes: Mapping[str, str] | None = None,
) -> str:
    """Write `folder/manifest.json` and return its sha256.

    inputs: name -> folder or file that the outs were made from, or its digest as a str. A folder with a manifest
    of its own is named by that manifest's sha256, any other by the sha256 over its files. hashes: path in `folder`
    -> sha256 of files that the caller has hashed already; only the others are read.
    """
    paths = {str(path.relative_to(folder)): path for path in _files(folder) if path.name != MANIFEST}
    hashes = hashes or {}
    body = {
        "files": {name: hashes.get(name) or hash_file(path) for name, path in paths.items()},
        "inputs": {
            name: hash_path(source) if isinstance(source, Path) else source
            for name, source in sorted(inputs.items())
        },
        "params": params,
    }
    write_json(folder / MANIFEST, body, sort_keys=True)
    return hash_file(folder / MANIFEST)


def make_work_key(inputs: Mapping[str, Path], params: Mapping[str, Any], code: Iterable[str]) -> str:
    """Return 16 hex digits that name one piece of work, so that nothing else resumes from what it left.

    inputs: as in `write_manifest`. code: the packages and modules whose bytes decide the result, as paths below
    the folder of tuwen; the versions of what their rooms compute with decide it too (versions.yaml).
    """
    parts = list(code)
    digests = {name: hash_path(path) for name, path in sorted(inputs.items())}
    digests |= {f"{path.relative_to(PACKAGE)}": hash_file(path) for part in parts for path in _modules(part)}
    rooms = {str(Path(part).parent) if part.endswith(".py") else part for part in parts}
    digests |= read_versions([room.replace("/", ".") for room in rooms]) if rooms else {}
    return hashlib.sha256(json.dumps([digests, params], sort_keys=True).encode()).hexdigest()[:16]


def _modules(part: str) -> list[Path]:
    path = PACKAGE / part
    assert path.exists(), path
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def hash_path(path: Path) -> str:
    """Return the sha256 that names a file, or a folder by its manifest, or else by all of its files."""
    if path.is_file():
        return hash_file(path)
    if (path / MANIFEST).is_file():
        return hash_file(path / MANIFEST)
    lines = [f"{p.relative_to(path)} {hash_file(p)}\n" for p in _files(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def require_inputs(folder: Path, inputs: Mapping[str, Path]) -> None:
    """Raise UserError, naming both digests, unless the manifest of `folder` names these very `inputs`."""
    recorded = read_inputs(folder)
    for name, path in inputs.items():
        actual = hash_path(path)
        if recorded.get(name) != actual:
            raise UserError(
                f"{folder / MANIFEST}: made from another {name}: it names {recorded.get(name)}, but {path} is "
                f"{actual}; make these anew from it: `dvc repro`"
            )


def read_inputs(folder: Path) -> dict[str, str]:
    """Return name -> digest of what `folder` was made from. Raises UserError where its manifest does not tell."""
    place = folder / MANIFEST
    try:
        return dict(json.loads(place.read_text(encoding="utf-8"))["inputs"])
    except FileNotFoundError:
        raise UserError(f"{place}: missing, so it is unknown what these were made from; run `dvc repro`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place}: not a manifest ({error!r}); remove the folder and run `dvc repro`") from None


def hash_file(path: Path) -> str:
    """Return the sha256 of one file as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())
