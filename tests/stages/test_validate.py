import csv
import hashlib
import io
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image

from tuwen import checks, manifest, pairs, shards
from tuwen.errors import UserError
from tuwen.params import Split, Validate
from tuwen.split import with_groups
from tuwen.validate import assert_whole, judge_positives, validate

PARAMS = Validate(
    min_side_px=16, max_pixels=100_000, max_chars=60, max_pictures_per_caption=3, max_quarantined_share=0.5
)
SPLIT = Split(seed=0, valid=0.2, test=0.25)
MakeRaw = Callable[..., Path]


@pytest.fixture(autouse=True, scope="module")
def one_worker() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUWEN_WORKERS", "1")  # starting a process takes longer than a dozen pictures
        yield


def run(data: Path, params: Validate = PARAMS, split: Split = SPLIT) -> Path:
    validate(data / "raw", data / "clean", params, split)
    return data / "clean"


def change(data: Path, name: str, table: str, row: int | None, **values: Any) -> None:
    """Change one row of a raw table, or with row None append one."""
    path = data / "raw" / name / f"{table}.parquet"
    read = pairs.read_table(path)
    rows = read.to_pylist()
    if row is None:
        rows.append(values)
    else:
        rows[row] |= values
    pairs.write_table(path, pa.Table.from_pylist(rows, read.schema))


def ids(clean: Path, name: str, table: str) -> list[str]:
    return list(pairs.read_table(clean / name / f"{table}.parquet").column(0).to_pylist())


def quarantined(clean: Path) -> set[tuple[str, ...]]:
    return {tuple(row.values()) for row in pairs.read_table(clean / "quarantine.parquet").to_pylist()}


def small_png(width: int, height: int) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(encoded, "PNG")
    return encoded.getvalue()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, make_raw: MakeRaw) -> Path:
    """The clean sets of a dozen faultless pictures; "水果" and " 水果" stand on two pictures each."""
    names = {f"labelled-name-{n:02d}": caption for n, caption in enumerate(["水果", " 水果"] * 6)}
    data = make_raw(tmp_path_factory.mktemp("sound"), captions=names)
    return run(data, PARAMS.model_copy(update={"max_pictures_per_caption": 11}))


def test_every_row_comes_through(sound: Path) -> None:
    quality = json.loads((sound / "quality.json").read_text(encoding="utf-8"))
    for table, count in (("images", 12), ("texts", 24), ("pairs", 24)):
        found = quality["raw"]["labelled"][table]
        assert found == {"in": count, "clean": count, "quarantined": 0, "faults": {}}
    dealt = [image for name in ("train", "valid", "test") for image in ids(sound, name, "images")]
    assert sorted(dealt) == [f"labelled-{n:02d}.png" for n in range(12)]
    assert [len(ids(sound, name, "images")) for name in ("train", "valid", "test", "corpus")] == [7, 2, 3, 12]
    assert quarantined(sound) == set()
    assert quality["raw"]["labelled"]["formats"] == {"PNG": 12}
    assert quality["raw"]["labelled"]["side_words"] == 1  # 小女孩左手举着一只橙色的气球
    assert quality["groups"]["groups"] == 12


def test_train_keeps_its_texts_and_the_others_merge_equal_captions(sound: Path) -> None:
    assert len(ids(sound, "train", "texts")) == len(ids(sound, "train", "pairs")) == 14
    for name, pictures in (("bank", 7), ("valid", 2), ("test", 3)):
        merged = pairs.read(sound / name)
        captions = [caption.strip() for caption in merged.texts["caption"].to_pylist()]
        assert len(captions) == len(set(captions)) == pictures + 1
        fruit = merged.texts["text_id"].to_pylist()[captions.index("水果")]
        assert merged.pairs["text_id"].to_pylist().count(fruit) == pictures, (
            "true for every picture that carries it"
        )
        assert len(merged.pairs) == 2 * pictures
    sizes = json.loads((sound / "quality.json").read_text(encoding="utf-8"))["clean"]
    assert sizes["test"] == {"images": 3, "texts": 4, "pairs": 6, "merged_captions": 2}
    assert ids(sound, "bank", "images") == ids(sound, "train", "images")


def test_valid_and_test_carry_their_pictures_the_others_point_into_raw(sound: Path) -> None:
    for name in pairs.CLEAN_SETS:
        folder = {"valid": "clean/valid", "corpus": "raw/corpus", "train": "raw/labelled", "bank": "raw/labelled"}
        for row in pairs.read(sound / name).images.to_pylist():
            assert row["shard"].startswith(folder.get(name, "clean/test") + "/shards/")
            encoded = shards.read(sound.parent, row["shard"], row["offset"], row["size"])
            assert hashlib.sha256(encoded).hexdigest() == row["sha256"]
    assert list((sound / "train").glob("**/*.tar")) == []


def test_without_a_task_the_test_split_is_the_task_in_the_contests_form(sound: Path) -> None:
    test = pairs.read(sound / "test")
    for name in ("t2i", "i2t"):
        assert pairs.read(sound / name) == test
    captions = [[row["text_id"], row["caption"]] for row in test.texts.to_pylist()]
    images = [[image] for image in test.images["image_id"].to_pylist()]
    for path, header, rows in (
        ("t2i/word_test.csv", ["text_id", "caption"], captions),
        ("t2i/image_data.csv", ["image_id"], images),
        ("i2t/image_test.csv", ["image_id"], images),
        ("i2t/word_data.csv", ["text_id", "caption"], captions),
    ):
        written = (sound / path).read_bytes()
        assert b"\r" not in written
        assert not written.startswith(b"\xef\xbb\xbf")
        assert list(csv.reader(written.decode("utf-8").splitlines())) == [header, *rows]


def test_the_manifests_tie_the_sets_to_what_they_were_made_from(sound: Path) -> None:
    raw = sound.parent / "raw"
    for name in pairs.CLEAN_SETS:
        body = json.loads((sound / name / "manifest.json").read_text(encoding="utf-8"))
        origin = "corpus" if name == "corpus" else "labelled"
        assert body["inputs"] == {origin: manifest.digest(raw / origin)}
        # what is made from the corpus must not change with the split
        assert set(body["params"]) == ({"validate"} if name == "corpus" else {"validate", "split"})


def test_a_rerun_writes_the_same_bytes_and_leaves_nothing_old(
    tmp_path: Path, make_raw: MakeRaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_raw(tmp_path)
    first = {path: path.read_bytes() for path in run(data).rglob("*") if path.is_file()}
    (data / "clean/valid/shards/000001.tar").write_bytes(b"of an earlier run")
    monkeypatch.setenv("TUWEN_WORKERS", "2")
    assert {path: path.read_bytes() for path in run(data).rglob("*") if path.is_file()} == first


def test_bad_rows_leave_with_a_reason_and_take_their_pairs_along(tmp_path: Path, make_raw: MakeRaw) -> None:
    data = make_raw(
        tmp_path,
        pictures={
            "labelled-01.png": "不是图片".encode(),
            "labelled-02.png": small_png(1, 40),
            "labelled-03.png": small_png(40, 15),
            "corpus-04.png": small_png(400, 300),
        },
        captions={
            "labelled-name-05": " \u3000 ",
            "labelled-line-05": "旧" * 61,
            "labelled-name-06": "铃声\x07响了",
        },
    )
    change(data, "labelled", "pairs", 14, image_id="不存在.png")
    change(data, "labelled", "pairs", 15, text_id="不存在")
    clean = run(data)
    found = quarantined(clean)
    assert {row for row in found if row[1] == "image"} == {
        ("labelled", "image", "labelled-01.png", "unreadable", "warning"),
        ("labelled", "image", "labelled-02.png", "too_narrow", "warning"),
        ("labelled", "image", "labelled-03.png", "too_low", "warning"),
        ("labelled", "image", "labelled-05.png", "without_pair", "warning"),
        ("labelled", "image", "labelled-07.png", "without_pair", "warning"),
        ("corpus", "image", "corpus-04.png", "too_large", "warning"),
    }
    reasons = {row[2]: row[3] for row in found if row[0] == "labelled"}
    assert reasons["labelled-name-05"] == "empty"
    assert reasons["labelled-line-05"] == "too_long"
    assert reasons["labelled-name-06"] == "control_characters"
    assert reasons["pair-labelled-name-01"] == "picture_quarantined"
    assert reasons["pair-labelled-name-06"] == "caption_quarantined"
    assert reasons["pair-labelled-name-07"] == "picture_missing"
    assert reasons["pair-labelled-line-07"] == "caption_missing"
    assert reasons["labelled-name-01"] == reasons["labelled-line-07"] == "without_pair"
    quality = json.loads((clean / "quality.json").read_text(encoding="utf-8"))
    for name, table in (("labelled", "images"), ("labelled", "texts"), ("labelled", "pairs"), ("corpus", "pairs")):
        counts = quality["raw"][name][table]
        assert counts["in"] == counts["clean"] + counts["quarantined"]
        assert counts["quarantined"] == sum(counts["faults"].values())
    assert quality["raw"]["labelled"]["images"]["clean"] == 7
    assert quality["checks"]["labelled"]["images"]["unreadable"] == {
        "severity": "warning",
        "success": False,
        "unexpected": 1,
    }
    kept = [text for name in ("train", "valid", "test") for text in ids(clean, name, "texts")]
    assert "labelled-line-06" in kept
    assert not {"labelled-name-05", "labelled-name-06", "labelled-name-01"} & set(kept)


def test_task_rows_are_never_removed_only_listed(tmp_path: Path, make_raw: MakeRaw) -> None:
    data = make_raw(
        tmp_path,
        tasks=True,
        pictures={"t2i-00.png": small_png(300, 1), "i2t-01.png": b"GIF89a"},
        captions={"t2i-name-02": "", "i2t-name-03": '港口,"渔船"\n傍晚'},
    )
    clean = run(data)
    assert quarantined(clean) == {
        ("t2i", "image", "t2i-00.png", "too_low", "info"),
        ("t2i", "text", "t2i-name-02", "empty", "info"),
        ("i2t", "image", "i2t-01.png", "unreadable", "info"),
    }
    for name in ("t2i", "i2t"):
        assert pairs.read(clean / name) == pairs.read(data / "raw" / name)
        assert json.loads((clean / name / "manifest.json").read_text())["inputs"].keys() == {name}
    with open(clean / "i2t/word_data.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert ["i2t-name-03", '港口,"渔船"\n傍晚'] in rows
    assert len(rows) == 9


def test_without_groups_of_the_source_copies_stay_together(tmp_path: Path, make_raw: MakeRaw) -> None:
    copy = small_png(50, 50)
    data = make_raw(
        tmp_path,
        grouped=False,
        pictures=dict.fromkeys(("labelled-00.png", "labelled-05.png"), copy),
        captions=dict.fromkeys(("labelled-line-05", "labelled-line-09"), "葡萄架下挂满了成熟的果实和叶子"),
    )
    clean = run(data)
    groups = {
        row["image_id"]: row["group"]
        for name in ("train", "valid", "test")
        for row in pairs.read(clean / name).images.to_pylist()
    }
    assert groups["labelled-00.png"] == groups["labelled-05.png"] == groups["labelled-09.png"] == "labelled-00.png"
    figures = json.loads((clean / "quality.json").read_text(encoding="utf-8"))["groups"]
    assert figures["groups"] == len(set(groups.values())) == 10
    assert (figures["groups_of_several_pictures"], figures["largest_group_pictures"]) == (1, 3)
    assert figures["near_equal_pictures_across_splits"] == 0


def test_a_caption_on_many_pictures_is_reported_and_stays(tmp_path: Path, make_raw: MakeRaw) -> None:
    data = make_raw(tmp_path, captions={f"labelled-name-{n:02d}": "图片来自网络" for n in range(4)})
    clean = run(data)
    verdict = json.loads((clean / "quality.json").read_text())["checks"]["labelled"]["texts"][
        "on_too_many_pictures"
    ]
    assert verdict == {"severity": "warning", "success": False, "unexpected": 4}
    assert quarantined(clean) == set()


def test_too_many_bad_rows_stop_the_stage_and_are_named_in_the_quarantine(
    tmp_path: Path, make_raw: MakeRaw
) -> None:
    broken = {f"corpus-{n:02d}.png": b"" for n in range(2)}
    data = make_raw(tmp_path, pictures=broken)
    message = (
        r"raw/corpus/images\.parquet: quarantined_share is 0\.1667; "
        r"validate\.max_quarantined_share allows 0\.1: unreadable 2; mend these rows in the source"
    )
    with pytest.raises(UserError, match=message):
        run(data, PARAMS.model_copy(update={"max_quarantined_share": 0.1}))
    assert {row[2] for row in quarantined(data / "clean") if row[3] == "unreadable"} == set(broken)


def test_a_group_that_swallows_the_set_stops_the_stage(
    tmp_path: Path, make_raw: MakeRaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "MIN_PICTURES_FOR_GROUP_SHARE", 11)
    monkeypatch.setattr(checks, "MAX_GROUP_SHARE", 0.2)
    data = make_raw(
        tmp_path, grouped=False, pictures={f"labelled-{n:02d}.png": small_png(50, 50) for n in range(3)}
    )
    with pytest.raises(
        UserError, match=r"group_too_large on 1 of 10 rows, such as labelled-00\.png; it holds more"
    ):
        run(data)


def test_a_query_without_a_true_item_stops_the_stage(sound: Path) -> None:
    test = pairs.read(sound / "test")
    lone = test.images["image_id"].to_pylist()[0]
    unpaired = replace(test, pairs=test.pairs.filter(pc.not_equal(test.pairs["image_id"], lone)))
    judge_positives(sound / "test", test)
    with pytest.raises(
        UserError, match=rf"test/images\.parquet: without_positive on 1 of 3 rows, such as {lone}; "
    ):
        judge_positives(sound / "test", unpaired)


def test_a_leak_or_a_lost_row_is_our_own_fault(sound: Path) -> None:
    parts = {name: pairs.read(sound / name) for name in ("train", "valid")}
    both = replace(
        parts["train"],
        **{
            table: pa.concat_tables([getattr(part, table) for part in parts.values()])
            for table in ("images", "texts", "pairs")
        },
    )
    assert_whole(both, parts)
    leaking = replace(parts["valid"], images=with_groups(parts["valid"].images, ["concept-00", "concept-01"]))
    assert {"concept-00", "concept-01"} & set(parts["train"].images["group"].to_pylist())
    with pytest.raises(AssertionError, match="a group spans splits"):
        assert_whole(both, parts | {"valid": leaking})
    with pytest.raises(AssertionError, match="images: rows lost or doubled"):
        assert_whole(both, {"train": parts["train"]})


def drop(data: Path, name: str, table: str) -> None:
    path = data / "raw" / name / f"{table}.parquet"
    pairs.write_table(path, pairs.read_table(path).slice(0, 0))


def raw_without_rows(data: Path) -> None:
    pairs.write(data / "raw/labelled", pairs.empty())


def half_a_task(data: Path) -> None:
    asked = pairs.read(data / "raw/labelled")
    pairs.write(data / "raw/t2i", replace(pairs.empty(), texts=asked.texts))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda d: change(d, "labelled", "texts", 1, text_id="labelled-name-00"),
            "duplicate_text_id on 2 of 24 rows",
        ),
        (
            lambda d: change(d, "corpus", "images", 1, image_id="corpus-00.png"),
            r"corpus.+duplicate_image_id on 2 of",
        ),
        (lambda d: change(d, "corpus", "pairs", 3, pair_id=None), "null_pair_id on 1 of 24 rows, such as row 3"),
        (lambda d: change(d, "labelled", "images", 4, sha256="0" * 64), r"altered_bytes .+ labelled-04\.png"),
        (raw_without_rows, r"raw/labelled/images\.parquet: rows is 0; give the set pictures and captions"),
        (lambda d: drop(d, "labelled", "pairs"), r"raw/labelled/pairs\.parquet: rows is 0"),
        (half_a_task, r"raw/t2i/images\.parquet: rows is 0"),
        (
            lambda d: (d / "raw/labelled/shards/000000.tar").unlink(),
            r"labelled/shards/000000\.tar: this shard is miss",
        ),
        (lambda d: (d / "raw/i2t/texts.parquet").unlink(), r"raw/i2t/texts\.parquet: this table is missing"),
    ],
)
def test_what_must_stop_the_stage_stops_it(
    tmp_path: Path, make_raw: MakeRaw, spoil: Callable[[Path], None], message: str
) -> None:
    data = make_raw(tmp_path)
    spoil(data)
    with pytest.raises(UserError, match=message):
        run(data)
    assert not (data / "clean/train").exists()


def test_the_stage_runs_by_name_and_tells_a_users_mistake_without_a_traceback(
    tmp_path: Path,
    make_raw: MakeRaw,
    write_params: Callable[..., Path],
    run_stage: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    write_params(tmp_path)
    missing = run_stage(tmp_path, "validate")
    assert missing.returncode == 1
    assert missing.stderr.splitlines() == [
        "error: data/raw/labelled/images.parquet: this table is missing; "
        "run the stage that makes it with `dvc repro`"
    ]
    data = make_raw(tmp_path)
    done = run_stage(tmp_path, "validate")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    before = manifest.file_sha256(data / "clean/train/manifest.json")
    change(data, "labelled", "images", 1, image_id="labelled-00.png")
    doubled = run_stage(tmp_path, "validate")
    assert doubled.returncode == 1
    assert doubled.stderr.splitlines() == [
        "error: data/raw/labelled/images.parquet: duplicate_image_id on 2 of 12 rows, such as labelled-00.png; "
        "give every row its own image_id in the source"
    ]
    assert manifest.file_sha256(data / "clean/train/manifest.json") == before, "what stood is not half overwritten"
