import pandas as pd
import pytest

from tuwen.core.errors import UserError
from tuwen.core.params import Split
from tuwen.data.quality.split import assign, deal

OFFICIAL = Split(seed=0, valid=0.25, test=0.25, official=True)


def dealt(groups: str, splits: list[str | None], params: Split = OFFICIAL) -> tuple[list[str], list[str | None]]:
    frame = pd.DataFrame({"split_group": list(groups), "split": pd.Series(splits, dtype=object)})
    names, reaches = deal(frame, params)
    return names.tolist(), reaches.tolist()


def test_the_sources_splits_are_kept_and_what_leaks_is_named() -> None:
    splits = ["train", "test", "valid", "train", "valid", "test", None, None]
    names, reaches = dealt("甲甲乙乙丙丁丁戊", splits)
    assert names == ["test", "test", "valid", "valid", "valid", "test", "test", "train"]
    assert reaches == ["test", None, None, "valid", None, None, "test", None]


def test_a_split_that_the_source_does_not_name_is_dealt_out_of_train() -> None:
    groups = "甲乙丙丁戊己庚辛"
    names, reaches = dealt(groups, ["test"] * 4 + ["train"] * 4)
    assert names[:4] == ["test"] * 4
    assert sorted(names[4:]) == ["train"] * 3 + ["valid"]
    assert reaches == [None] * 8
    alone = assign(groups[4:], OFFICIAL, ["valid"])
    assert names[4:] == [alone[group] for group in groups[4:]]


def test_without_official_splits_all_groups_are_dealt_out() -> None:
    groups = "甲乙丙丁戊己庚辛"
    by_hash = assign(groups, OFFICIAL)
    for splits, params in (
        ([None] * 8, OFFICIAL),
        (["test"] * 8, OFFICIAL.model_copy(update={"official": False})),
    ):
        assert dealt(groups, splits, params)[0] == [by_hash[group] for group in groups]


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["test", "valid", "test", "valid"], r"split\.official: the source names no split but valid and test"),
        (["test", "test", "test", "train"], r"split\.valid: 0\.25 of 1 groups is none; raise it or add pictures"),
    ],
)
def test_official_splits_must_leave_something_for_the_others(splits: list[str | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        dealt("甲乙丙丁", splits)
