"""Name what a run was made by, the checked-out code, and what it made, the bytes of an out."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuwen.data.formats import manifest

# Neither params nor outs make the code dirty: params are logged as such, and a preset's worktree has its own.
CODE = ("tuwen", "stages", "dvc.yaml", "constraints.txt")


def get_commit() -> str | None:
    """Return the commit that is checked out; None outside git and before the first commit."""
    return _git("rev-parse", "--verify", "HEAD")


def is_dirty() -> bool:
    """Whether the code that decides the outs differs from the commit."""
    return bool(_git("status", "--porcelain", "--", *(name for name in CODE if Path(name).exists())))


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def find_naming_file(out: Path) -> Path | None:
    """Return the file whose sha256 names an out folder; None where there is none.

    One file, not all: DVC may write a .gitignore beside them.
    """
    names = (out / manifest.MANIFEST, out / "metrics.json")
    return next((path for path in names if path.is_file()), None)


def digest_output(out: Path) -> str:
    """Return the sha256 that names the content of the folder `out`."""
    path = find_naming_file(out)
    assert path is not None, f"{out} has neither {manifest.MANIFEST} nor metrics.json"
    return manifest.hash_file(path)


def read_hashes(stage: Mapping[str, Any], kind: str) -> dict[str, str]:
    """Return path -> DVC's md5 of what a stage's entry in dvc.lock lists; kind: deps or outs."""
    return {entry["path"]: entry["md5"] for entry in stage.get(kind, []) if "md5" in entry}
