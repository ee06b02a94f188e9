"""A folder of its own for every preset, so that `params.yaml` is never overwritten."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tuwen.core.errors import UserError

FOLDER = Path(".worktrees")
INPUTS = "inputs"  # where presets expect a user's own data, ignored by git


def make_worktree(preset: str) -> Path:
    """The folder to run `preset` in: here for "" and "sample", else a git worktree under .worktrees/.

    It is made, or brought to the commit that is checked out here; it shares DVC's cache, its params.yaml is
    presets/<preset>.yaml, its inputs/ leads to ours, and its dvc.lock stays its own. Nothing else in it is kept:
    work here, not there.
    Raises UserError when the preset or git's first commit is missing.
    """
    if preset in ("", "sample"):
        return Path(".")
    source = Path("presets") / f"{preset}.yaml"
    if not source.is_file():
        there = ", ".join(sorted(path.stem for path in source.parent.glob("*.yaml"))) or "none"
        raise UserError(f"{source}: no such preset; presets/ has {there}")
    commit, folder = _git("rev-parse", "--verify", "HEAD"), FOLDER / preset
    if (folder / ".git").exists():
        _move(folder, commit)
    else:
        _git("worktree", "add", "--quiet", "--force", "--detach", str(folder), commit)
    local = folder / ".dvc" / "config.local"
    if not local.exists():
        local.parent.mkdir(exist_ok=True)
        local.write_text(f"[cache]\n    dir = {Path('.dvc/cache').absolute()}\n")
    if not os.path.lexists(folder / INPUTS):
        (folder / INPUTS).symlink_to(Path(INPUTS).absolute())
    shutil.copyfile(source, folder / "params.yaml")
    print(f"{folder}: {source} on commit {commit[:12]}; uncommitted code is not used", file=sys.stderr)
    return folder


def _move(folder: Path, commit: str) -> None:
    if _git("-C", str(folder), "rev-parse", "HEAD") == commit:
        return
    lock = folder / "dvc.lock"
    kept = lock.read_bytes() if lock.exists() else None
    _git("-C", str(folder), "checkout", "--quiet", "--force", "--detach", commit)
    if kept is not None:
        lock.write_bytes(kept)  # the record of what ran here; the commit's own is the sample's


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"git {' '.join(arguments)}: {done.stderr.strip()}; a preset runs on the code of a commit")
    return done.stdout.strip()
