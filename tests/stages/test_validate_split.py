from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stages.conftest import picture
from tests.support.validate import (
    PARAMS,
    TEXT,
    assert_rows_add_up,
    change_row,
    draw_png,
    read_counterparts,
    read_ids,
    read_quality,
    read_quarantine,
    read_reasons,
    run_validate,
)
from tuwen.core.errors import UserError
from tuwen.core.params import Text
from tuwen.data.formats import pairs
from tuwen.data.quality import suites

MakeRaw = Callable[..., Path]
OFFICIAL = ["train"] * 6 + ["valid"] * 2 + ["test"] * 3 + [None]


def read_images(clean: Path, *names: str) -> dict[str, dict[str, str]]:
    rows = [row for name in names for row in pairs.read_pair_set(clean / name).images.to_pylist()]
    return {row["image_id"]: row for row in rows}


def test_without_groups_of_the_source_copies_stay_together(tmp_path: Path, make_raw: MakeRaw) -> None:
    copy = draw_png(50, 50)
    data = make_raw(
        tmp_path,
        grouped=False,
        pictures=dict.fromkeys(("labelled-00.png", "labelled-05.png"), copy),
        captions=dict.fromkeys(("labelled-line-05", "labelled-line-09"), "葡萄架下挂满了成熟的果实和叶子"),
    )
    clean = run_validate(data)
    rows = read_images(clean, "train", "valid", "test")
    joined = {rows[f"labelled-{n}.png"]["group"] for n in ("00", "05", "09")}
    assert joined == {"labelled-00.png"}
    assert rows["labelled-05.png"]["positive_id"] == "labelled-00.png", "equal bytes are one original"
    assert rows["labelled-09.png"]["positive_id"] == "labelled-09.png"
    summary = read_quality(clean)
    groups = summary["groups"]
    assert groups["groups"] == len({row["group"] for row in rows.values()}) == 10
    assert (groups["groups_of_several_pictures"], groups["largest_group_pictures"]) == (1, 3)
    assert groups["near_equal_pictures_across_splits"] == 0
    assert summary["leaks"]["prevented"] in (0, 2), "by the hash of their names the two may fall into one split"


SIMPLIFY = TEXT.model_copy(update={"simplify": True})
SPELLED = {"labelled-line-05": "蘋果樹下的貓", "labelled-line-09": "苹果树下的猫。"}


@pytest.mark.parametrize(("text", "groups"), [(TEXT, 12), (SIMPLIFY, 11)])
def test_captions_that_differ_in_script_are_equal_where_the_model_reads_them_as_one(
    tmp_path: Path, make_raw: MakeRaw, text: Text, groups: int
) -> None:
    clean = run_validate(make_raw(tmp_path, grouped=False, captions=SPELLED), text=text)
    summary = read_quality(clean)
    assert summary["groups"]["groups"] == groups
    found = summary["checks"]["labelled"]["texts"]["duplicate_caption"]["unexpected"]
    assert found == (2 if text.simplify else 0)


def test_what_train_holds_in_the_other_script_is_counted_and_no_caption_changes_its_letters(
    tmp_path: Path, make_raw: MakeRaw
) -> None:
    captions = SPELLED | {"labelled-name-08": "龍眼", "labelled-name-09": "龙眼"}
    data = name_splits(make_raw(tmp_path, captions=captions), "tttttttvssss")  # groups of the source part them
    clean = run_validate(data, text=SIMPLIFY)
    assert read_counterparts(clean, "caption_in_train") == {
        "labelled-line-09": "labelled labelled-line-05 (captions.csv, row 13)"
    }
    assert read_quality(clean)["leaks"]["captions"]["test"]["in_train"] == 1
    written = {
        row["text_id"]: row["caption"]
        for name in ("train", "test", "bank")
        for row in pairs.read_pair_set(clean / name).texts.to_pylist()
    }
    assert written.items() >= captions.items()
    links = {(row["image_id"], row["text_id"]) for row in pairs.read_pair_set(clean / "test").pairs.to_pylist()}
    assert links >= {
        (f"labelled-{one}.png", f"labelled-name-{two}") for one in ("08", "09") for two in ("08", "09")
    }
    assert_rows_add_up(clean)


def test_a_group_that_swallows_the_set_stops_the_stage(
    tmp_path: Path, make_raw: MakeRaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites, "MIN_IMAGES_FOR_GROUP_SHARE", 11)
    data = make_raw(
        tmp_path, grouped=False, pictures={f"labelled-{n:02d}.png": draw_png(50, 50) for n in range(3)}
    )
    message = r"group_too_large on 1 of 10 rows, such as labelled-00\.png; it holds more .+ \(0\.2\)"
    with pytest.raises(UserError, match=message):
        run_validate(data, PARAMS.model_copy(update={"max_group_share": 0.2}))


def read_copies_on_page(clean: Path) -> str:
    """Return the part of quality.html that shows copies; it comes before the distributions."""
    page = (clean / "quality.html").read_text(encoding="utf-8")
    return page.partition("<h2>Pictures that show the same</h2>")[2].partition("<h2>")[0]


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory, make_raw: MakeRaw) -> Path:
    """Clean sets of a source with splits of its own that leak twice, and with pairs of label 0."""
    twins = {f"labelled-{n:02d}.png": draw_png(50, 50) for n in (0, 8)} | {
        f"labelled-{n:02d}.png": draw_png(50, 50, "maroon") for n in (1, 6)
    }
    data = make_raw(tmp_path_factory.mktemp("official"), grouped=False, pictures=twins)
    for row, split in enumerate(OFFICIAL):
        change_row(data, "labelled", "images", row, split=split)
    path = data / "raw/labelled/pairs.parquet"
    table = pairs.read_table(path).to_pylist()
    for row in table:
        row["label"] = 1
    table[4 * 2 + 1]["label"] = 0  # one of the two captions of a train picture
    table[9 * 2]["label"] = table[9 * 2 + 1]["label"] = 0  # all of a test picture's
    line = "葡萄架下挂满了成熟的果实"  # a denied pair joins no groups: this caption is picture 4's, in train
    table.append(table[4 * 2 + 1] | {"pair_id": "对-0", "image_id": "labelled-10.png", "label": 0})
    pairs.write_table(path, pairs.PAIRS.empty_table().from_pylist(table, pairs.PAIRS))
    assert line in pairs.read_pair_set(data / "raw/labelled").texts["caption"].to_pylist()
    return run_validate(data)


def test_the_sources_own_split_is_kept_but_for_what_leaks(official: Path) -> None:
    kept = {name: read_ids(official, name, "images") for name in ("train", "valid", "test")}
    assert kept["test"] == [f"labelled-{n:02d}.png" for n in (8, 9, 10)]
    assert kept["valid"] == ["labelled-06.png", "labelled-07.png"]
    assert kept["train"] == [f"labelled-{n:02d}.png" for n in (2, 3, 4, 5, 11)], "the rest is train"
    left = read_reasons(official, "labelled", "image")
    assert left["labelled-00.png"] == ("leaks_into_test", "quarantined")
    assert left["labelled-01.png"] == ("leaks_into_valid", "quarantined")
    assert read_reasons(official, "labelled", "pair")["pair-labelled-name-00"][0] == "picture_quarantined"
    assert read_reasons(official, "labelled", "text")["labelled-name-00"][0] == "without_pair"
    leaks = read_quality(official)["leaks"]
    assert (leaks["leaks_into_test"], leaks["leaks_into_valid"]) == (1, 1)
    assert read_counterparts(official, "leaks_into_test") == {
        "labelled-00.png": "labelled labelled-08.png (pictures/labelled-08.png)"
    }
    assert_rows_add_up(official)
    page = read_copies_on_page(official)
    assert page.count("2 pictures, equal bytes · ") == 2
    assert "the source has them in train, test" in page
    assert "the source has them in train, valid" in page
    assert "left: leaks into test (source: train)" in page


def test_denied_pairs_stay_and_are_no_positives(official: Path) -> None:
    test = pairs.read_pair_set(official / "test")
    denied = {row["pair_id"] for row in test.pairs.to_pylist() if row["label"] == 0}
    assert denied == {"pair-labelled-name-09", "pair-labelled-line-09", "对-0"}
    assert "labelled-09.png" in test.images["image_id"].to_pylist()
    assert len(pairs.select_true_pairs(test)) == 4
    assert "pair-labelled-line-04" in read_ids(official, "train", "pairs")


def name_splits(data: Path, splits: str) -> Path:
    """Put the source's images into these splits: t(rain), v(alid), s for test, - for none."""
    names = {name[0]: name for name in ("train", "valid")} | {"s": "test"}
    for row, split in enumerate(splits):
        change_row(data, "labelled", "images", row, split=names.get(split))
    return data


def test_a_split_of_the_source_without_a_clean_image_is_not_replaced(tmp_path: Path, make_raw: MakeRaw) -> None:
    data = name_splits(make_raw(tmp_path, pictures={f"labelled-{n}.png": b"" for n in (10, 11)}), "tttttttvvvss")
    message = r"labelled/images\.parquet: split test: none of its 2 pictures is clean; .+ clean/quarantine\.csv"
    with pytest.raises(UserError, match=message):
        run_validate(data)


def test_a_split_that_leaks_altogether_stops_the_stage(tmp_path: Path, make_raw: MakeRaw) -> None:
    twins = {
        f"labelled-{n:02d}.png": draw_png(40 + n % 2, 50, "navy" if n % 2 else "gold") for n in (8, 9, 10, 11)
    }
    data = name_splits(make_raw(tmp_path, grouped=False, pictures=twins), "ttttttttvvss")
    with pytest.raises(UserError, match=r"split valid: no picture is left, all of its groups reach a later split"):
        run_validate(data)
    assert read_reasons(data / "clean", "labelled", "image")["labelled-08.png"] == (
        "leaks_into_test",
        "quarantined",
    )


def test_of_equal_pairs_the_one_of_the_later_split_stays(tmp_path: Path, make_raw: MakeRaw) -> None:
    copy, lines = (
        draw_png(50, 50),
        {f"labelled-{kind}-{n:02d}": f"同一句{kind}" for kind in ("name", "line") for n in (0, 8)},
    )
    twins = dict.fromkeys(("labelled-00.png", "labelled-08.png"), copy)
    clean = run_validate(
        name_splits(make_raw(tmp_path, grouped=False, pictures=twins, captions=lines), "tttttttvsss-")
    )
    assert read_reasons(clean, "labelled", "pair") == {
        f"pair-labelled-{kind}-00": ("duplicate_pair", "quarantined") for kind in ("name", "line")
    }
    assert "labelled-08.png" in read_ids(clean, "test", "images")
    assert read_counterparts(clean, "duplicate_pair") == {
        f"pair-labelled-{kind}-00": f"labelled pair-labelled-{kind}-08 (captions.csv, row {row})"
        for kind, row in (("name", 18), ("line", 19))
    }
    assert "left: duplicate pair (source: train)" in read_copies_on_page(clean)


def test_what_looks_alike_in_two_groups_of_the_source_is_reported(tmp_path: Path, make_raw: MakeRaw) -> None:
    alike = {"labelled-00.png": picture(0), "labelled-08.png": picture(0, ground="#fffdfd")}
    clean = run_validate(name_splits(make_raw(tmp_path, pictures=alike), "tttttttvsss-"))
    finding = read_quality(clean)["checks"]["labelled"]["images"]["near_equal_across_splits"]
    assert finding == {"severity": "warning", "success": False, "unexpected": 2}
    assert {"labelled-00.png"} <= set(read_ids(clean, "train", "images"))
    near = {row["id"]: row for row in read_quarantine(clean) if row["reason"] == "near_equal_across_splits"}
    assert {row["outcome"] for row in near.values()} == {"stays"}
    assert {name: row["counterpart"] for name, row in near.items()} == {
        f"labelled-0{one}.png": f"labelled labelled-0{other}.png (pictures/labelled-0{other}.png)"
        for one, other in ((0, 8), (8, 0))
    }
    assert "now in train, test" in read_copies_on_page(clean)
