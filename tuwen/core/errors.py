"""A user's mistake or a full disk ends with one clear message and a non-zero exit code, never with a traceback."""

import errno
import functools
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# How NumPy's tofile and safetensors say it; their exceptions hold no number.
SHORT_WRITE = re.compile(rf"\d+ requested and \d+ written|\(os error ({'|'.join(map(str, FULL))})\)")
WRITTEN = (".", ".cache", "data", "embeddings", "models", "results", "runs")  # each may be a disk of its own


class UserError(ValueError):
    """Something the user can mend: the message names the place, the value and the fix."""


def hide_credentials(text: str) -> str:
    """`text` without the user and password of any URI in it."""
    return re.sub(r"//[^/\s]*@", "//***@", text)


def reports_user_errors(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a script's `main`: a `UserError` or a full disk is printed to stderr and becomes exit code 1."""

    @functools.wraps(main)
    def wrapped() -> None:
        try:
            main()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        except Exception as error:
            if not is_full(error):
                raise
            print(f"error: {describe_full_disk(error)}", file=sys.stderr)
            sys.exit(1)

    return wrapped


def is_full(error: BaseException) -> bool:
    """Does the error say that a disk, a quota or the limit on a file's size left no room to write?"""
    return getattr(error, "errno", None) in FULL or SHORT_WRITE.search(str(error)) is not None


def describe_full_disk(error: BaseException) -> str:
    """What to tell of it: the folder on the disk that has the least room, and what to do."""
    places = [path.resolve() for path in map(Path, (*WRITTEN, tempfile.gettempdir())) if path.is_dir()]
    free, place = min((shutil.disk_usage(path).free, path) for path in places)
    return (
        f"no room to write ({error}): {free >> 20} MB are free in {place}; make room there, or lift the quota or "
        "the limit on file sizes (`ulimit -f`), and run the same command again: what is whole is kept"
    )
