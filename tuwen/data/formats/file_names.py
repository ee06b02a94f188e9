"""The ways in which the name of a file may be read: as it stands, then with one change after the other."""

import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

DRIVE = re.compile(r"[A-Za-z]:/|//(?![?.]/)[^/]+/")  # of a Windows path: D:/, or //server/ of a share
SHARE = re.compile(r"(?:smb|cifs):(?=//)", re.IGNORECASE)
LONG_PATH = re.compile(r"//[?.]/(UNC/)?", re.IGNORECASE)  # how Windows itself writes a path of any length
ADDRESS_WITH_HOST = re.compile(
    r"\s*file:[/\\]{2}(?!localhost[/\\])[^/\\]", re.IGNORECASE
)  # file://server/share/1.jpg
BLANKS = "\u200b\u200e\u200f\ufeff"  # around a name, besides those of str.strip, which has U+3000


def compose_name(name: str) -> str:
    """Return a name as NFC."""
    return unicodedata.normalize("NFC", name)


def _fold_case(name: str) -> str:
    return compose_name(compose_name(name).casefold())


def normalise_name(name: str) -> str:
    """Return what names have in common that differ in Unicode form, case and blanks around them."""
    return _fold_case(_strip(name))


def list_readings(name: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the name as it is, and then with one more change at a time, each with what was changed so far."""
    ways, has_host = list[str](), ADDRESS_WITH_HOST.match(name)
    yield name, ways
    for way, read in READINGS:
        changed = read(name)
        if changed != name:
            name, ways = changed, [*ways, way]
            yield name, ways
    readings = [(name, ways)]
    for encoding in ("utf-8", "gb18030"):  # either may decode: %CD%BC is 图 in the one and ͼ in the other
        changed = unquote(name, encoding, "replace")
        if changed != name and "\ufffd" not in changed and "\0" not in changed:
            readings.append((changed, [*ways, "percent escapes"]))
    yield from readings[1:]
    if has_host:
        yield from ((f"//{reading}", changes) for reading, changes in readings)


def _strip(name: str) -> str:
    return name.strip().strip(BLANKS).strip()


def _read_address(name: str) -> str:
    """Return the path of a file: address, with the host in front of it: file://photos/1.jpg may mean a path."""
    if not name.lower().startswith("file:"):
        return name
    host, slash, path = name[5:].removeprefix("//").partition("/")
    if host not in ("", "localhost") or not name[5:].startswith("/"):
        return f"{host}{slash}{path}"
    return path if DRIVE.match(path) else f"/{path}"


FOLDS = (
    ("Unicode form (NFC, NFD)", compose_name),
    ("upper and lower case", _fold_case),
    ("blanks in the file's own name", normalise_name),
)
READINGS = (
    ("blanks around it", _strip),
    ("file:// address", _read_address),
    ("backslashes", lambda name: name.replace("\\", "/")),
    ("address of a share", lambda name: SHARE.sub("", name)),
    ("long Windows path", lambda name: LONG_PATH.sub(lambda match: "//" if match[1] else "", name, count=1)),
)
