"""Git worktrees in which presets run, so that the user's `params.yaml` is never overwritten."""

import os
import subprocess
import sys
from pathlib import Path

from tuwen.core.dvc_settings import CACHE, copy_dvc_settings
from tuwen.core.errors import UserError
from tuwen.core.presets import compose_preset, format_preset

WORKTREES = Path(".worktrees")
INPUTS = "inputs"  # where presets expect a user's own data, ignored by git
_CODE = ("tuwen", "stages", "flows", "dvc.yaml", "constraints.txt", "versions.yaml")  # what runs there


def make_worktree(preset: str) -> Path:
    """Return the folder to run `preset` in: this one for "" and "sample", else a git worktree under .worktrees/.

    The worktree is created, or brought to the commit that is checked out here. It has this checkout's DVC
    settings, and with them its cache; its params.yaml is the whole that presets/<preset>.yaml composes to; its
    inputs/ is a link to ours; its dvc.lock stays its own. All of that is made sure of at each call. Nothing else
    in it is kept: work here, not there.
    Raises UserError when the preset is missing or does not compose, before git's first commit, where this folder
    is no repository's top or cannot be written, and where code was changed there.
    """
    require_own_checkout()
    if preset in ("", "sample"):
        return Path(".")
    composed = compose_preset(preset)
    commit, folder = _git("rev-parse", "--verify", "HEAD"), WORKTREES / preset
    require_top()
    try:
        if _is_ours(folder):
            _check_out(folder, commit)
        else:
            _add(folder, commit)
        _refuse_edits(folder, commit)
        settings = copy_dvc_settings(folder)
        _link_inputs(folder)
        (folder / "params.yaml").write_text(format_preset(composed), encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be made ({error}); a preset needs a checkout that is writable"
        ) from None
    uses = f"{composed.path} on commit {commit[:12]}, DVC's cache {settings[CACHE]}"
    print(f"{folder}: {uses}; uncommitted code is not used", file=sys.stderr)
    return folder


def require_own_checkout() -> None:
    """Raise UserError where this checkout cannot be written: DVC needs room for its notes, even to look."""
    for folder in (Path("."), Path(".dvc"), Path(".dvc/tmp")):
        if folder.exists() and not os.access(folder, os.W_OK):
            raise UserError(
                f"{Path.cwd() / folder} cannot be written; clone or copy the checkout to a folder of yours"
            )


def require_top() -> None:
    """Raise UserError where git does not answer here, or answers for a repository around this folder."""
    top = Path(_git("rev-parse", "--show-toplevel"))
    if not top.samefile(Path.cwd()):
        raise UserError(
            f"{Path.cwd()} lies inside the git repository {top}, which is not its own; a preset runs in a "
            "worktree of a repository: clone this project by itself, or `git init` and commit here"
        )


def _is_ours(folder: Path) -> bool:
    """Whether git knows `folder` as a worktree of this repository; a copied or moved one names the old place."""
    if not (folder / ".git").exists():
        return False
    done = _run_git("-C", str(folder), "rev-parse", "--show-toplevel", "--git-common-dir")
    if done.returncode != 0:
        return False
    top, common = done.stdout.splitlines()
    ours = Path(_git("rev-parse", "--git-common-dir")).resolve()
    return Path(top).resolve() == folder.resolve() and (folder / common).resolve() == ours


def _add(folder: Path, commit: str) -> None:
    """Make the worktree; in a folder that was cut off from its repository, outs and dvc.lock stay."""
    aside = folder.with_name(f"{folder.name}.kept")
    if folder.exists():
        folder.rename(aside)
    try:
        _git("worktree", "add", "--quiet", "--force", "--detach", "--no-checkout", str(folder), commit)
    finally:
        if aside.exists():
            (aside / ".git").unlink(missing_ok=True)
            if folder.exists():
                (folder / ".git").rename(aside / ".git")
                folder.rmdir()
            aside.rename(folder)
    _check_out(folder, commit, anew=True)


def _check_out(folder: Path, commit: str, *, anew: bool = False) -> None:
    """Bring an existing worktree to `commit`; it keeps its dvc.lock."""
    if not anew and _git("-C", str(folder), "rev-parse", "HEAD") == commit:
        return
    lock = folder / "dvc.lock"
    lock_bytes = lock.read_bytes() if lock.exists() else None
    _git("-C", str(folder), "checkout", "--quiet", "--force", "--detach", commit)
    if lock_bytes is not None:
        lock.write_bytes(lock_bytes)  # the record of what ran here; the commit's own is the sample's


def _refuse_edits(folder: Path, commit: str) -> None:
    """Raise UserError where the code in the worktree is not the commit's."""
    code = [name for name in _CODE if (folder / name).exists()]
    status = ("-C", str(folder), "status", "--porcelain", "--untracked-files=all", "--")
    if code and (changed := _git(*status, *code)):
        names = ", ".join(line[3:] for line in changed.splitlines()[:3])
        raise UserError(
            f"{folder}: its code is not that of commit {commit[:12]}: {names}; work in {Path.cwd()} and commit "
            f"there; `git -C {folder} stash --include-untracked -- {' '.join(code)}` takes the changes away"
        )


def _link_inputs(folder: Path) -> None:
    """Make inputs/ a link to ours, relative, so that it holds where the whole checkout is moved."""
    link, target = folder / INPUTS, os.path.relpath(INPUTS, folder)
    if link.is_symlink() and os.readlink(link) != target:
        link.unlink()
    if not os.path.lexists(link):
        link.symlink_to(target)


def _git(*arguments: str) -> str:
    done = _run_git(*arguments)
    if done.returncode != 0:
        why = " ".join(done.stderr.split())
        raise UserError(f"git {' '.join(arguments)}: {why}; a preset runs on the code of a commit")
    return done.stdout.rstrip("\n")


def _run_git(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run git without the hooks of the user, which are written for other occasions."""
    command = ["git", "-c", f"core.hooksPath={os.devnull}", *arguments]
    try:
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="surrogateescape", check=False
        )
    except FileNotFoundError:
        raise UserError("git is not installed; a preset runs on the code of a commit") from None
