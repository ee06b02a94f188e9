"""Which code is checked out and which bytes an out holds: what a run was made by, and what it made."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuwen.data.formats import manifest

# Params are logged as params, and a preset's worktree has its own: neither they nor outs make the code dirty.
CODE = ("tuwen", "stages", "dvc.yaml", "constraints.txt")


def get_commit() -> str | None:
    """The commit that is checked out; None outside git and before the first commit."""
    return _git("rev-parse", "--verify", "HEAD")


def is_dirty() -> bool:
    """Does the code that decides the outs differ from the commit?"""
    return bool(_git("status", "--porcelain", "--", *(name for name in CODE if Path(name).exists())))


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def named_by(out: Path) -> Path | None:
    """The file whose sha256 names an out folder; not all of its files, DVC may lay a .gitignore beside them."""
    names = (out / manifest.MANIFEST, out / "metrics.json")
    return next((path for path in names if path.is_file()), None)


def digest_output(out: Path) -> str:
    """sha256 that names what lies in `out`."""
    path = named_by(out)
    assert path is not None, f"{out} has neither {manifest.MANIFEST} nor metrics.json"
    return manifest.hash_file(path)


def read_hashes(stage: Mapping[str, Any], kind: str) -> dict[str, str]:
    """Path -> DVC's md5 of what a stage's entry in dvc.lock lists; kind: deps or outs."""
    return {entry["path"]: entry["md5"] for entry in stage.get(kind, []) if "md5" in entry}
