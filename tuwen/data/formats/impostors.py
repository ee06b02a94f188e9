"""What stands where a file should be: a pointer, a page, an archive, nothing."""

import re
from collections.abc import Sequence
from pathlib import Path

from tuwen.core.errors import UserError

HEAD_BYTES = 512
RAW_FILE = "fetch the raw file (on a hub …/resolve/…, not …/blob/…), with a login if asked"
# What stands where a file should be: its first bytes in lower case -> what it is, and what gets the file
IMPOSTORS = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer",
        "run `git lfs pull` in that clone, or fetch the file itself",
    ),
    (b"<!doctype html", "a web page", RAW_FILE),
    (b"<html", "a web page", RAW_FILE),
    (b"<?xml", "the XML message of a file server", "fetch the file again, with a login if asked"),
    (b'{"error', "the error message of a server", "fetch the file again, with a login if asked"),
    (b"\x1f\x8b", "a gzip archive", "unpack it and name the file in it"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it and name the file in it"),
    (b"rar!", "a RAR archive", "unpack it and name the file in it"),
)
Impostor = tuple[bytes, str, str]
WORKBOOKS: tuple[Impostor, ...] = (  # in place of a table; weights may be a zip
    (b"pk\x03\x04", "a zip archive, or a workbook of Excel", "unpack it, or save its sheet as CSV UTF-8"),
    (b"\xd0\xcf\x11", "a workbook of Excel", "save its sheet as CSV UTF-8"),
)


def refuse_impostor(path: Path, expected: str, others: Sequence[Impostor] = ()) -> None:
    """Raise UserError where the file is empty, or a pointer, page, archive or one of `others` for `expected`."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise UserError(f"{path}: no {expected}: the file is empty (0 bytes); fetch it again")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for magic, what, remedy in (*IMPOSTORS, *others):
        if start.startswith(magic):
            size = re.search(rb"\nsize (\d+)", head)
            of = f" to a file of {int(size[1]):,} bytes" if size and b"git-lfs" in magic else ""
            raise UserError(f"{path}: no {expected}: it is {what}{of}; {remedy}")
