"""Files and folders of a source: their names, and the image files that its tables name."""

import os
import re
from pathlib import Path

from tuwen.core.errors import UserError

DRIVE = re.compile(r"[A-Za-z]:/")  # of a Windows path


def make_relative(path: Path, root: Path) -> str:
    """Return `path` as seen from `root`, with / between folders."""
    return path.relative_to(root).as_posix()


def check_names(root: Path) -> None:
    """Raise UserError where a file or folder below `root` has a name that is not UTF-8."""
    for folder, folders, files in os.walk(root):
        for name in sorted(folders) + sorted(files):
            check_name(Path(folder) / name)


def check_name(path: Path) -> None:
    """Raise UserError where `path` is not UTF-8: no table, manifest or DVC file could name it."""
    try:
        path.as_posix().encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{str(path)!r}: the name is not UTF-8; rename it, and all like it, for names in GBK with "
            "`convmv -r -f gbk -t utf-8 --notest` and the folder"
        ) from None


def read_image_file(root: Path, name: str) -> tuple[bytes | None, str | None]:
    """Return (bytes, None) of the file `name` under `root`, or (None, fault) where it cannot be had.

    name: relative to `root`, with / or \\ between folders. An absolute name, or one that leaves `root` by .. or
    by a link, is "outside_source"; one that is no file is "missing". Raises UserError when a file cannot be read.
    """
    slashed = name.replace("\\", "/")
    if slashed.startswith("/") or DRIVE.match(slashed):
        return None, "outside_source"
    if "\0" in slashed:
        return None, "missing"
    base = os.path.realpath(root)
    path = os.path.realpath(os.path.join(base, slashed))
    if os.path.commonpath((base, path)) != base:
        return None, "outside_source"
    if not os.path.isfile(path):
        return None, "missing"
    try:
        with open(path, "rb") as file:
            return file.read(), None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; mend the file or its permissions") from None
