"""Git worktrees in which presets run, so that the user's `params.yaml` is never overwritten."""

import os
import subprocess
import sys
from pathlib import Path

from tuwen.core.errors import UserError
from tuwen.core.presets import compose_preset, format_preset

WORKTREES = Path(".worktrees")
INPUTS = "inputs"  # where presets expect a user's own data, ignored by git


def make_worktree(preset: str) -> Path:
    """Return the folder to run `preset` in: this one for "" and "sample", else a git worktree under .worktrees/.

    The worktree is created, or brought to the commit that is checked out here. It shares DVC's cache; its
    params.yaml is the whole that presets/<preset>.yaml composes to; its inputs/ is a link to ours; its dvc.lock
    stays its own. Nothing else in it is kept: work here, not there.
    Raises UserError when the preset is missing or does not compose, and before git's first commit.
    """
    if preset in ("", "sample"):
        return Path(".")
    composed = compose_preset(preset)
    commit, folder = _git("rev-parse", "--verify", "HEAD"), WORKTREES / preset
    if (folder / ".git").exists():
        _check_out(folder, commit)
    else:
        _git("worktree", "add", "--quiet", "--force", "--detach", str(folder), commit)
    local = folder / ".dvc" / "config.local"
    if not local.exists():
        local.parent.mkdir(exist_ok=True)
        local.write_text(f"[cache]\n    dir = {Path('.dvc/cache').absolute()}\n")
    if not os.path.lexists(folder / INPUTS):
        (folder / INPUTS).symlink_to(Path(INPUTS).absolute())
    (folder / "params.yaml").write_text(format_preset(composed), encoding="utf-8")
    print(f"{folder}: {composed.path} on commit {commit[:12]}; uncommitted code is not used", file=sys.stderr)
    return folder


def _check_out(folder: Path, commit: str) -> None:
    """Bring an existing worktree to `commit`; it keeps its dvc.lock."""
    if _git("-C", str(folder), "rev-parse", "HEAD") == commit:
        return
    lock = folder / "dvc.lock"
    lock_bytes = lock.read_bytes() if lock.exists() else None
    _git("-C", str(folder), "checkout", "--quiet", "--force", "--detach", commit)
    if lock_bytes is not None:
        lock.write_bytes(lock_bytes)  # the record of what ran here; the commit's own is the sample's


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"git {' '.join(arguments)}: {done.stderr.strip()}; a preset runs on the code of a commit")
    return done.stdout.strip()
