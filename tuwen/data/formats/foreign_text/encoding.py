"""In which encoding is a text? The one in which its bytes are the most probable text, not the first that decodes.

Encodings of Chinese decode as each other: Big5 read as GB18030 gives rare characters and no error. So every
candidate is scored by what its characters are (`plausibility.py`). One that is clearly ahead is taken; where two
stay plausible, or none is, a person decides.
"""

import codecs
import io
import re
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tuwen.core.errors import UserError
from tuwen.data.formats.foreign_text import plausibility
from tuwen.data.formats.foreign_text.wrong_bytes import find_wrong_byte, refuse_mixture, refuse_wrong_bytes

SAMPLE_BYTES = 1 << 20
# characters beyond ASCII in different words; as many that are valid UTF-8 are UTF-8, one in a million is not
FEW = 12
SURE = 7.0  # nats: the second reading is a thousand times less probable than the first
POOR = -13.0  # nats a character beyond ASCII; below it no text that anybody wrote
# What stands between blanks, marks and digits, which are no part of a character but in four bytes of GB18030. Each
# counts once: that 桶 stands in every row is no more evidence than that it stands in one.
BYTE_WORDS = re.compile(rb"(?:[\x81-\xfe][0-9][\x81-\xfe][0-9]|[^\x00-\x39])+")
BOMS = {  # the longest first
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
    b"\x84\x31\x95\x33": "gb18030",
}
# What is tried where the bytes are not plainly UTF-8, and how much less often it is met, in nats. Those of
# NOT_CHINESE are told, never read unasked: they hold no Chinese.
PRIORS = {
    "utf-8": 0.0,
    "gb18030": -3.0,
    "cp950": -4.0,
    "big5hkscs": -5.0,
    "utf-16-le": -4.0,
    "utf-16-be": -5.0,
    "cp932": -10.0,
    "euc_jp": -10.0,
    "cp949": -12.0,
    "cp1252": -10.0,
}
NOT_CHINESE = ("cp932", "euc_jp", "cp949", "cp1252")


class Candidate(NamedTuple):
    """One way to read some bytes."""

    name: str
    score: float  # nats; higher is more probable
    wrong: int  # byte sequences that are not of this encoding
    quality: float  # nats a character beyond ASCII


class Decision(NamedTuple):
    """The encoding of a file, why, and what a person should know of it."""

    name: str
    bom: int  # bytes of the byte order mark
    note: str  # empty: UTF-8, as it should be


def infer_encoding(path: Path, encoding: str | None = None, remedy: str = "save the file as UTF-8") -> Decision:
    """Decide the encoding of a file: by its byte order mark, else by what is most probable.

    encoding: what a person says; it overrules, but for bytes that are not of it. remedy: what to do where it
    cannot be decided. Raises UserError that names line and byte where two encodings stay plausible, none is, or
    the one that is has wrong bytes.
    """
    with open(path, "rb") as file:
        return _decide(file, str(path), encoding, remedy)


def decode_text(data: bytes, encoding: str | None = None) -> str:
    """Return the text of a few bytes, such as one caption: UTF-8 where they are that, else what is most probable.

    Raises ValueError where it cannot be decided.
    """
    try:
        if encoding is None:
            return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    try:
        name, bom, _ = _decide(io.BytesIO(data), "text", encoding, "write it as UTF-8")
    except UserError as error:
        raise ValueError(str(error)) from None
    return data[bom:].decode(name)


def infer_bytes_encoding(data: bytes) -> str | None:
    """Return the encoding of a text; None where it cannot be decided."""
    try:
        return _decide(io.BytesIO(data), "text", None, "").name
    except UserError:
        return None


def _decide(file: BinaryIO, place: str, encoding: str | None, remedy: str) -> Decision:
    start = file.read(4)
    bom, marked = next(((mark, name) for mark, name in BOMS.items() if start.startswith(mark)), (b"", None))
    if encoding is not None or marked:
        agrees = encoding is None or _family(encoding) == _family(marked or "")
        name = marked if marked and agrees else str(encoding)
        skip = len(bom) if agrees else 0
        refuse_wrong_bytes(file, place, name, skip, remedy)
        plain = name == "utf-8" or (marked and encoding is None and name == "utf-8")
        why = "`encoding` says so" if encoding else "its byte order mark says so"
        return Decision(name, skip, "" if plain else f"read as {name}: {why}")
    first_wrong, nul, beyond = _scan_utf8(file)
    if first_wrong is None and nul is None and (beyond == 0 or beyond >= FEW):
        return Decision("utf-8", 0, "")
    candidates = _rank(file, first_wrong if first_wrong is not None else nul)
    best = candidates[0]
    if best.name == "utf-8" and first_wrong is None:
        return Decision("utf-8", 0, "")
    others = [one for one in candidates[1:] if best.score - one.score < SURE]
    if first_wrong is None and nul is None:  # what is valid UTF-8 is never read as anything else
        others = [one for one in candidates if one.name == "utf-8"]
    where = "" if first_wrong is None else f"not utf-8 (byte {first_wrong})"
    _refuse_doubt(file, place, best, others, _describe(file, first_wrong), remedy)
    refuse_wrong_bytes(file, place, best.name, 0, remedy)
    refuse_mixture(file, place, best.name, SURE, remedy)
    return Decision(best.name, 0, f"{where or 'not utf-8, by its NUL bytes'}, read as {best.name}")


def _family(name: str) -> str:
    """Return what a byte order mark must agree with: utf-16 for utf-16-le, utf-8 for utf-8-sig."""
    return codecs.lookup(name).name.removesuffix("-sig").removesuffix("-le").removesuffix("-be") if name else ""


def _scan_utf8(file: BinaryIO) -> tuple[int | None, int | None, int]:
    """Return the first byte that is not UTF-8, the first NUL, and how many characters beyond ASCII, up to FEW."""
    nul, done, words, beyond = None, 0, set[bytes](), 0
    file.seek(0)
    while chunk := file.read(SAMPLE_BYTES):
        if nul is None and (at := chunk.find(b"\0")) >= 0:
            nul = done + at
        done += len(chunk)
        if not chunk.isascii() and beyond < FEW:
            words |= set(BYTE_WORDS.findall(chunk))
            text = b" ".join(words).decode("utf-8", "ignore")
            beyond = len(text) - len(text.encode("ascii", "ignore"))
    return find_wrong_byte(file, "utf-8"), nul, beyond


def _rank(file: BinaryIO, suspect: int | None) -> list[Candidate]:
    """Return the candidates, the most probable first, by the file's first part and the part around `suspect`."""
    file.seek(0)
    sample = file.read(SAMPLE_BYTES)
    if len(sample) == SAMPLE_BYTES:
        sample = sample[: sample.rfind(b"\n") + 1] or sample[: SAMPLE_BYTES - 4]
    if suspect is not None and suspect >= len(sample):
        file.seek(max(len(sample), suspect - SAMPLE_BYTES // 2))
        sample += file.read(SAMPLE_BYTES).partition(b"\n")[2].rpartition(b"\n")[0]
    # UTF-16 has NUL bytes, and in it these bytes part no words
    words = sample if b"\0" in sample else b" ".join(dict.fromkeys(BYTE_WORDS.findall(sample)))
    names = [name for name in PRIORS if not name.startswith("utf-16") or b"\0" in sample]
    ranked = sorted((_score(words, name) for name in names), key=lambda one: -one.score)
    if any(one.name == "cp950" and not one.wrong for one in ranked):  # one encoding in two sizes
        ranked = [one for one in ranked if one.name != "big5hkscs"]
    return [ranked[0]._replace(quality=_score(sample, ranked[0].name).quality), *ranked[1:]]


def _score(sample: bytes, name: str) -> Candidate:
    text = sample.decode(name, "replace")
    genuine = sample.count("\ufffd".encode()) if name == "utf-8" else 0
    wrong = max(text.count("\ufffd") - genuine, 0)
    total, quality = plausibility.score_text(text, name if name in NOT_CHINESE else "chinese")
    return Candidate(name, total + PRIORS[name], wrong, quality)


def _refuse_doubt(
    file: BinaryIO, place: str, best: Candidate, others: list[Candidate], where: str, remedy: str
) -> None:
    """Raise UserError unless one candidate is clearly right, and Chinese."""
    described = [f"{one.name} ({_quote(file, one.name)})" for one in (best, *others)]
    if best.quality < POOR:
        raise UserError(
            f"{place}: {where}; {remedy}: no encoding makes plausible text of it, not even {described[0]}"
        )
    if others:
        raise UserError(f"{place}: {where}; {remedy}: {' and '.join(described)} stay plausible")
    if best.name in NOT_CHINESE:
        raise UserError(f"{place}: {where}; {remedy}: it seems to be {described[0]}, which holds no Chinese")


def _describe(file: BinaryIO, first_wrong: int | None) -> str:
    """Return in which of the usual encodings the file is not."""
    if first_wrong is None:
        return "too few characters to tell the encoding"
    gb18030 = find_wrong_byte(file, "gb18030")
    if gb18030 is None:
        return f"byte {first_wrong} is not UTF-8"
    return f"neither utf-8 (byte {first_wrong}) nor gb18030 (byte {gb18030}), counted from 0"


def _quote(file: BinaryIO, name: str) -> str:
    """Return the first words of the file beyond ASCII, as `name` reads them."""
    file.seek(0)
    text = file.read(1 << 16).decode(name, "replace")
    at = next((n for n, character in enumerate(text) if not character.isascii()), 0)
    return repr(text[at : at + 12])
