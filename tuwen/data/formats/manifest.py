"""`manifest.json`: what a model or data folder was made from, and the sha256 of each of its files."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tuwen.core.errors import UserError
from tuwen.data.formats.json_file import write_json

MANIFEST = "manifest.json"
PACKAGE = Path(__file__).parents[2]


def write_manifest(
    folder: Path,
    inputs: Mapping[str, Path | str],
    params: Mapping[str, Any],
    known: Mapping[str, str] | None = None,
) -> str:
    """Write `folder/manifest.json` and return its sha256.

    inputs: name -> folder or file that the outs were made from; a folder that carries a manifest of its
    own is named by that manifest's sha256, any other by the sha256 over its files; a str is such a digest. known:
    sha256 of files by their path in `folder`, from whoever wrote them; only the others are read.
    """
    names = {str(path.relative_to(folder)): path for path in _files(folder) if path.name != MANIFEST}
    known = known or {}
    body = {
        "files": {name: known.get(name) or hash_file(path) for name, path in names.items()},
        "inputs": {n: given if isinstance(given, str) else digest(given) for n, given in sorted(inputs.items())},
        "params": params,
    }
    write_json(folder / MANIFEST, body, sort_keys=True)
    return hash_file(folder / MANIFEST)


def make_work_key(inputs: Mapping[str, Path], params: Mapping[str, Any], code: Iterable[str]) -> str:
    """What names this very work, so that only it goes on from what it left: 16 hex digits.

    inputs as in `write_manifest`; code: the packages and modules whose bytes decide the result, as paths below
    the folder of tuwen.
    """
    digests = {name: digest(path) for name, path in sorted(inputs.items())}
    digests |= {f"{path.relative_to(PACKAGE)}": hash_file(path) for part in code for path in _modules(part)}
    return hashlib.sha256(json.dumps([digests, params], sort_keys=True).encode()).hexdigest()[:16]


def _modules(part: str) -> list[Path]:
    path = PACKAGE / part
    assert path.exists(), path
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def digest(path: Path) -> str:
    """sha256 that names a file, or a folder through its manifest or else through all of its files."""
    if path.is_file():
        return hash_file(path)
    if (path / MANIFEST).is_file():
        return hash_file(path / MANIFEST)
    lines = [f"{p.relative_to(path)} {hash_file(p)}\n" for p in _files(path)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def require_inputs(folder: Path, inputs: Mapping[str, Path]) -> None:
    """Raise UserError, naming both digests, unless the manifest of `folder` names these very `inputs`."""
    place = folder / MANIFEST
    try:
        made_from = json.loads(place.read_text(encoding="utf-8"))["inputs"]
    except FileNotFoundError:
        raise UserError(f"{place}: missing, so nobody knows what these were made from; run `dvc repro`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place}: not a manifest ({error!r}); remove the folder and run `dvc repro`") from None
    for name, path in inputs.items():
        found, due = made_from.get(name), digest(path)
        if found != due:
            raise UserError(
                f"{place}: made from another {name}: it names {found}, but {path} is {due}; "
                "make these anew from it: `dvc repro`"
            )


def hash_file(path: Path) -> str:
    """sha256 of one file as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())
