"""What stands where a file should be: a pointer, a page, an archive, nothing, a picture of a form not read."""

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

# Pictures that every reader takes for such and names. Pillow decodes some of these forms, but trusts what a header
# says of the size, or has no first bytes to know them by.
UNREAD_EXTENSIONS = frozenset({"jp2", "j2k", "j2c", "jpc", "jpf", "jpx", "jxl", "pbm", "pgm", "ppm", "pnm", "pam"})
UNREAD_EXTENSIONS |= {"pfm", "tga", "psd", "ico", "svg", "pcx", "qoi", "dds", "exr", "hdr"}
UNREAD_REMEDY = "this form is not read, convert it to JPEG or PNG"
UNREAD_MAGIC = (  # first bytes -> the form
    (rb"\0\0\0\x0cjP  \r\n|\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"P[1-7Ff]\s", "PNM"),
    (rb"8BPS", "PSD"),
    (rb"\x00\x00[\x01\x02]\x00[^\x00]\x00", "ICO"),
    (rb"\s*(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?(?:<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]", "SVG"),
    (rb"\x0a[\x00-\x05]\x01[\x01\x02\x04\x08]", "PCX"),
    (rb"qoif", "QOI"),
    (rb"DDS ", "DDS"),
    (rb"\x76\x2f\x31\x01", "EXR"),
    (rb"#\?(?:RADIANCE|RGBE)", "HDR"),
    (rb".[\x00\x01][\x01-\x03\x09-\x0b].{13}[\x08\x0f\x10\x18\x20]", "TGA"),  # which has no mark at its start
)
UNREAD_FORMS = tuple(form for _, form in UNREAD_MAGIC)


def refuse_impostor(path: Path, expected: str, others: Sequence[Impostor] = ()) -> None:
    """Raise UserError where the file is empty, or a pointer, page, archive or one of `others` for `expected`."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise UserError(f"{path}: no {expected}: the file is empty (0 bytes); fetch it again")
    if found := find_impostor(head, others):
        magic, what, remedy = found
        size = re.search(rb"\nsize (\d+)", head)
        of = f" to a file of {int(size[1]):,} bytes" if size and b"git-lfs" in magic else ""
        raise UserError(f"{path}: no {expected}: it is {what}{of}; {remedy}")


def find_impostor(data: bytes, others: Sequence[Impostor] = ()) -> Impostor | None:
    """Return first bytes, name and remedy of the pointer, page or archive that this is; None for none of them."""
    start = data[:HEAD_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((one for one in (*IMPOSTORS, *others) if start.startswith(one[0])), None)


def find_unread_form(data: bytes) -> str | None:
    """Return the form that bytes seem to be, which are no picture that is read; None where it is none of these."""
    head = data[:1024]
    return next((form for start, form in UNREAD_MAGIC if re.match(start, head, re.DOTALL)), None)
