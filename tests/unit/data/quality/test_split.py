import hashlib
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pytest

from tuwen.core.errors import UserError
from tuwen.core.params import Split
from tuwen.data.formats import pairs
from tuwen.data.formats.text import normalise
from tuwen.data.quality.split import (
    assign_groups,
    count_prevented_leaks,
    deal_images,
    merge_captions,
    select_images,
)

PARAMS = Split(seed=0, valid=0.25, test=0.25, official=True)


def test_assign_deals_the_groups_out_by_the_hash_of_their_name() -> None:
    names = [f"概念{n}" for n in range(25)]
    dealt = assign_groups(names * 3, Split(seed=7, valid=0.1, test=0.2, official=True))
    ordered = sorted(names, key=lambda name: hashlib.sha256(f"7:{name}".encode()).hexdigest())
    assert [dealt[name] for name in ordered] == ["test"] * 5 + ["valid"] * 2 + ["train"] * 18
    assert assign_groups(reversed(names), Split(seed=7, valid=0.1, test=0.2, official=True)) == dealt
    assert assign_groups(names, Split(seed=8, valid=0.1, test=0.2, official=True)) != dealt


def test_another_group_leaves_most_where_they_are() -> None:
    names = [f"概念{n}" for n in range(100)]
    params = Split(seed=0, valid=0.1, test=0.2, official=True)
    before, after = assign_groups(names, params), assign_groups([*names, "新概念"], params)
    assert sum(before[name] != after[name] for name in names) <= 2


@pytest.mark.parametrize(
    ("valid", "test", "message"),
    [
        (0.1, 0.1, r"params\.yaml: split\.test: 0\.1 of 5 groups is none; raise it or add pictures"),
        (0.1, 0.4, r"params\.yaml: split\.valid: 0\.1 of 5 groups is none"),
        (0.6, 0.4, r"params\.yaml: split: 5 groups leave none for train; lower split\.valid or split\.test"),
    ],
)
def test_a_split_that_would_be_empty_is_an_error(valid: float, test: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        assign_groups("甲乙丙丁戊", Split(seed=0, valid=valid, test=test, official=True))


@pytest.fixture
def fruits() -> pairs.PairSet:
    """Three images with captions that are equal in part."""
    rows = [
        ("桃.png", "t0", "水果"),
        ("桃.png", "t1", "桃子"),
        ("梨.png", "t2", "水果 "),
        ("车.png", "t3", "汽车"),
    ]
    images = [{"image_id": name} for name in ("桃.png", "梨.png", "车.png")]
    texts = [{"text_id": text_id, "caption": caption} for _, text_id, caption in rows]
    ends = [{"pair_id": f"p{n}", "image_id": row[0], "text_id": row[1]} for n, row in enumerate(rows)]
    # the source may name one pair by two texts of equal caption
    texts.append({"text_id": "t4", "caption": "水果"})
    ends.append({"pair_id": "p4", "image_id": "梨.png", "text_id": "t4"})
    return pairs.PairSet(
        pa.Table.from_pylist(images, pairs.IMAGES),
        pa.Table.from_pylist(texts, pairs.TEXTS),
        pa.Table.from_pylist(ends, pairs.PAIRS),
    )


def test_selected_images_take_pairs_and_texts_along(fruits: pairs.PairSet) -> None:
    part = select_images(fruits, ["车.png", "桃.png"])
    assert part.images["image_id"].to_pylist() == ["桃.png", "车.png"]
    assert part.texts["text_id"].to_pylist() == ["t0", "t1", "t3"]
    assert part.pairs["pair_id"].to_pylist() == ["p0", "p1", "p3"]


def test_equal_captions_become_one_text_true_for_many_images(fruits: pairs.PairSet) -> None:
    normalised = {row["text_id"]: normalise(row["caption"]) for row in fruits.texts.to_pylist()}
    merged = merge_captions(fruits, normalised)
    assert merged.texts.select(["text_id", "caption"]).to_pylist() == [
        {"text_id": "t0", "caption": "水果"},
        {"text_id": "t1", "caption": "桃子"},
        {"text_id": "t3", "caption": "汽车"},
    ]
    assert [tuple(row.values())[:3] for row in merged.pairs.to_pylist()] == [
        ("p0", "桃.png", "t0"),
        ("p1", "桃.png", "t1"),
        ("p2", "梨.png", "t0"),
        ("p3", "车.png", "t3"),
    ]
    assert merged.pairs.schema == pairs.PAIRS


def test_a_caption_keeps_its_letters_and_other_spellings_are_true_too(fruits: pairs.PairSet) -> None:
    captions = ["字母ｑ", "桃子", "字母Ｑ", "汽车", " 字母ｑ"]
    position = fruits.texts.schema.get_field_index("caption")
    spelled = replace(fruits, texts=fruits.texts.set_column(position, "caption", pa.array(captions)))
    normalised = {f"t{n}": normalise(caption) for n, caption in enumerate(captions)}
    merged = merge_captions(spelled, normalised)
    assert dict(zip(*(merged.texts[name].to_pylist() for name in ("text_id", "caption")), strict=True)) == {
        "t0": "字母ｑ",
        "t1": "桃子",
        "t2": "字母Ｑ",
        "t3": "汽车",
    }
    true = {(row["image_id"], row["text_id"]): row["pair_id"] for row in merged.pairs.to_pylist()}
    assert true == {
        ("桃.png", "t0"): "p0",
        ("桃.png", "t1"): "p1",
        ("梨.png", "t2"): "p2",
        ("车.png", "t3"): "p3",
        ("梨.png", "t0"): "p4",
        ("桃.png", "t2"): "p0~t2",
    }, "what a model cannot tell apart must not count as wrong"


def test_a_denied_caption_that_fits_too_fits(fruits: pairs.PairSet) -> None:
    labels = [0, 1, 0, 1, 1]  # t2 on the pear is denied and equals t4, which fits; t0 on the peach is denied alone
    position = fruits.pairs.schema.get_field_index("label")
    denied = fruits.pairs.set_column(position, pairs.PAIRS.field(position), pa.array(labels, pa.int8()))
    merged = merge_captions(replace(fruits, pairs=denied), {f"t{n}": c for n, c in enumerate("果桃果车果")})
    assert [(row["pair_id"], row["text_id"], row["label"]) for row in merged.pairs.to_pylist()] == [
        ("p0", "t0", 0),
        ("p1", "t1", 1),
        ("p3", "t3", 1),
        ("p4", "t0", 1),
    ]


def test_leaks_prevented_are_copies_that_would_be_dealt_apart() -> None:
    frame = pd.DataFrame({"image_id": [f"图{n}.png" for n in range(12)], "copies": [0, 0, 1, 1, *range(2, 10)]})
    frame["dealt"] = "train"
    alone = assign_groups(frame["image_id"], PARAMS)
    parted = [alone[f"图{n}.png"] != alone[f"图{n + 1}.png"] for n in (0, 2)]
    assert count_prevented_leaks(frame, PARAMS) == 2 * sum(parted)
    by_seed = {count_prevented_leaks(frame, PARAMS.model_copy(update={"seed": seed})) for seed in range(60)}
    assert by_seed == {0, 2, 4}
    frame["dealt"] = ["train", "test", *frame["dealt"][2:]]  # as by groups of the source that part the first two
    assert count_prevented_leaks(frame, PARAMS) == 2 * parted[1]


def deal(groups: str, splits: list[str | None], params: Split = PARAMS) -> tuple[list[str], list[str | None]]:
    """Deal one image per letter of `groups`; return the splits, and the later splits that their groups reach."""
    frame = pd.DataFrame({"split_group": list(groups), "split": pd.Series(splits, dtype=object)})
    names, reaches = deal_images(frame, params)
    return names.tolist(), reaches.tolist()


def test_the_sources_splits_are_kept_and_what_leaks_is_named() -> None:
    splits = ["train", "test", "valid", "train", "valid", "test", None, None]
    names, reaches = deal("甲甲乙乙丙丁丁戊", splits)
    assert names == ["test", "test", "valid", "valid", "valid", "test", "test", "train"]
    assert reaches == ["test", None, None, "valid", None, None, "test", None]


def test_a_split_that_the_source_does_not_name_is_dealt_out_of_train() -> None:
    groups = "甲乙丙丁戊己庚辛"
    names, reaches = deal(groups, ["test"] * 4 + ["train"] * 4)
    assert names[:4] == ["test"] * 4
    assert sorted(names[4:]) == ["train"] * 3 + ["valid"]
    assert reaches == [None] * 8
    alone = assign_groups(groups[4:], PARAMS, ["valid"])
    assert names[4:] == [alone[group] for group in groups[4:]]


def test_without_official_splits_all_groups_are_dealt_out() -> None:
    groups = "甲乙丙丁戊己庚辛"
    by_hash = assign_groups(groups, PARAMS)
    for splits, params in (
        ([None] * 8, PARAMS),
        (["test"] * 8, PARAMS.model_copy(update={"official": False})),
    ):
        assert deal(groups, splits, params)[0] == [by_hash[group] for group in groups]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["test", "valid", "test", "valid"], r"split\.official: the source names no split but valid and test"),
        (["test", "test", "test", "train"], r"split\.valid: 0\.25 of 1 groups is none; raise it or add pictures"),
    ],
)
def test_official_splits_must_leave_something_for_the_others(splits: list[str | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        deal("甲乙丙丁", splits)
