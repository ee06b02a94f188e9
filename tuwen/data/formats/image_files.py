"""Image files: which names mean one, which file a name means, and their bytes before they are decoded."""

import binascii
import os
import re
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path, PurePath
from typing import NamedTuple

from tuwen.data.formats.file_names import DRIVE, FOLDS, compose_name, list_readings, normalise_name
from tuwen.data.formats.impostors import UNREAD_EXTENSIONS

# what `images.py` decodes, and HEIC, which it names where it cannot
IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "jpe", "jfif", "png", "apng", "gif", "webp", "bmp", "dib"})
IMAGE_EXTENSIONS |= {"tif", "tiff", "avif", "avifs", "heic", "heif", "hif"}
SYSTEM_NAMES = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini"})  # of Windows, and of a Mac's zip
MOST_REMEMBERED = 1 << 16  # names, so that a table which names each image often asks the disk once
AMBIGUOUS = "several files fit"
MAGIC = (  # first bytes -> extension
    (rb"\xff\xd8\xff", "jpg"),
    (rb"\x89PNG", "png"),
    (rb"GIF8", "gif"),
    (rb"RIFF....WEBP", "webp"),
    (rb"BM....\0\0\0\0", "bmp"),
    (rb"II[*+]\0|MM\0[*+]", "tif"),
    (rb"....ftypavi[fs]", "avif"),
    (rb"....ftyp(?:hei[cxms]|hev[cx]|mif1|msf1)", "heic"),
)
USED_CHUNKS = (b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT")  # of a PNG, beside those that it must have
EXIF_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"Raw profile type APP1\0")
MAX_EXIF_BYTES = 1 << 16
DATA_ADDRESS = re.compile(rb"data:[^,]{0,200};base64,", re.IGNORECASE)
REPRESENTED = (b"b'", b'b"')  # bytes as Python's str writes them
URL_SAFE = bytes.maketrans(b"-_", b"+/")


def is_hidden(path: PurePath | str) -> bool:
    """Whether a part of `path` is no file of a person: .DS_Store, ._1.jpg, Thumbs.db, what lies in __MACOSX."""
    parts = re.split(r"[/\\]", str(path))
    return any((part[:1] == "." and part.strip(".")) or part.casefold() in SYSTEM_NAMES for part in parts)


def is_image_name(path: PurePath | str) -> bool:
    """Whether a file of this name should be an image: by its extension, and not hidden."""
    return is_image_extension(PurePath(path).suffix[1:]) and not is_hidden(path)


def is_image_extension(extension: str) -> bool:
    """Whether a file of this extension, without its dot, should be an image, be it one that is not read."""
    return extension.strip().lower() in IMAGE_EXTENSIONS | UNREAD_EXTENSIONS


def find_extension(data: bytes) -> str | None:
    """Return the extension that the first bytes of an encoded image ask for; None where they begin no image."""
    return next((name for start, name in MAGIC if re.match(start, data, re.DOTALL)), None)


def remove_notes(data: bytes) -> bytes:
    """Return a PNG without what is not used: colour profiles, texts, times, and what else viewers pass over.

    Pillow refuses a PNG for a profile or a text of more than a megabyte, and for a slip in any of them.
    """
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    kept, start = [data[:8]], 8
    while (end := start + 12 + int.from_bytes(data[start : start + 4])) <= len(data):
        chunk = data[start:end]
        # an upper case letter marks what no reader may pass over; EXIF may stand in a text, where it is short
        used = chunk[4:8] in USED_CHUNKS or (len(chunk) < MAX_EXIF_BYTES and chunk[8:].startswith(EXIF_TEXTS))
        if chunk[4:5].isupper() or (used and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])):
            kept.append(chunk)
        start = end if chunk[4:8] != b"IEND" else len(data)
    return b"".join([*kept, data[start:]])


def decode_base64(text: bytes) -> bytes | None:
    """Decode base64, plain, URL-safe, in lines, as b'…' or behind `data:…;base64,`; None where it is broken."""
    text = text.strip()
    if text.startswith(REPRESENTED) and text.endswith(text[1:2]):
        text = text[2:-1]
    head = DATA_ADDRESS.match(text)
    plain = text[head.end() if head else 0 :].translate(URL_SAFE, b"\r\n")
    try:
        return binascii.a2b_base64(plain + b"=" * (-len(plain) % 4), strict_mode=True)
    except binascii.Error:
        return None


def is_base64_image(text: bytes) -> bool:
    """Whether this is an image in base64, be it broken further on, and no path: by the first bytes in it."""
    start = text[:300].lstrip()
    start = start[2:] if start.startswith(REPRESENTED) else start
    if DATA_ADDRESS.match(start):
        return True
    head = start.translate(None, b"\r\n")[:32]
    return len(head) == 32 and find_extension(decode_base64(head) or b"") is not None


class FoundFile(NamedTuple):
    """What a name means."""

    path: str | None  # of the file, with all links followed; None where there is none
    name: str  # of the file from the root, as it is on disk, with / between folders; else as it was asked for
    way: str | None = None  # how the name had to be read to fit, or why it does not; None: exactly, or not at all
    fault: str | None = None  # "missing" or "outside_source" (`pairs.FAULTS`)


class ImageFiles:
    """The files below a folder, found by the names that people write.

    A file of exactly this name comes first. Else the name is read without the blanks around it, as a file://
    address, with / for \\, with its percent escapes decoded, as an absolute path into the folder, as a path on
    the Windows machine or share where the folder once lay; then in another Unicode form (NFC, NFD); then without
    regard to upper and lower case, and to blanks around the file's own name. It counts only where exactly one file
    fits.
    """

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self._listed: dict[str, dict[str, list[str]]] = {}  # folder -> folded name -> names
        self._drive: str | None = None  # what stood for `root` on a Windows machine: one answer for all names
        self._look_ups: tuple[Callable[[str, list[str]], FoundFile], ...] = (
            self._find_exact,
            *(partial(self._find_folded, *level) for level in FOLDS),
        )
        self.find = lru_cache(MOST_REMEMBERED)(self._find)

    def _find(self, name: str) -> FoundFile:
        """Return the file that `name` means; a link that leads out of the folder is not followed."""
        if "\0" in name:
            return FoundFile(None, name, fault="missing")
        for look_up in self._look_ups:
            for reading, ways in list_readings(name):
                found = look_up(reading, ways)
                if found.path or found.way:
                    return found._replace(name=found.name if found.path else name)
        return FoundFile(None, name, fault=self._find_exact(reading, ways).fault)  # as it was read to the end

    def _find_exact(self, reading: str, ways: list[str]) -> FoundFile:
        if DRIVE.match(reading):
            return self._find_on_drive(reading, ways)
        path = os.path.realpath(os.path.join(self.root, reading))
        if os.path.commonpath((self.root, path)) != self.root or "://" in reading:
            return FoundFile(None, reading, fault="outside_source")
        if not os.path.isfile(path):
            return FoundFile(None, reading, fault="missing")
        if os.path.isabs(reading):
            ways = [*ways, "absolute path"]
        straight = not os.path.isabs(reading) and ".." not in reading.split("/")
        inside = os.path.normpath(reading) if straight else os.path.relpath(path, self.root)
        return FoundFile(path, inside, " and ".join(ways) or None)

    def _find_on_drive(self, reading: str, ways: list[str]) -> FoundFile:
        """Find C:/li/photos/1.jpg, or //server/photos/1.jpg, as photos/1.jpg or 1.jpg, where one is a file."""
        way = "network share" if reading.startswith("//") else "Windows drive"
        parts = [part for part in reading.split("/") if part]
        for look_up in self._look_ups:
            fitting = dict[str, FoundFile]()
            for number in range(1, len(parts)):
                drive, rest = "/".join(parts[:number]), "/".join(parts[number:])
                if self._drive in (None, drive.casefold()) and not DRIVE.match(rest):
                    found = look_up(rest, [*ways, way])
                    fitting |= {drive.casefold(): found} if found.path else {}
            if len(fitting) == 1:
                ((self._drive, found),) = fitting.items()
                return found
            if fitting:
                return FoundFile(None, reading, AMBIGUOUS, "missing")
        return FoundFile(None, reading, fault="outside_source")

    def _find_folded(self, way: str, fold: Callable[[str], str], reading: str, ways: list[str]) -> FoundFile:
        """Find the only file whose name differs in no more than what `fold` levels."""
        nothing = FoundFile(None, reading, fault="missing")
        whole, root = compose_name(reading), compose_name(self.root)
        if whole.startswith(f"{root}/"):
            whole, ways = whole[len(root) + 1 :], [*ways, "absolute path"]
        parts = [part for part in whole.split("/") if part not in ("", ".")]
        if not parts or ".." in parts or whole.startswith("/") or DRIVE.match(whole):
            return nothing
        fitting = [os.path.relpath(path, self.root) for path in self._expand(self.root, parts)]
        fitting = [path for path in fitting if [*map(fold, path.split("/"))] == [*map(fold, parts)]]
        if len(fitting) == 1:
            return self._find_exact(fitting[0], [*ways, way])
        return nothing._replace(way=AMBIGUOUS) if fitting else nothing

    def _expand(self, folder: str, parts: list[str]) -> Iterator[str]:
        """Yield the files below `folder` whose path folds to the same as `parts` do."""
        for name in self._list(folder).get(normalise_name(parts[0]), ()):
            path = f"{folder}/{name}"
            if len(parts) > 1:
                yield from self._expand(path, parts[1:])
            elif os.path.isfile(path):
                yield path

    def _list(self, folder: str) -> dict[str, list[str]]:
        if folder not in self._listed:
            names: dict[str, list[str]] = {}
            for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
                names.setdefault(normalise_name(name), []).append(name)
            self._listed[folder] = names
        return self._listed[folder]
