"""A user's mistake or a full disk ends with one clear message and exit code 1, never with a traceback."""

import errno
import functools
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

NO_ROOM_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# The messages of NumPy's tofile and of safetensors, whose exceptions have no errno.
NO_ROOM_MESSAGE = re.compile(rf"\d+ requested and \d+ written|\(os error ({'|'.join(map(str, NO_ROOM_ERRNOS))})\)")
WRITTEN_FOLDERS = (".", ".cache", "data", "embeddings", "models", "results", "runs")  # each may be on its own disk


class UserError(ValueError):
    """A mistake that the user can correct: the message names the place, the value and the fix."""


def hide_credentials(text: str) -> str:
    """Return `text` without the user and password of any URI in it."""
    return re.sub(r"//[^/\s]*@", "//***@", text)


def report_user_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a script's `main` so that a `UserError` or a full disk is printed to stderr and becomes exit code 1."""

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except Exception as error:
            if not _is_full_disk(error):
                raise
            print(f"error: {_describe_full_disk(error)}", file=sys.stderr)
            sys.exit(1)

    return wrapped


def _is_full_disk(error: BaseException) -> bool:
    """Tell whether a full disk, a quota or the limit on a file's size caused the error."""
    return getattr(error, "errno", None) in NO_ROOM_ERRNOS or NO_ROOM_MESSAGE.search(str(error)) is not None


def _describe_full_disk(error: BaseException) -> str:
    """Return the message for the user: which folder's disk has the least room, and what to do."""
    paths = map(Path, (*WRITTEN_FOLDERS, tempfile.gettempdir()))
    folders = [path.resolve() for path in paths if path.is_dir()]
    free, folder = min((shutil.disk_usage(path).free, path) for path in folders)
    return (
        f"no room to write ({error}): {free >> 20} MB are free in {folder}; make room there, or lift the quota or "
        "the limit on file sizes (`ulimit -f`), and run the same command again: what is whole is kept"
    )
