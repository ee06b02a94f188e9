"""Tar shards (WebDataset layout): deterministic bytes, sequential writing, random access by offset."""

import hashlib
import io
import itertools
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

from tuwen.core.errors import UserError

PICTURES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp"})
CAPTIONS = frozenset({"txt", "json"})
MAX_MEMBER_BYTES = 1 << 28  # above any picture or caption; a header may promise more than memory holds
MAX_NAME_CHARS = 200  # of a member that we write; file systems take names of 255 bytes
STREAM_BYTES = 1 << 16  # tarfile copies what is left of this much with every header
# what tarfile raises on bytes that are no tar: its own errors, and those of the numbers and texts in a header
BROKEN = (tarfile.TarError, ValueError, ArithmeticError, LookupError, EOFError, OSError, RecursionError, TypeError)


class Member(NamedTuple):
    """Where one file's bytes lie: shard path relative to the data root, offset and size in bytes."""

    shard: str
    offset: int
    size: int
    sha256: str


class Sample(NamedTuple):
    """One key of a WebDataset tar. With a `fault` (one of sources.records.FAULTS) it is no pair."""

    key: str  # the member's name up to the first dot of its last part
    picture: bytes | None
    captions: list[str]  # none where the key has no caption: that is no fault
    fault: str | None = None


class ShardWriter:
    """Write members into `root/folder/000000.tar`, `000001.tar`, …; a new tar starts after `max_bytes`."""

    def __init__(self, root: Path, folder: str, max_bytes: int = 512 << 20, first: int = 0) -> None:
        self.root, self.folder, self.max_bytes = root, folder, max_bytes
        self._next = first
        self._tar: tarfile.TarFile | None = None
        (root / folder).mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tar is not None:
            self._tar.close()

    def add(self, name: str, data: bytes) -> Member:
        """Append one member and say where its bytes lie; its name is made safe to unpack."""
        tar = self._tar
        if tar is None or tar.offset > self.max_bytes:
            tar = self._start_shard()
        info = tarfile.TarInfo(_member_name(name))  # mtime 0, owner 0: the bytes depend on names and data alone
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
        padding = -len(data) % tarfile.BLOCKSIZE
        offset = tar.offset - padding - len(data)
        return Member(self._shard, offset, len(data), hashlib.sha256(data).hexdigest())

    def _start_shard(self) -> tarfile.TarFile:
        if self._tar is not None:
            self._tar.close()
        self._shard = f"{self.folder}/{self._next:06d}.tar"
        self._next += 1
        self._tar = tarfile.TarFile(self.root / self._shard, mode="w", format=tarfile.PAX_FORMAT)
        return self._tar


def _member_name(name: str) -> str:
    """A name that any tool can unpack below its folder; it need not be unique, the tables go by offset."""
    parts = re.split(r"[/\\]", re.sub(r"[\x00-\x1f\x7f]", "_", name[-MAX_NAME_CHARS:]))
    return "/".join(part for part in parts if part not in ("", ".", "..")) or "_"


def read_member(root: Path, shard: str, offset: int, size: int) -> bytes:
    """The bytes of one member. Raises UserError when the shard is missing or too short."""
    try:
        with open(root / shard, "rb") as file:
            file.seek(offset)
            data = file.read(size)
    except FileNotFoundError:
        raise UserError(f"{root / shard}: this shard is missing; run `dvc repro` or `dvc pull`") from None
    if len(data) != size:
        raise UserError(f"{root / shard}: ends before byte {offset + size}; remove it and run `dvc repro`")
    return data


def read_samples(file: BinaryIO, caption_key: str) -> Iterator[Sample]:
    """The keys of a tar from anywhere, one at a time, in order; `file` need not be seekable.

    Members of one key stand side by side (https://github.com/webdataset/webdataset). Of a key: its picture, the
    whole of its txt but line ends, and `caption_key` of its json, a string or a list of them; other members are
    passed by, as are hidden files and names without a dot. A second picture starts a new sample. Faults:
    "missing" (no picture), "unreadable_record" (caption that cannot be read, member that is cut or too large, a
    tar without its end), "outside_source" (link, device, absolute name or one with ..).
    Raises UserError that names the tar and the byte where it is no tar.
    """
    for key, parts in itertools.groupby(_parts(file), lambda part: part.key):
        held: list[_Part] = []
        for part in parts:
            if any(part.field == other.field for other in held):
                yield _sample(key, held, caption_key)
                held = []
            held.append(part)
        yield _sample(key, held, caption_key)


def count_pairs(file: BinaryIO) -> int:
    """How many keys of a tar have both a picture and a caption, by the names of its members."""
    groups = itertools.groupby(_parts(file, load=False), lambda part: part.key)
    fields = ({part.field for part in parts if part.fault is None} for _, parts in groups)
    return sum("picture" in found and not CAPTIONS.isdisjoint(found) for found in fields)


class _Part(NamedTuple):
    key: str
    field: str  # "picture", or the extension
    data: bytes = b""
    fault: str | None = None


def _sample(key: str, parts: list[_Part], caption_key: str) -> Sample:
    if faults := [part.fault for part in parts if part.fault]:
        return Sample(key, None, [], faults[0])
    picture = next((part.data for part in parts if part.field == "picture"), None)
    try:
        said = {part.field: _captions(part, caption_key) for part in parts if part.field in CAPTIONS}
    except (ValueError, RecursionError):
        return Sample(key, None, [], "unreadable_record")
    captions = said.get("json", [])
    captions += [text for text in said.get("txt", []) if text.strip() not in map(str.strip, captions)]
    return Sample(key, picture, captions, "missing" if picture is None else None)


def _captions(part: _Part, caption_key: str) -> list[str]:
    """Raises ValueError where the bytes are no text, no json object, or hold something else than texts."""
    text = _decoded(part.data)
    if part.field == "txt":
        return [text.rstrip("\r\n")]
    found = json.loads(text)
    captions = found.get(caption_key) or [] if isinstance(found, dict) else None
    captions = [captions] if isinstance(captions, str) else captions
    if not (isinstance(captions, list) and all(isinstance(caption, str) for caption in captions)):
        raise ValueError("no texts")
    # half of a surrogate pair can stand in json, but in no table
    return [caption.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") for caption in captions]


def _decoded(data: bytes, errors: str = "strict") -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("gb18030", errors)


class _Header(tarfile.TarInfo):
    """A header that is read with more care than tarfile takes."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> "_Header":
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (info.size > MAX_MEMBER_BYTES and info.type in b"LKxgX"):  # long names, pax records
            raise tarfile.HeaderError(f"a header of {info.size} bytes")
        return info

    @classmethod
    def fromtarfile(cls, archive: Any) -> "_Header":
        archive.whole = False  # `TarFile.next` takes a broken header for the end
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            archive.whole = True
            raise


class _Archive(tarfile.TarFile):
    tarinfo = _Header
    whole = False  # whether what was read last is the end mark


def _parts(file: BinaryIO, load: bool = True) -> Iterator[_Part]:
    """The members that can belong to a sample; without `load` nothing is read of them."""
    archive: Any = None
    broken, named = None, False
    try:
        archive = _Archive.open(fileobj=file, mode="r|*", encoding="utf-8", bufsize=STREAM_BYTES)
        while (info := archive.next()) is not None:
            archive.members.clear()  # a kilobyte for each member
            part = _part(archive, info, load)
            if part is not None:
                yield part
            named = part is not None and part.fault == "unreadable_record"
            _skip(archive)
    except BROKEN as error:
        broken = error
    if archive is None or not _ended(archive, broken):
        place, offset = getattr(file, "name", "this tar"), archive.offset if archive else 0
        raise UserError(f"{place}: no tar from byte {offset} on ({broken or 'bad header'}); get or write it again")
    if not (archive.whole or named):
        yield _Part(f"byte {archive.offset}", "", fault="unreadable_record")


def _ended(archive: Any, broken: Exception | None) -> bool:
    """Whether the stream ends here; after an end mark zeros may follow."""
    archive.whole = archive.whole and broken is None
    try:
        rest = iter(lambda: archive.fileobj.read(STREAM_BYTES), b"")
        return not any(chunk.strip(b"\0") or not archive.whole for chunk in rest)
    except BROKEN:
        return False


def _skip(archive: Any) -> None:
    """Go to the next header; by reading, since `TarFile` would seek in the steps of a size that may be a lie."""
    while (left := archive.offset - archive.fileobj.tell()) > 0:
        if not archive.fileobj.read(min(left, STREAM_BYTES)):
            raise tarfile.ReadError("unexpected end of data")


def _part(archive: Any, info: tarfile.TarInfo, load: bool) -> _Part | None:
    name = _decoded(info.name.encode("utf-8", "surrogateescape"), "replace")
    folder, _, base = name.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    key = f"{folder}/{stem}" if folder else stem
    if name.startswith("/") or ".." in name.split("/") or not (info.isreg() or info.isdir()):
        return _Part(key, extension, fault="outside_source")
    if info.isdir() or not stem or not extension:
        return None
    field = "picture" if extension.lower() in PICTURES else extension.lower()
    if not load or (field != "picture" and field not in CAPTIONS):
        return _Part(key, field)
    try:
        data = archive.extractfile(info).read() if info.size <= MAX_MEMBER_BYTES else None
    except tarfile.ReadError:  # the tar ends here
        data = None
    return _Part(key, field, data or b"", "unreadable_record" if data is None else None)
