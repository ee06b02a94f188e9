"""Names of a tar's members: programs before pax wrote them in the encoding of their machine, GBK or Big5."""

import io
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from tuwen.data.formats.foreign_text.encoding import infer_bytes_encoding

MAX_NAME_BYTES = 1 << 20  # of all names together: so many tell the encoding


class TarNames:
    """Decodes the names of one tar, all in the encoding that fits them together, asked for when it is needed."""

    def __init__(
        self, list_raw: Callable[[], Iterator[bytes]] | None, said: str | None, notes: Counter[str]
    ) -> None:
        """list_raw: yields all names; None where the tar can be read once only. said: an encoding, by a person."""
        self._list_raw, self._said, self._notes = list_raw, said, notes
        self._encoding: str | None = None
        self._is_inferred = False

    def decode(self, info: tarfile.TarInfo) -> str:
        """Return the name; of one whose encoding cannot be told, or that is not of it, UTF-8 or else GB18030."""
        raw = get_raw_name(info)
        if raw.isascii() or "path" in info.pax_headers:
            return raw.decode("utf-8", "replace").removeprefix("\ufeff")
        if not self._is_inferred:
            self._is_inferred = True
            self._encoding = self._infer(raw)
        for encoding in filter(None, (self._encoding, self._said, "utf-8", "gb18030")):
            try:
                name = raw.decode(encoding)
            except UnicodeDecodeError:
                continue
            if encoding != self._encoding:
                self._notes[f"names of members whose encoding cannot be told, read as {encoding}"] += 1
            elif encoding != "utf-8":
                self._notes[f"names of members read as {encoding}"] += 1
            return name.removeprefix("\ufeff")
        self._notes["names of members that are of no encoding"] += 1
        return raw.decode("gb18030", "replace")

    def _infer(self, first: bytes) -> str | None:
        raw, size = list[bytes](), 0
        for name in self._list_raw() if self._list_raw else (first,):
            raw.append(name)
            size += len(name)
            if size > MAX_NAME_BYTES:
                break
        return infer_bytes_encoding(b"\n".join(raw))


def get_raw_name(info: tarfile.TarInfo) -> bytes:
    """Return the bytes of the name of a member that tarfile read as UTF-8."""
    return info.name.encode("utf-8", "surrogateescape")


def list_raw_names(file: Any, kind: type[tarfile.TarFile], broken: tuple[type[Exception], ...]) -> Iterator[bytes]:
    """Yield the names beyond ASCII of a file that can be read from its start, and leave it where it is.

    kind, broken: what reads it, and what that raises where the tar is broken; there the names end.
    """
    here = file.tell()
    try:
        file.seek(0)
        archive: Any = kind.open(fileobj=file, mode="r:*", encoding="utf-8")
        while (info := archive.next()) is not None:
            archive.members.clear()
            if not info.name.isascii() and "path" not in info.pax_headers:
                yield get_raw_name(info)
    except broken:
        return
    finally:
        file.seek(here)


def is_seekable(file: Any) -> bool:
    """Whether a file can be read again from its start."""
    return isinstance(file, io.IOBase) and file.seekable()
