"""WebDataset tars from anywhere, read as a stream.

`read_samples` yields the samples of a tar, `count_pairs` counts them by their names. listed_shard.py opens what is
read, wherever it lies.
"""

import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO, NamedTuple

from tuwen.core.errors import UserError
from tuwen.data.formats.file_names import compose_name
from tuwen.data.formats.foreign_tar.tar_keys import CAPTION_KINDS, KeyedParts, TarPart, group_parts
from tuwen.data.formats.foreign_tar.tar_names import TarNames, is_seekable, list_raw_names
from tuwen.data.formats.foreign_text.encoding import decode_text
from tuwen.data.formats.foreign_text.mangled import find_mangled
from tuwen.data.formats.image_files import is_hidden, is_image_extension
from tuwen.data.formats.text_files import HALVES, parse_json

MAX_MEMBER_BYTES = 1 << 28  # above any image or caption; a header may promise more than memory holds
STREAM_BYTES = 1 << 16  # tarfile copies what is left of this much with every header
# what tarfile raises on bytes that are no tar: its own errors, and those of the numbers and texts in a header
BROKEN = (tarfile.TarError, ValueError, ArithmeticError, LookupError, EOFError, OSError, RecursionError, TypeError)
CURRENT_FOLDER = re.compile(r"^(?:\./+)+")


class Sample(NamedTuple):
    """One key of a WebDataset tar. With a `fault` (one of `pairs.FAULTS`) it is no pair."""

    key: str  # what the names of its members have in common; key@n where it came before in its tar
    image: bytes | None
    captions: list[str]  # empty where the key has no caption, which is no fault
    fault: str | None = None


def read_samples(
    file: BinaryIO,
    caption_key: str,
    encoding: str | None = None,
    left_over: Counter[str] | None = None,
    notes: Counter[str] | None = None,
) -> Iterator[Sample]:
    """Yield the keys of a tar from anywhere, one at a time, in order; `file` need not be seekable.

    Members of one key are adjacent (https://github.com/webdataset/webdataset); tar_keys.py says which these are.
    A key has an image, captions from its txt (whole, but for line ends at its end) and from `caption_key` of its
    json (a string or a list of them). encoding: of the captions, where a person knows; None: each is UTF-8, or
    what it clearly is. left_over: what the members of no sample are -> how many; notes: what a person should know
    of members -> how many; both are counted up.
    Faults: "missing" (no image), "unreadable_record" (a caption that cannot be read, a member that is cut or too
    large, a tar without its end), "outside_source" (a link, a device, an absolute name or one with ..).
    Raises UserError that names the tar and the byte from which on it is no tar, and as `tar_keys.group_parts`.
    """
    left_over, notes = Counter() if left_over is None else left_over, Counter() if notes is None else notes
    names = _open_names(file, encoding, notes)
    for one in group_parts(_parts(file, left_over, names), _name(file), left_over):
        yield _sample(one, caption_key, encoding, notes)


def count_pairs(file: BinaryIO, left_over: Counter[str] | None = None) -> int:
    """Return how many keys of a tar have both an image and a caption, by its members' names; as `read_samples`."""
    left_over = Counter() if left_over is None else left_over
    names = _open_names(file, None, Counter())
    keyed = group_parts(_parts(file, left_over, names, load=False), _name(file), left_over)
    return sum(one.image is not None and bool(one.captions) for one in keyed)


def _name(file: BinaryIO) -> str:
    return str(getattr(file, "name", "this tar"))


def _open_names(file: BinaryIO, encoding: str | None, notes: Counter[str]) -> TarNames:
    again = partial(list_raw_names, file, _Archive, BROKEN) if is_seekable(file) else None
    return TarNames(again, encoding, notes)


def _sample(one: KeyedParts, caption_key: str, encoding: str | None, notes: Counter[str]) -> Sample:
    if one.fault:
        return Sample(one.key, None, [], one.fault)
    captions = list[str]()
    try:
        for part in sorted(one.captions, key=lambda part: part.kind):  # json before txt
            read = _captions(part, caption_key, encoding, notes)
            known = [] if part.kind == "json" else [caption.strip() for caption in captions]
            captions += [text for text in read if text.strip() not in known]
    except (ValueError, RecursionError):
        return Sample(one.key, None, [], "unreadable_record")
    if one.image is None:
        return Sample(one.key, None, captions, "missing")
    return Sample(one.key, one.image.data, captions)


def _captions(part: TarPart, caption_key: str, encoding: str | None, notes: Counter[str]) -> list[str]:
    """Raises ValueError where the bytes are no text, a mangled one or no json object, or captions no strings."""
    text = decode_text(part.data, encoding)
    if encoding is None and any(one.meant for one in find_mangled([text])):
        raise ValueError("decoded wrongly and saved again")
    if part.kind == "txt":
        return [text.rstrip("\r\n")]
    body, halves = parse_json(text)
    notes.update({HALVES: halves} if halves else {})
    captions = body.get(caption_key) or [] if isinstance(body, dict) else None
    captions = [captions] if isinstance(captions, str) else captions
    if not (isinstance(captions, list) and all(isinstance(caption, str) for caption in captions)):
        raise ValueError("no texts")
    return captions


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


def _parts(file: BinaryIO, left_over: Counter[str], names: TarNames, load: bool = True) -> Iterator[TarPart]:
    """Yield the members that can belong to a sample; without `load` their bytes are not read."""
    archive: Any = None
    error, reported = None, False  # reported: the last part's fault already says that the tar is cut
    try:
        archive = _Archive.open(fileobj=file, mode="r|*", encoding="utf-8", bufsize=STREAM_BYTES)
        while (info := archive.next()) is not None:
            archive.members.clear()  # a kilobyte for each member
            part = _part(archive, info, names.decode(info), left_over, load)
            if part is not None:
                yield part
            reported = part is not None and part.fault == "unreadable_record"
            _skip(archive)
    except BROKEN as broken:
        error = broken
    if archive is None or not _is_at_end(archive, error):
        offset = archive.offset if archive else 0
        raise UserError(
            f"{_name(file)}: no tar from byte {offset} on ({error or 'bad header'}); get or write it again"
        )
    if not (archive.whole or reported):
        cut = f"byte {archive.offset}"
        yield TarPart(cut, (cut,), "", fault="unreadable_record")


def _is_at_end(archive: Any, error: Exception | None) -> bool:
    """Whether the stream ends here; after an end mark zeros may follow."""
    archive.whole = archive.whole and error is None
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


def _part(
    archive: Any, info: tarfile.TarInfo, decoded: str, left_over: Counter[str], load: bool
) -> TarPart | None:
    name = CURRENT_FOLDER.sub("", decoded)
    folder, slash, base = compose_name(name).rpartition("/")
    *stem, extension = base.split(".")
    extension = extension.strip().lower()
    part = TarPart(name, (f"{folder}{slash}{stem[0] if stem else ''}", *stem[1:]), extension, info.size)
    if is_image_extension(extension):
        part = part._replace(kind="image")
    if name.startswith("/") or ".." in name.split("/") or not (info.isreg() or info.isdir()):
        return part._replace(fault="outside_source")
    if info.isdir():
        return None
    if is_hidden(name) or not (extension and any(stem)):
        left_over["hidden" if is_hidden(name) else "without extension"] += 1
        return None
    if not load or (part.kind != "image" and part.kind not in CAPTION_KINDS):
        return part
    try:
        data = archive.extractfile(info).read() if info.size <= MAX_MEMBER_BYTES else None
    except tarfile.ReadError:  # the tar ends here
        data = None
    return part._replace(data=data or b"", fault="unreadable_record" if data is None else None)
