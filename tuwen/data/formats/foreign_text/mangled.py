"""Text that was decoded wrongly once and saved again (锟斤拷, æµ‹è¯•): undone, it is far more probable."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tuwen.data.formats.foreign_text.plausibility import CLASS_NAMES, classify_characters, get_weights, score_text
from tuwen.data.formats.text import CHINESE

LOST = re.compile("(?:\ufffd){2,}|锟斤拷|\x1b\\$|~\\{(?:[!-w][!-~])+~\\}")  # U+FFFD twice, ISO-2022, HZ
UTF_7 = re.compile(r"\+[A-Za-z0-9+/]{3,}-?")
ONLY_QUESTION_MARKS = re.compile(
    r'(?:^|[,\t"])[?\d ._-]*\?{3,}[?\d ._-]*(?=$|[,\t"\r\n])'
)  # a cell of nothing else
QUESTION_MARKS = re.compile(r"\?{3,}")  # in most lines, and no Chinese: saved in an encoding without it
LOSS = "what is left where a text was decoded wrongly and saved: its characters are lost"
# of Windows in the west, of its console and of zip archives there, of Macs
WESTERN = ("cp1252", "cp437", "cp850", "cp1250", "mac_roman")
CYRILLIC = ("cp1251", "koi8_r", "cp866", "iso8859_5")
# (what it was read as, what it was) -> nats that undoing must gain; between two encodings of Chinese chance does
MISREADINGS = {
    **{(wrong, "utf-8"): 10.0 for wrong in WESTERN},
    **{(wrong, right): 16.0 for wrong in WESTERN for right in ("gb18030", "cp950")},
    **{("mac_roman", right): 28.0 for right in ("gb18030", "cp950")},  # whose signs give Chinese by chance
    **{("cp1252", right): 12.0 for right in ("gb18030", "cp950")},
    **{(wrong, right): 24.0 for wrong in ("cp932", "cp949", "euc_jp") for right in ("utf-8", "gb18030", "cp950")},
    **{(wrong, right): 16.0 for wrong in CYRILLIC for right in ("utf-8", "gb18030", "cp950")},
    ("gb18030", "utf-8"): 10.0,
    ("cp950", "utf-8"): 10.0,
    ("gb18030", "cp950"): 24.0,
    ("cp950", "gb18030"): 24.0,
}
ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
LETTERS = re.compile("[\u0370-\u1fff]")
# what people write: half-width katakana, whose sound marks follow what has that sound (ｶﾞ), and frames of ═ and ║
KATAKANA = re.compile("(?:[ｳｶ-ﾄﾊ-ﾎ]ﾞ|[ﾊ-ﾎ]ﾟ|[ｦ-ﾝ･｡､｢｣])+")
# what people write: a word in one case, or with a capital (Москва, МОСКВА); misread text mixes all
CYRILLIC_WORD = re.compile("[«„“—№]*(?:[А-ЯЁ]?[а-яё]+|[А-ЯЁ]+)[»“”—…]*")
KANA = re.compile("[\u3041-\u30ff]")
HANGUL = re.compile("[\uac00-\ud7a3]")
KOREAN = -9.0  # nats a character as Korean: above it, it is that
ANY_LETTER = re.compile(r"[^\W\d_]")
FRAMES = re.compile("[\u2500-\u25ff]+")
LEAST_AMONG_MANY = 5.0  # nats that suffice in a line where most lines were misread in the same way, ...
MANY_LINES = 3  # ... and more than these
SUSPECT = -10.2  # nats a character beyond ASCII: lines below it are tried
LOST_COST = -9.0  # of a character of which a part is lost


class Mangled(NamedTuple):
    """A line that was decoded wrongly and saved again."""

    line: int  # from 0
    found: str
    meant: str  # empty: it is lost
    how: str


class _Undone(NamedTuple):
    """A line as it was before it was misread in one way."""

    gain: float  # nats
    found: str
    meant: str
    way: tuple[str, str]


def find_mangled(lines: Sequence[str]) -> list[Mangled]:
    """Find the lines that were decoded wrongly and saved again; escapes as of JSON are characters here."""
    text = "".join(lines)
    if "\\u" in text:
        lines = [ESCAPE.sub(lambda match: chr(int(match[1], 16)), line) for line in lines]
        text = "".join(lines)
    numbers = {number for number, line in enumerate(lines) if LOST.search(line)} if LOST.search(text) else set()
    if "+" in text:
        numbers |= {number for number, line in enumerate(lines) if _read_utf_7(line)}
    if "???" in text:
        numbers |= {number for number, line in enumerate(lines) if ONLY_QUESTION_MARKS.search(line)}
    beyond = np.zeros(1)
    if text.isascii():
        asked = {number for number, line in enumerate(lines) if QUESTION_MARKS.search(line)}
        numbers |= asked if len(asked) > max(MANY_LINES, len(lines) / 2) else set()
    else:
        classes = classify_characters(text)
        starts = np.cumsum([0, *map(len, lines[:-1])])
        nats = np.where(classes > 0, get_weights("chinese")[classes], 0.0)
        beyond = np.add.reduceat((classes > 0).astype(np.int64), starts)
        latin = np.add.reduceat((classes == CLASS_NAMES.index("latin")).astype(np.int64), starts)
        symbols = latin + np.add.reduceat((classes == CLASS_NAMES.index("symbol")).astype(np.int64), starts)
        frequent = np.add.reduceat((classes == CLASS_NAMES.index("frequent")).astype(np.int64), starts)
        common = np.add.reduceat((classes == CLASS_NAMES.index("common")).astype(np.int64), starts)
        strange = ((symbols > 1) & (frequent + common == 0)) | (common > 3 * frequent + 3)
        poor = (np.add.reduceat(nats, starts) < SUSPECT * beyond) | (latin > 1) | strange
        numbers |= set(np.flatnonzero(poor & (beyond > 0)).tolist())
    return _examine_lines({number: lines[number] for number in sorted(numbers)}, int(np.sum(beyond > 0)))


def _examine_lines(suspects: dict[int, str], beyond: int) -> list[Mangled]:
    """Return those that were mangled; beyond: how many lines of the text are not ASCII."""
    found = {
        number: Mangled(number, lost[0], "", LOSS)
        for number, line in suspects.items()
        if (lost := _find_loss(line))
    }
    found |= {
        number: Mangled(number, line.strip(), meant, "utf-7 that was read as utf-8")
        for number, line in suspects.items()
        if number not in found and (meant := _read_utf_7(line))
    }
    undone = {number: max(_undo(line), default=None) for number, line in suspects.items() if number not in found}
    ways = Counter(one.way for one in undone.values() if one)
    for number, one in undone.items():
        if one and (one.gain > MISREADINGS[one.way] or ways[one.way] > max(MANY_LINES, beyond / 2)):
            right, wrong = one.way[1], one.way[0]
            found[number] = Mangled(number, one.found, one.meant, f"{right} that was read as {wrong}")
    return [found[number] for number in sorted(found)]


def _find_loss(line: str) -> re.Match[str] | None:
    found = LOST.search(line) or ONLY_QUESTION_MARKS.search(line)
    return found or (QUESTION_MARKS.search(line) if line.isascii() else None)


def _read_utf_7(line: str) -> str:
    """Return the Chinese of +eyw-, as old mail programs wrote it; empty where there is none."""
    try:
        meant = "".join(part.encode().decode("utf-7") for part in UTF_7.findall(line))
    except UnicodeError:
        return ""
    return meant if len(CHINESE.findall(meant)) > 1 and score_text(meant)[1] > SUSPECT else ""


def _undo(line: str) -> Iterator[_Undone]:
    """Yield every misreading that explains the line."""
    runs = re.findall("[^\x00-\x7f]+", line)
    for wrong, right in MISREADINGS:
        gain, found, meant = 0.0, "", ""
        for run in runs:
            undone = _undo_run(run, wrong, right)
            whole = undone.replace("\ufffd", "")
            lost = LOST_COST * (len(undone) - len(whole))
            more = score_text(whole)[0] + lost - score_text(run)[0] if whole else 0.0
            if more > 0:
                gain, found, meant = gain + more, found + run, meant + whole
        if gain > LEAST_AMONG_MANY and CHINESE.search(meant) and score_text(meant)[1] > SUSPECT:
            yield _Undone(gain, found, meant, (wrong, right))


def _undo_run(run: str, wrong: str, right: str) -> str:
    """Return the run as it was before it was misread, with U+FFFD for what is lost; empty where it never was."""
    if _is_written(run, wrong):
        return ""
    run = run.replace("\ufffd", "")
    try:
        if wrong == "cp1252":
            data = b"".join(map(_to_cp1252, run))
        elif wrong == "gb18030":  # as Windows has it, whose € is the byte 80
            data = b"\x80".join(part.encode(wrong) for part in run.split("€"))
        else:
            data = run.encode(wrong)
    except UnicodeError:
        return ""
    return data.decode(right, "replace")


def _is_written(run: str, wrong: str) -> bool:
    """Return whether people write such a run, so that nothing was read as `wrong`."""
    if FRAMES.fullmatch(run):
        return True
    if wrong in CYRILLIC:
        return CYRILLIC_WORD.fullmatch(run) is not None or not LETTERS.search(run)
    if len(LETTERS.findall(run)) > len(run) / 2:  # Russian, Greek, Arabic
        return True
    if wrong in WESTERN:
        return wrong == "mac_roman" and not ANY_LETTER.search(run)
    if wrong == "cp932":
        return (rest := KATAKANA.sub("", run)) == "" or score_text(rest)[1] > SUSPECT
    kana = len(KANA.findall(run))
    if wrong == "cp949":
        korean = score_text(run, wrong)[1] > KOREAN or not (CHINESE.search(run) or HANGUL.search(run))
        return korean or kana > len(run) / 2
    return not CHINESE.search(run) or (kana > 0 if wrong == "euc_jp" else kana > len(run) / 2)


def _to_cp1252(character: str) -> bytes:
    """Encode a character as cp1252, or as Latin-1 where that has it and cp1252 does not."""
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        return character.encode("latin-1")
