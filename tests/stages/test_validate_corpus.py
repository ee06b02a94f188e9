import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from tests.stages.conftest import picture
from tests.support.pair_sets import EMPTY_SET
from tests.support.validate import (
    PARAMS,
    assert_rows_add_up,
    draw_png,
    read_counterparts,
    read_ids,
    read_quality,
    read_quarantine,
    read_reasons,
    run_validate,
)
from tuwen.core.errors import UserError
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.near_images.looks import measure_look
from tuwen.data.formats.shards import ShardWriter
from tuwen.data.quality.summary import format_counts

MakeRaw = Callable[..., Path]


def write_source(data: Path, name: str, rows: list[tuple[str, bytes, str]]) -> None:
    """Write a corpus source of (image_id, image, caption)."""
    images, texts, links = [], [], []
    with ShardWriter(data, f"raw/corpus/{name}/shards") as writer:
        for image_id, encoded, caption in rows:
            member = writer.add(image_id, encoded)
            images.append({"image_id": image_id, "positive_id": image_id, "file": image_id} | member._asdict())
            texts.append({"text_id": f"句{image_id}", "caption": caption})
            links.append({"pair_id": f"对{image_id}", "image_id": image_id, "text_id": f"句{image_id}"})
    tables = (
        pa.Table.from_pylist(rows, schema)
        for rows, schema in ((images, pairs.IMAGES), (texts, pairs.TEXTS), (links, pairs.PAIRS))
    )
    pairs.write_pair_set(data / "raw/corpus" / name, pairs.PairSet(*tables))
    manifest.write_manifest(data / "raw/corpus" / name, {}, {})


def write_tar(folder: Path, name: str, members: list[tuple[str, bytes]]) -> dict[str, object]:
    """Write a tar as others publish it; return its row in a list of shards."""
    with ShardWriter(folder, name) as writer:
        for member, data in members:
            writer.add(member, data)
    path = folder / name / "000000.tar"
    encoded, count = path.read_bytes(), sum(member.endswith(".txt") for member, _ in members)
    row = {"address": str(path), "size": len(encoded), "sha256": hashlib.sha256(encoded).hexdigest()}
    return row | {"pairs": count, "caption_key": "caption"}


def write_list(data: Path, name: str, shards: list[dict[str, object]]) -> None:
    pairs.write_pair_set(data / "raw/corpus" / name, EMPTY_SET)
    pairs.write_table(data / "raw/corpus" / name / "shards.parquet", pa.Table.from_pylist(shards, pairs.SHARDS))
    manifest.write_manifest(data / "raw/corpus" / name, {}, {})


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory, make_raw: MakeRaw) -> Path:
    """Clean sets with three corpus sources: art, web (copies of art's and labelled images) and far (shards)."""
    root = tmp_path_factory.mktemp("collected")
    data = make_raw(root)
    own = [(f"自{n}.png", picture(n, ground="khaki"), "自己拍的照片") for n in range(2)]
    labelled = [(f"标{n:02d}.png", picture(n), f"第{n}张标注过的图片") for n in range(12)]
    near = [("近.png", picture(6, ground="#fffdfd"), "和测试集里的一张差不多")]
    twice = [
        ("甲.png", draw_png(30, 30), "水果"),
        ("乙.png", draw_png(30, 30), " 水果"),
        ("丙.png", draw_png(30, 30), "蔬菜"),
    ]
    copied = [("抄.png", picture(0, ground="khaki"), "红色的圆")]  # art's first pair
    write_source(data, "web", own + labelled + near + twice + copied)
    good = [
        ("a.png", draw_png(20, 20, "red")),
        ("a.seg.png", b""),
        ("a.txt", "一块红色".encode()),
        ("a.cls", b"7"),
    ]
    bad = [("b.jpg", b"no picture"), ("b.txt", "坏图".encode()), ("c.txt", "没有图".encode())]
    shards = [
        write_tar(root / "far", "one", good + bad),
        write_tar(root / "far", "two", [("t.png", picture(0)), ("t.txt", b""), ("u.png", draw_png(9, 9))]),
    ]
    shards[1]["address"] = f"file://{shards[1]['address']}"  # as a URL that fsspec opens
    write_list(data, "far", shards)
    return run_validate(
        data, PARAMS.model_copy(update={"max_quarantined_share": 0.8}), sources=("web", "far", "art")
    )


def test_the_sources_stand_behind_each_other_under_their_names(collected: Path) -> None:
    corpus = pairs.read_pair_set(collected / "corpus")
    names = corpus.images["source"].to_pylist()
    assert names == sorted(names)
    assert set(names) == {"art", "web"}
    for table, key in (("images", "image_id"), ("texts", "text_id"), ("pairs", "pair_id")):
        assert all(one.startswith(("art/", "web/")) for one in getattr(corpus, table)[key].to_pylist())
    assert {name.partition("/")[0] for name in corpus.pairs["image_id"].to_pylist()} == {"art", "web"}
    held = dict(zip(corpus.images["image_id"].to_pylist(), corpus.images["positive_id"].to_pylist(), strict=True))
    assert held["web/自1.png"] == held["art/corpus-01.png"] == "art/corpus-01.png", "equal bytes in two sources"
    assert held["web/丙.png"] == held["web/甲.png"]
    assert_rows_add_up(collected)


def test_of_equal_pairs_the_first_source_keeps_its_own(collected: Path) -> None:
    left = read_reasons(collected, "corpus/web", "pair")
    assert {name for name, (reason, _) in left.items() if reason == "duplicate_pair"} == {"对抄.png", "对乙.png"}
    assert read_reasons(collected, "corpus/web", "image")["抄.png"] == ("without_pair", "quarantined")
    assert read_reasons(collected, "corpus/art", "pair") == {}
    repeated = read_counterparts(collected, "duplicate_pair")
    assert repeated["对乙.png"].startswith("corpus/web 对甲.png")
    assert repeated["对抄.png"] == "corpus/art pair-corpus-name-00 (captions.csv, row 2)"


def test_images_of_valid_and_test_leave_the_corpus(collected: Path) -> None:
    held_out = {int(name[9:11]) for part in ("valid", "test") for name in read_ids(collected, part, "images")}
    left = read_reasons(collected, "corpus/web", "image")
    leaking = {name for name, (reason, _) in left.items() if reason == "in_valid_or_test"}
    near = {"近.png"} if 6 in held_out else set()
    assert leaking == {f"标{n:02d}.png" for n in held_out} | near
    assert leaking >= near
    originals = {name: f"labelled labelled-{name[1:3]}.png" for name in leaking - near}
    originals |= dict.fromkeys(near, "labelled labelled-06.png")
    words = read_counterparts(collected, "in_valid_or_test")
    assert {name: words[name].partition(" (")[0] for name in leaking} == originals
    kept = read_ids(collected, "corpus", "images")
    assert {f"web/标{n:02d}.png" for n in range(12) if n not in held_out} <= set(kept)
    assert read_reasons(collected, "corpus/web", "pair")["对" + min(leaking)][0] == "picture_quarantined"


def test_training_is_told_what_shards_elsewhere_may_not_show(collected: Path) -> None:
    told = pairs.read_table(collected / "corpus/held_out.parquet", pairs.HELD_OUT)
    held_out = pa.concat_tables(pairs.read_pair_set(collected / part).images for part in ("valid", "test"))
    assert sorted(told["sha256"].to_pylist()) == sorted(held_out["sha256"].to_pylist())
    looks = {hashlib.sha256(picture(n)).hexdigest(): measure_look(picture(n)).thumbnail for n in range(12)}
    assert told["thumbnail"].to_pylist() == [looks[digest] for digest in told["sha256"].to_pylist()]


def test_training_is_told_what_rows_of_shards_elsewhere_may_be(collected: Path) -> None:
    told = json.loads((collected / "corpus/limits.json").read_text(encoding="utf-8"))
    assert told == {"max_chars": 60, "max_pixels": 100_000, "min_side_px": 16}
    assert told == PARAMS.model_dump(include=set(told))


def test_shards_elsewhere_are_measured_counted_and_listed_with_their_source(collected: Path) -> None:
    listed = pairs.read_shards(collected / "corpus")
    assert listed["source"].to_pylist() == ["far", "far"]
    assert listed["pairs"].to_pylist() == [3, 1]
    summary = read_quality(collected)
    assert summary["corpus"]["far"] == {
        "shards": 2,
        "pairs": 4,
        "measured_shards": 2,
        "measured_pictures": 5,
        "measured_captions": 5,
        "faults": {"missing": 1, "too_narrow": 1, "unreadable": 1, "empty": 2},
        "members_left_over": {".cls": 1, ".seg.png": 1},
        "in_valid_or_test": int(
            0 in {int(n[9:11]) for s in ("valid", "test") for n in read_ids(collected, s, "images")}
        ),
    }
    assert summary["checks"]["corpus/far"]["images"]["unreadable"]["unexpected"] == 1
    assert summary["raw"]["corpus/far"]["images"]["in"] == 0
    assert "far" not in {row.partition("/")[0] for row in read_ids(collected, "corpus", "images")}


def test_a_shard_that_is_another_or_full_of_faults_stops_the_stage(tmp_path: Path, make_raw: MakeRaw) -> None:
    data = make_raw(tmp_path)
    shard = write_tar(tmp_path / "far", "one", [("b.jpg", b"no picture"), ("b.txt", "坏图".encode())])
    write_list(data, "far", [shard | {"sha256": "0" * 64}])
    with pytest.raises(UserError, match=r"one/000000\.tar: sha256 [0-9a-f]{64} found, 0{64} expected"):
        run_validate(data, sources=("art", "far"))
    write_list(data, "far", [shard])
    with pytest.raises(UserError, match=r"far/shards\.parquet: quarantined_share is 1; .+ unreadable 1"):
        run_validate(data, sources=("art", "far"))


def test_a_corpus_of_the_labelled_pictures_themselves_loses_some_without_a_warning(
    tmp_path: Path, make_raw: MakeRaw
) -> None:
    data = make_raw(tmp_path)
    write_source(data, "again", [(f"标{n:02d}.png", picture(n), f"第{n}张标注过的图片") for n in range(12)])
    others = [("外.png", draw_png(40, 40), "别处来的一张图")]
    write_source(data, "more", [(f"标{n:02d}.png", picture(n), f"再说第{n}张图片") for n in range(12)] + others)
    clean = run_validate(data, sources=("again", "more", "art"))
    checks = read_quality(clean)["checks"]
    lost = sum(len(read_ids(clean, part, "images")) for part in ("valid", "test"))
    rows = {
        name: [row for row in read_quarantine(clean) if row["set"] == f"corpus/{name}"]
        for name in ("again", "more")
    }
    for table, check in (
        ("images", "in_valid_or_test"),
        ("texts", "without_pair"),
        ("pairs", "picture_quarantined"),
    ):
        found = checks["corpus/again"][table][check]
        why = found.pop("why")
        assert found == {"severity": "info", "success": False, "unexpected": lost}
        assert why.startswith("expected: this source holds the labelled pictures again")
        assert checks["corpus/more"][table][check] == found | {"severity": "warning"}
    assert {row["severity"] for row in rows["again"]} == {"info"}
    assert {row["severity"] for row in rows["more"]} == {"warning"}
    assert [row["reason"] for row in rows["again"]] == [row["reason"] for row in rows["more"]]
    assert "expected: this source holds the labelled pictures again" in (clean / "quality.html").read_text("utf-8")
    assert_rows_add_up(clean)


def test_a_source_that_is_no_longer_named_is_refused(tmp_path: Path, make_raw: MakeRaw) -> None:
    data = make_raw(tmp_path)
    write_source(data, "old", [("旧.png", draw_png(40, 40), "从前的一张图")])
    with pytest.raises(UserError, match=r"raw/corpus/old: params\.yaml: corpus does not name old"):
        run_validate(data)


def test_without_a_corpus_the_data_is_examined_all_the_same(tmp_path: Path, make_raw: MakeRaw) -> None:
    data = make_raw(tmp_path)
    shutil.rmtree(data / "raw/corpus")
    clean = run_validate(data, sources=())
    assert_rows_add_up(clean)
    assert read_quality(clean)["clean"]["corpus"] == {"images": 0, "texts": 0, "pairs": 0}
    told = format_counts(read_quality(clean), clean).splitlines()
    assert told[0].startswith("labelled: 12 pictures, 24 texts, 24 pairs: 60 rows in = ")
    assert str(clean / "quality.html") in told[-1]
