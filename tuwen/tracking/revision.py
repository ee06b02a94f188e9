"""Name what a run was made by, the checked-out code and dvc.lock, and what it made, the bytes of an out."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuwen.data.formats import manifest

LOCK = Path("dvc.lock")
COMMIT_TAG = "mlflow.source.git.commit"  # MLflow's own name: its pages show it
# Neither params nor outs make the code dirty: params are logged as such, and a preset's worktree has its own.
CODE = ("tuwen", "stages", "dvc.yaml", "constraints.txt", "versions.yaml")


def get_commit() -> str | None:
    """Return the commit that is checked out; None before the first one, and where explain_unknown() says why."""
    return None if explain_unknown() else _git("rev-parse", "--verify", "HEAD").stdout.strip() or None


def is_dirty() -> bool | None:
    """Whether the code that decides the outs differs from the commit; None where nobody can know."""
    if explain_unknown():
        return None
    code = (name for name in CODE if Path(name).exists())
    return bool(_git("status", "--porcelain", "--untracked-files=normal", "--", *code).stdout)


def describe_changes() -> str:
    """Return `true` or `false` as is_dirty does, or why that is unknown: for a tag."""
    return explain_unknown() or str(is_dirty()).lower()


def explain_unknown() -> str | None:
    """Return why git cannot tell which code this is, and the remedy; None where it can."""
    try:
        done = _git("ls-files", "--", "dvc.yaml")
    except FileNotFoundError:
        return "git is not installed"
    if done.returncode != 0:  # no repository, or one of another user: git's own words hold the remedy
        return " ".join(done.stderr.removeprefix("fatal: ").split())
    # An unpacked ZIP inside another repository must not take that one's commit for its own.
    if not done.stdout and Path("dvc.yaml").exists() and _git("rev-parse", "--verify", "HEAD").stdout:
        return "the git repository around this folder does not hold it: commit it there, or `git init` here"
    return None


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *arguments], capture_output=True, encoding="utf-8", errors="surrogateescape", check=False
    )


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


def read_lock() -> dict[str, Any]:
    """Return dvc.lock as stage name -> cmd, deps, params, outs; empty where there is no lock yet."""
    from ruamel.yaml import YAML

    stages: dict[str, Any] = YAML(typ="safe", pure=True).load(LOCK)["stages"] if LOCK.is_file() else {}
    return stages
