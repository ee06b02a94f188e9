"""Measures captions, a whole table at a time: the traits of each character that occurs are looked up once."""

import functools
import re
import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np

from tuwen.data.formats.sides import CANDIDATE, has_side_word, judge_mirroring
from tuwen.data.formats.text import CHINESE, CONTROL, HAN_MASK, STRAY_CONTROL, normalise_captions
from tuwen.data.formats.tokens.spelling import UNSEEN_CHARACTERS
from tuwen.data.quality.caption_marks import find_marks

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

IntCounts = np.ndarray[Any, np.dtype[np.int64]]

CAPTIONS_PER_PART = 100_000  # a part of usual captions takes 100 MB while it is measured
END_TOKENS = 2  # [CLS] and [SEP]
NEWLINE = re.compile(r"[\r\n]")
INVISIBLE = re.compile(rf"\s|{CONTROL.pattern}|{UNSEEN_CHARACTERS}")

# One bit for each trait of a character; BERT drops a character that has none of the last three
(
    VISIBLE,
    IS_CHINESE,
    IS_LATIN,
    IS_CONTROL,
    IS_PRIVATE,
    IS_NEWLINE,
    IS_TRADITIONAL,
    IS_SIMPLIFIED,
    SPACE,
    ALONE,
    LETTER,
) = (1 << bit for bit in range(11))


def measure_captions(texts: "pa.Table", simplify: bool = False) -> "pd.DataFrame":
    """Return the texts table with what was measured of its captions, in its order; a null counts as empty.

    normalised: the form in which captions are compared, by `text.normalise_captions`, which `simplify` is for.
    chars: without blanks around, 0 where nothing is visible.
    tokens: BERT's words, [CLS] and [SEP] among them; a vocabulary may cut a Latin word further. chinese_share,
    latin_share: of the visible characters. control_chars (no tab, no line end), private_use_chars, masks: how
    many. script: `traditional` or `simplified` where it has characters that only one of them writes, `mixed`,
    else empty. newline, side_word (left or right as a place), unmirrored (its image is never mirrored, see
    sides.py), and all of `caption_marks.find_marks`: whether. duplicates: captions of the table with the same
    normalised form, itself among them.
    """
    import pandas as pd
    import pyarrow.compute as pc

    frame: pd.DataFrame = texts.to_pandas()
    column = pc.fill_null(texts["caption"], "")
    captions: list[str] = column.to_pylist()
    starts = range(0, max(len(captions), 1), CAPTIONS_PER_PART)
    parts = [_count(captions[start : start + CAPTIONS_PER_PART]) for start in starts]
    count = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    visible = count["visible"]
    frame["normalised"] = pd.Series(normalise_captions(captions, simplify), frame.index, dtype=str)
    stripped = np.fromiter((len(caption.strip()) for caption in captions), np.int64, len(captions))
    frame["chars"] = np.where(visible > 0, stripped, 0)
    frame["tokens"] = count["tokens"] + END_TOKENS
    frame["chinese_share"] = count["chinese"] / np.maximum(visible, 1)
    frame["latin_share"] = count["latin"] / np.maximum(visible, 1)
    frame["control_chars"] = count["control"]
    frame["private_use_chars"] = count["private"]
    frame["newline"] = count["newline"] > 0
    frame["script"] = pd.Series(_name_scripts(count), frame.index, dtype=str)
    frame = frame.assign(**find_marks(column))
    frame["masks"] = pc.count_substring_regex(column, HAN_MASK).to_numpy().astype(np.int64)
    frame["side_word"] = np.fromiter(map(has_side_word, captions), bool, len(captions))
    unmirrored = pc.match_substring_regex(column, CANDIDATE).to_numpy(zero_copy_only=False)
    unmirrored[unmirrored] = [judge_mirroring(captions[row]) == "keep" for row in np.flatnonzero(unmirrored)]
    frame["unmirrored"] = unmirrored
    frame["duplicates"] = frame.groupby("normalised")["normalised"].transform("size").astype(np.int64)
    return frame


def _name_scripts(count: dict[str, IntCounts]) -> np.ndarray[Any, np.dtype[np.object_]]:
    names = np.array(["", "traditional", "simplified", "mixed"], object)
    return names[(count["traditional"] > 0) + 2 * (count["simplified"] > 0)]


def _count(captions: list[str]) -> dict[str, IntCounts]:
    """Count per caption [N] visible, Chinese, Latin, control and private-use characters, line ends and tokens."""
    size = len(captions)
    codes = np.frombuffer("".join(captions).encode("utf-32-le"), np.uint32)
    row = np.repeat(np.arange(size), np.fromiter(map(len, captions), np.int64, size))
    traits = _make_trait_table(codes)[codes]

    def count_per_row(selected: np.ndarray[Any, Any]) -> IntCounts:
        return np.bincount(row[selected], minlength=size)

    bits = {
        "visible": VISIBLE,
        "chinese": IS_CHINESE,
        "latin": IS_LATIN,
        "control": IS_CONTROL,
        "private": IS_PRIVATE,
        "newline": IS_NEWLINE,
        "traditional": IS_TRADITIONAL,
        "simplified": IS_SIMPLIFIED,
    }
    counts = {name: count_per_row(traits & bit != 0) for name, bit in bits.items()}
    kept = np.flatnonzero(traits & (SPACE | ALONE | LETTER))
    letter = traits[kept] & LETTER != 0
    goes_on = np.zeros(len(kept), bool)
    goes_on[1:] = letter[1:] & letter[:-1] & (row[kept][1:] == row[kept][:-1])
    return counts | {"tokens": count_per_row(kept[(traits[kept] & SPACE == 0) & ~goes_on])}


def _make_trait_table(codes: np.ndarray[Any, np.dtype[np.uint32]]) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Return code point -> its traits [0x110000], for those that occur in `codes`."""
    occurs = np.zeros(0x110000, bool)
    occurs[codes] = True
    table = np.zeros(0x110000, np.uint16)
    for code in np.flatnonzero(occurs):
        table[code] = _find_traits(chr(code))
    return table


@functools.cache
def _find_traits(character: str) -> int:
    latin = character.isalpha() and "LATIN" in unicodedata.name(character, "")
    return (
        VISIBLE * (not INVISIBLE.match(character))
        | IS_CHINESE * bool(CHINESE.match(character))
        | IS_LATIN * latin
        | IS_CONTROL * bool(STRAY_CONTROL.match(character))
        | IS_PRIVATE * (unicodedata.category(character) == "Co")
        | IS_NEWLINE * bool(NEWLINE.match(character))
        | _find_script(character)
        | _find_token_trait(character)
    )


def _find_script(character: str) -> int:
    """Return IS_TRADITIONAL or IS_SIMPLIFIED for a character that the other script writes otherwise, else 0.

    OpenCC alone would call 乾 traditional, though 乾隆 keeps it, and 后 simplified, though 皇后 does: what the
    character set of the other script holds too, tells nothing.
    """
    if not CHINESE.match(character):
        return 0
    to_simplified, to_traditional = _make_converters()
    if to_simplified(character) != character and not character.encode("gb2312", "ignore"):
        return IS_TRADITIONAL
    return IS_SIMPLIFIED * (to_traditional(character) != character and not character.encode("big5", "ignore"))


@functools.cache
def _make_converters() -> tuple[Any, Any]:
    from opencc import OpenCC

    return OpenCC("t2s").convert, OpenCC("s2t").convert


def _find_token_trait(character: str) -> int:
    """Return SPACE, ALONE or LETTER by the words that BERT makes of the character between letters; 0: dropped."""
    split = _make_bert_splitter()
    words = len(split(f"a{character}a"))
    if words == 1:
        return LETTER if split(character) else 0
    return SPACE if words == 2 else ALONE


@functools.cache
def _make_bert_splitter() -> Any:
    from tokenizers import normalizers, pre_tokenizers

    clean, cut = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    return lambda text: cut.pre_tokenize_str(clean.normalize_str(text))
