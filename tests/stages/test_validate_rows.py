import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.validate import (
    PARAMS,
    assert_rows_add_up,
    change_row,
    draw_png,
    lose_image,
    read_ids,
    read_quality,
    read_quarantine,
    read_reasons,
    run_validate,
)
from tuwen.core.errors import UserError
from tuwen.data.formats import pairs
from tuwen.data.quality import consistency

MakeRaw = Callable[..., Path]


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, make_raw: MakeRaw) -> Path:
    """The clean sets of raw ones with a fault of every kind, in the labelled rows, the corpus and both tasks."""
    data = make_raw(
        tmp_path_factory.mktemp("faulty"),
        tasks=True,
        pictures={
            "labelled-01.png": "不是图片".encode(),
            "labelled-02.png": draw_png(1, 40),
            "labelled-03.png": draw_png(40, 15),
            "labelled-09.png": draw_png(200, 20),
            "corpus-04.png": draw_png(400, 300),
            "t2i-00.png": draw_png(300, 1),
            "t2i-01.png": draw_png(400, 300),
            "i2t-00.png": draw_png(300, 1),
            "i2t-01.png": b"GIF89a",
            "i2t-02.png": draw_png(400, 300),
        },
        captions={
            "labelled-name-05": " \u3000 ",
            "labelled-line-05": "旧" * 61,
            "labelled-name-06": "铃声\x07响了",
            "labelled-name-10": "左手举着灯笼",
            "labelled-line-10": "右手举着灯笼",
            "t2i-name-02": "\u200b\n",
            "t2i-line-02": "旧" * 61,
            "i2t-name-02": "",
            "i2t-line-02": "旧" * 61,
            "i2t-name-03": '港口,"渔船"\n傍晚',
        },
    )
    change_row(data, "labelled", "pairs", 14, image_id="不存在.png")
    change_row(data, "labelled", "pairs", 15, text_id="不存在")
    lose_image(data, "labelled", 8, "missing")
    lose_image(data, "corpus/art", 5, "outside_source")
    lose_image(data, "t2i", 3, "unreadable_record")
    lose_image(data, "i2t", 3, "missing")
    change_row(data, "t2i", "pairs", None, pair_id="对1", image_id="t2i-02.png", text_id="t2i-name-00")
    change_row(data, "t2i", "pairs", None, pair_id="对2", image_id="t2i-03.png", text_id="t2i-name-02")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consistency, "MIN_ROWS_FOR_DRIFT", 9)
        return run_validate(data, PARAMS.model_copy(update={"max_quarantined_share": 0.9, "max_drift": 0.1}))


def test_rows_in_are_clean_or_listed_in_every_set(faulty: Path) -> None:
    assert_rows_add_up(faulty)
    gone = {
        row["id"]
        for row in read_quarantine(faulty)
        if row["set"] == "labelled" and row["outcome"] == "quarantined"
    }
    for table in ("images", "texts", "pairs"):
        kept = {one for name in ("train", "valid", "test") for one in read_ids(faulty, name, table)}
        before = set(pairs.read_table(faulty.parent / f"raw/labelled/{table}.parquet").column(0).to_pylist())
        if table == "images":
            assert kept | (gone & before) == before
        assert not kept & gone
    assert read_quality(faulty)["checks"]["labelled"]["images"]["unreadable"] == {
        "severity": "warning",
        "success": False,
        "unexpected": 1,
    }


def test_bad_labelled_rows_leave_with_a_reason_and_take_their_pairs_along(faulty: Path) -> None:
    left = read_reasons(faulty, "labelled", "image")
    assert {name: reason for name, (reason, _) in left.items()} == {
        "labelled-01.png": "unreadable",
        "labelled-02.png": "too_narrow",
        "labelled-03.png": "too_low",
        "labelled-05.png": "without_pair",
        "labelled-07.png": "without_pair",
        "labelled-08.png": "missing",
    }
    assert {outcome for _, outcome in left.values()} == {"quarantined"}
    left = read_reasons(faulty, "labelled", "text")
    assert left["labelled-name-05"][0] == "empty"
    assert left["labelled-line-05"][0] == "too_long"
    assert left["labelled-name-06"][0] == "control_characters"
    assert left["labelled-name-01"][0] == left["labelled-line-07"][0] == "without_pair"
    left = read_reasons(faulty, "labelled", "pair")
    assert left["pair-labelled-name-01"][0] == left["pair-labelled-line-08"][0] == "picture_quarantined"
    assert left["pair-labelled-name-06"][0] == "caption_quarantined"
    assert left["pair-labelled-name-07"][0] == "picture_missing"
    assert left["pair-labelled-line-07"][0] == "caption_missing"
    kept = [text for name in ("train", "valid", "test") for text in read_ids(faulty, name, "texts")]
    assert "labelled-line-06" in kept
    checks = read_quality(faulty)["checks"]["labelled"]["images"]
    assert (checks["elongated"]["unexpected"], checks["elongated"]["success"]) == (2, False)
    assert any("labelled-09.png" in read_ids(faulty, name, "images") for name in ("train", "valid", "test"))


def test_the_page_shows_rows_of_each_check_that_is_not_met(faulty: Path) -> None:
    page = (faulty / "quality.html").read_text(encoding="utf-8")
    assert r"铃声\x07响了" in page
    assert "旧" * 61 in page
    assert '<td class="word">左手举着灯笼</td>' in page  # of a pair that contradicts another


def test_what_contradicts_and_what_drifts_is_reported_and_stays(faulty: Path) -> None:
    summary = read_quality(faulty)
    assert summary["checks"]["labelled"]["pairs"]["opposite_sides"]["unexpected"] == 2
    assert "labelled-10.png" in [
        name for part in ("train", "valid", "test") for name in read_ids(faulty, part, "images")
    ]
    assert summary["drift"]["t2i"].keys() == {"chars", "latin_share"}, "five pictures are too few"
    far = {name: [d for d in summary["drift"][name].values() if d > 0.1] for name in ("t2i", "i2t")}
    assert any(far.values())
    for name, distances in far.items():
        finding = {"severity": "warning", "success": not distances, "unexpected": len(distances)}
        assert summary["checks"][name]["drift"] == {"drift": finding}


def test_bad_corpus_rows_leave_their_set(faulty: Path) -> None:
    assert read_reasons(faulty, "corpus/art", "image") == {
        "corpus-04.png": ("too_large", "quarantined"),
        "corpus-05.png": ("outside_source", "quarantined"),
    }
    assert len(read_ids(faulty, "corpus", "images")) == 10


def test_every_query_stays_and_what_cannot_be_ranked_is_left_out(faulty: Path) -> None:
    assert read_reasons(faulty, "t2i", "image") == {
        "t2i-00.png": ("too_low", "left_out"),
        "t2i-01.png": ("too_large", "left_out"),
        "t2i-03.png": ("unreadable_record", "left_out"),
    }
    assert read_reasons(faulty, "t2i", "text") == {"t2i-name-02": ("empty", "blank")}
    assert read_reasons(faulty, "t2i", "pair") == {"对2": ("picture_left_out", "left_out")}
    assert read_ids(faulty, "t2i", "images") == [f"t2i-0{n}.png" for n in (2, 4, 5, 6, 7)]
    assert read_ids(faulty, "t2i", "pairs") == ["对1"]
    clean, raw = pairs.read_pair_set(faulty / "t2i"), pairs.read_pair_set(faulty.parent / "raw/t2i")
    assert clean.texts["text_id"] == raw.texts["text_id"]
    captions = dict(zip(clean.texts["text_id"].to_pylist(), clean.texts["caption"].to_pylist(), strict=True))
    assert captions["t2i-name-02"] == ""
    assert captions["t2i-line-02"] == "旧" * 61, "too long is no reason to lose a query"

    assert read_reasons(faulty, "i2t", "image") == {
        "i2t-01.png": ("unreadable", "blank"),
        "i2t-02.png": ("too_large", "blank"),
        "i2t-03.png": ("missing", "blank"),
    }
    assert read_reasons(faulty, "i2t", "text") == {"i2t-name-02": ("empty", "left_out")}
    images = pairs.read_pair_set(faulty / "i2t").images.to_pylist()
    assert [row["image_id"] for row in images] == [f"i2t-0{n}.png" for n in range(8)]
    assert images[0]["shard"] == "raw/i2t/shards/000000.tar", "undersized, but it can be seen"
    for row in images[1:4]:
        assert [row[name] for name in ("shard", "offset", "size", "sha256")] == [None] * 4
    assert len(read_ids(faulty, "i2t", "texts")) == 15
    assert "i2t-line-02" in read_ids(faulty, "i2t", "texts")
    with open(faulty / "i2t/word_data.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert ["i2t-name-03", '港口,"渔船"\n傍晚'] in rows
    assert len(rows) == 16


def test_the_csv_names_file_and_row_of_each(faulty: Path) -> None:
    written = (faulty / "quarantine.csv").read_bytes()
    assert b"\r" not in written
    rows = list(csv.DictReader(written.decode("utf-8").splitlines()))
    assert len(rows) == len(read_quarantine(faulty))
    assert rows[0] == {
        "set": "labelled",
        "file": "pictures/labelled-01.png",
        "row": "",
        "id": "labelled-01.png",
        "reason": "unreadable",
        "severity": "warning",
        "outcome": "quarantined",
        "counterpart": "",
    }
    (empty,) = (row for row in rows if row["id"] == "labelled-name-05")
    assert (empty["file"], empty["row"]) == ("captions.csv", "12")
    assert {row["outcome"] for row in rows} == {"quarantined", "left_out", "blank"}


def test_too_many_bad_rows_stop_the_stage_and_are_named_in_the_quarantine(
    tmp_path: Path, make_raw: MakeRaw
) -> None:
    broken = {f"corpus-{n:02d}.png": b"" for n in range(2)}
    data = make_raw(tmp_path, pictures=broken)
    message = (
        r"raw/corpus/art/images\.parquet: quarantined_share is 0\.1667; "
        r"validate\.max_quarantined_share allows 0\.1: unreadable 2; mend these rows in the source"
    )
    with pytest.raises(UserError, match=message):
        run_validate(data, PARAMS.model_copy(update={"max_quarantined_share": 0.1}))
    assert {row["id"] for row in read_quarantine(data / "clean") if row["reason"] == "unreadable"} == set(broken)
    assert b"corpus-01.png,unreadable" in (data / "clean/quarantine.csv").read_bytes()


def test_a_task_that_leaves_too_few_to_rank_stops_the_stage(tmp_path: Path, make_raw: MakeRaw) -> None:
    data = make_raw(tmp_path, tasks=True, pictures={f"t2i-{n:02d}.png": draw_png(300, 1) for n in range(4)})
    message = r"raw/t2i/images\.parquet: gallery_items is 4; a result ranks 5 items .+ clean/quarantine\.csv"
    with pytest.raises(UserError, match=message):
        run_validate(data)
    assert {row["id"] for row in read_quarantine(data / "clean")} == {f"t2i-{n:02d}.png" for n in range(4)}
