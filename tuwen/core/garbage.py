"""What nothing needs any more leaves DVC's cache, which all presets share."""

import subprocess
import sys
from pathlib import Path

from tuwen.core.dvc_settings import locate_dvc_cache
from tuwen.core.errors import UserError
from tuwen.core.worktree import WORKTREES, require_own_checkout, require_top

KEPT = ("--workspace", "--rev", "HEAD", "--all-branches", "--all-tags", "--all-experiments")


def collect_garbage() -> None:
    """Remove what no branch, tag, experiment or preset needs from DVC's cache; `dvc gc` knows this folder alone.

    A preset needs what the dvc.lock of its worktree and of that worktree's commit record.
    Raises UserError where the checkout is not the user's own or its cache may serve others, and where DVC fails.
    """
    require_own_checkout()
    require_top()
    cache, here = locate_dvc_cache(), Path.cwd()
    projects = sorted(str(lock.parent) for lock in WORKTREES.glob("*/dvc.lock"))
    command = ["gc", *KEPT, "--projects", *projects]
    if not cache.resolve().is_relative_to(here.resolve()):
        raise UserError(
            f"DVC's cache {cache} lies outside this checkout and may hold what others need; name them all: "
            f"`dvc {' '.join(command)} OTHER_CHECKOUT …`"
        )
    done = subprocess.run([sys.executable, "-m", "dvc", *command, "--force"], check=False)
    if done.returncode != 0:
        raise UserError("dvc gc removed nothing; what it says above stands in the way")
