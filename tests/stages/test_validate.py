import csv
import hashlib
import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from tests.support.pair_sets import EMPTY_SET
from tests.support.validate import (
    assert_rows_add_up,
    change_row,
    read_ids,
    read_quality,
    read_quarantine,
    run_validate,
)
from tuwen.core.errors import UserError
from tuwen.data.formats import manifest, pairs, shards
from tuwen.data.quality.dealing import assert_nothing_lost
from tuwen.data.quality.duplicates.groups import replace_groups
from tuwen.data.quality.validate import require_positives

MakeRaw = Callable[..., Path]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, make_raw: MakeRaw) -> Path:
    """The clean sets of a dozen faultless images; "水果" and " 水果" stand on six images each."""
    names = {f"labelled-name-{n:02d}": caption for n, caption in enumerate(["水果", " 水果"] * 6)}
    data = make_raw(tmp_path_factory.mktemp("sound"), captions=names)
    return run_validate(data, docs=data / "docs")


def test_every_row_comes_through(sound: Path) -> None:
    summary = read_quality(sound)
    for name in ("labelled", "corpus/art"):
        for table, count in (("images", 12), ("texts", 24), ("pairs", 24)):
            none = dict.fromkeys(("quarantined", "left_out", "blank"), 0)
            merged = 3 if (name, table) == ("labelled", "texts") else 0  # 水果 of valid and test
            counts = {"in": count, "clean": count - merged, "merged": merged, "faults": {}}
            assert summary["raw"][name][table] == counts | none
    assert_rows_add_up(sound)
    dealt = [image for name in ("train", "valid", "test") for image in read_ids(sound, name, "images")]
    assert sorted(dealt) == [f"labelled-{n:02d}.png" for n in range(12)]
    assert [len(read_ids(sound, name, "images")) for name in ("train", "valid", "test", "corpus")] == [7, 2, 3, 12]
    listed = [(row["item"], row["reason"], row["severity"], row["outcome"]) for row in read_quarantine(sound)]
    assert (
        listed
        == [("text", "equal_to_another", "info", "merged")] * 3
        + [("text", "caption_in_train", "warning", "stays")] * 2
    ), "水果 stands in all three splits"
    assert summary["raw"]["labelled"]["formats"] == {"PNG": 12}
    assert summary["raw"]["labelled"]["side_words"] == 1  # 小女孩左手举着一只橙色的气球
    assert summary["groups"]["groups"] == 12
    assert list(summary) == ["raw", "clean", "groups", "leaks", "drift", "corpus", "checks"]
    finding = summary["checks"]["labelled"]["texts"]["on_too_many_pictures"]  # 水果 on twelve, stays
    assert finding == {"severity": "warning", "success": False, "unexpected": 12}


def test_what_ingest_noted_stands_in_the_quality_files(make_raw: MakeRaw, tmp_path: Path) -> None:
    data = make_raw(tmp_path)
    note = {"names read otherwise: backslashes": {"count": 7, "examples": ["图\\1.jpg"]}}
    (data / "raw/labelled/notes.json").write_text(json.dumps(note), encoding="utf-8")
    summary = read_quality(run_validate(data))
    assert summary["noted_by_ingest"] == {"labelled": {"names read otherwise: backslashes": 7}}


def test_train_keeps_its_texts_and_the_others_merge_equal_captions(sound: Path) -> None:
    assert len(read_ids(sound, "train", "texts")) == len(read_ids(sound, "train", "pairs")) == 14
    for name, images in (("bank", 7), ("valid", 2), ("test", 3)):
        merged = pairs.read_pair_set(sound / name)
        captions = [caption.strip() for caption in merged.texts["caption"].to_pylist()]
        assert len(captions) == len(set(captions)) == images + 1
        fruit = merged.texts["text_id"].to_pylist()[captions.index("水果")]
        carriers = merged.pairs["text_id"].to_pylist().count(fruit)
        assert carriers == images, "true for every image that carries it"
        assert len(merged.pairs) == 2 * images
    assert read_quality(sound)["clean"]["test"] == {"images": 3, "texts": 4, "pairs": 6, "merged_captions": 2}
    assert read_ids(sound, "bank", "images") == read_ids(sound, "train", "images")


def test_what_of_valid_and_test_stands_in_train_is_counted(sound: Path) -> None:
    overlap = read_quality(sound)["leaks"][
        "captions"
    ]  # the corpus has the names, 水果 is the labelled set's alone
    assert overlap["valid"] == {"captions": 3, "in_train": 1, "in_train_share": 0.3333, "in_corpus": 2}
    assert overlap["test"] == {"captions": 4, "in_train": 1, "in_train_share": 0.25, "in_corpus": 3}
    finding = read_quality(sound)["checks"]["labelled"]["texts"]["caption_in_train"]
    assert finding == {"severity": "warning", "success": False, "unexpected": 2}
    assert "test in train share" in (sound / "quality.html").read_text(encoding="utf-8")


def test_sets_that_are_embedded_have_shards_of_their_own_the_others_point_into_raw(sound: Path) -> None:
    folders = {name: f"clean/{name}" for name in ("valid", "test", "t2i", "i2t")}
    folders |= {"corpus": "raw/corpus/art", "train": "raw/labelled", "bank": "raw/labelled"}
    for name in pairs.CLEAN_SETS:
        for row in pairs.read_pair_set(sound / name).images.to_pylist():
            assert row["shard"].startswith(folders[name] + "/shards/")
            encoded = shards.read_member(sound.parent, shards.Place.of(row))
            assert hashlib.sha256(encoded).hexdigest() == row["sha256"]
    assert list((sound / "train").glob("**/*.tar")) == []


def test_without_a_task_the_test_split_is_the_task_in_the_contests_form(sound: Path) -> None:
    test = pairs.read_pair_set(sound / "test")
    for name in ("t2i", "i2t"):
        task = pairs.read_pair_set(sound / name)
        assert (task.texts, task.pairs) == (test.texts, test.pairs)
        assert task.images.drop_columns("shard") == test.images.drop_columns("shard")
        tars = [(sound / one / "shards/000000.tar").read_bytes() for one in (name, "test")]
        assert tars[0] == tars[1]
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


def test_the_manifests_hold_the_digests_of_the_files_and_nothing_that_changes_without_them(sound: Path) -> None:
    for name in pairs.CLEAN_SETS:
        body = json.loads((sound / name / "manifest.json").read_text(encoding="utf-8"))
        assert (body["inputs"], body["params"]) == ({}, {})
        paths = [path for path in (sound / name).rglob("*.[ptc]*") if path.is_file()]
        assert body["files"] == {str(path.relative_to(sound / name)): manifest.hash_file(path) for path in paths}


def test_the_page_and_the_data_docs_stand(sound: Path) -> None:
    page = (sound / "quality.html").read_text(encoding="utf-8")
    assert "on_too_many_pictures" in page
    docs = sound.parent / "docs"
    assert "corpus/art/images" in (docs / "index.html").read_text(encoding="utf-8")
    page = (docs / "labelled-texts.html").read_text(encoding="utf-8")
    assert "values must be less than or equal to" in page  # max_pictures_per_caption, in GE's words
    assert {path.name for path in docs.iterdir()} == {"index.html"} | {
        f"{name}-{table}.html" for name in ("labelled", "corpus-art") for table in ("images", "texts", "pairs")
    }


def test_a_rerun_writes_the_same_bytes_and_leaves_nothing_old(
    sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> dict[str, bytes]:
        return {str(path.relative_to(sound)): path.read_bytes() for path in sound.rglob("*") if path.is_file()}

    first = files()
    (sound / "valid/shards/000001.tar").write_bytes(b"of an earlier run")
    (sound.parent / "docs-are-a-file").write_text("so no page can be written there, and nothing else is lost")
    monkeypatch.setenv("TUWEN_WORKERS", "2")
    run_validate(sound.parent, docs=sound.parent / "docs-are-a-file" / "docs")
    assert files() == first
    text = b"".join(first.values()).decode("utf-8", errors="replace")
    assert str(sound.parent) not in text


def test_a_query_without_a_true_item_stops_the_stage(sound: Path) -> None:
    test = pairs.read_pair_set(sound / "test")
    lone = test.images["image_id"].to_pylist()[0]
    unpaired = replace(test, pairs=test.pairs.filter(pc.not_equal(test.pairs["image_id"], lone)))
    require_positives(sound / "test", test)
    message = rf"test/images\.parquet: without_positive on 1 of 3 rows, such as {lone}; "
    with pytest.raises(UserError, match=message):
        require_positives(sound / "test", unpaired)


def test_a_leak_or_a_lost_row_is_our_own_fault(sound: Path) -> None:
    parts = {name: pairs.read_pair_set(sound / name) for name in ("train", "valid")}
    both = replace(
        parts["train"],
        **{
            table: pa.concat_tables([getattr(part, table) for part in parts.values()])
            for table in ("images", "texts", "pairs")
        },
    )
    assert_nothing_lost(both, parts)
    leaking = replace(parts["valid"], images=replace_groups(parts["valid"].images, ["concept-00", "concept-01"]))
    assert {"concept-00", "concept-01"} & set(parts["train"].images["group"].to_pylist())
    with pytest.raises(AssertionError, match="a group spans splits"):
        assert_nothing_lost(both, parts | {"valid": leaking})
    with pytest.raises(AssertionError, match="images: rows lost or doubled"):
        assert_nothing_lost(both, {"train": parts["train"]})


def empty_table(data: Path, name: str, table: str) -> None:
    path = data / "raw" / name / f"{table}.parquet"
    pairs.write_table(path, pairs.read_table(path).slice(0, 0))


def write_task_without_images(data: Path) -> None:
    labelled = pairs.read_pair_set(data / "raw/labelled")
    pairs.write_pair_set(data / "raw/t2i", replace(EMPTY_SET, texts=labelled.texts))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda d: change_row(d, "labelled", "texts", 1, text_id="labelled-name-00"),
            "duplicate_text_id on 2 of 24 rows, such as labelled-name-00; give every row its own text_id",
        ),
        (
            lambda d: change_row(d, "corpus/art", "images", 1, image_id="corpus-00.png"),
            r"corpus/art.+duplicate_image_id on 2 of",
        ),
        (
            lambda d: change_row(d, "t2i", "images", None, image_id=None),
            "t2i.+null_image_id on 1 of 1 rows, such as row 0",
        ),
        (lambda d: change_row(d, "labelled", "images", 4, sha256="0" * 64), r"altered_bytes .+ labelled-04\.png"),
        (
            lambda d: pairs.write_pair_set(d / "raw/labelled", EMPTY_SET),
            r"raw/labelled/images\.parquet: rows is 0; give the set pictures and captions",
        ),
        (lambda d: empty_table(d, "labelled", "pairs"), r"raw/labelled/pairs\.parquet: rows is 0"),
        (write_task_without_images, r"raw/t2i/images\.parquet: rows is 0"),
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
        run_validate(data)
    assert not (data / "clean/train").exists()


def test_the_stage_runs_by_name_and_reports_a_users_mistake_without_a_traceback(
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
    assert "rror" not in done.stderr
    assert len(read_ids(data / "clean", "train", "images")) > len(read_ids(data / "clean", "test", "images")) > 0
    assert (tmp_path / "runs/data-docs/index.html").is_file()
