"""A copy of the working tree, as git has or would take it, in a repository of its own; nothing has run in it."""

import shutil
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
AUTHOR = ("-c", "user.name=t", "-c", "user.email=t@example.org")


def lay_out(folder: Path) -> None:
    """Copy the files to `folder`, which exists; not dvc.lock, which tells what has run."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (REPOSITORY / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)


def commit(folder: Path) -> None:
    """Make `folder` a repository where it is none, and commit all that stands in it."""
    for command in (("init", "--quiet"), ("add", "--all"), (*AUTHOR, "commit", "--quiet", "-m", "start")):
        subprocess.run(["git", *command], cwd=folder, check=True)
