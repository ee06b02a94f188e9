"""Which rows share a batch where siblings are kept apart."""

from itertools import islice

import pytest

from tuwen.core.errors import UserError
from tuwen.training import no_duplicates
from tuwen.training.dataset import ViewSpec


class Plan:
    """The specs of (positive_id, caption), anew each time it is called; rows are named by their number."""

    def __init__(self, *rows: tuple[str, str]) -> None:
        self.rows = rows
        self.times = 0

    def __call__(self):
        self.times += 1
        assert self.times < 9, "planned again without end"
        return iter(
            [ViewSpec(str(n), positive, caption, 0, None) for n, (positive, caption) in enumerate(self.rows)]
        )


def list_batches(plan: Plan, batch_size: int, steps: int) -> list[list[str]]:
    rows = no_duplicates.keep_siblings_apart(plan, batch_size, steps)
    return [[spec.pair_id for spec in islice(rows, batch_size)] for _ in range(steps)]


def test_a_row_waits_for_the_first_batch_without_a_sibling_of_it() -> None:
    plan = Plan(("a", "猫"), ("a", "黑猫"), ("b", "猫"), ("c", "猫 "), ("d", "鱼"), ("e", "鸟"))
    whole = [["0", "4"], ["1", "2"], ["3", "5"]]
    assert list_batches(plan, 2, 4) == [*whole, whole[0]]  # all shown: it begins anew


def test_what_finds_no_place_is_left_out_and_reported_and_the_first_rows_stand_in(capsys, monkeypatch) -> None:
    plan = Plan(*(("a", f"第{n}只猫") for n in range(6)), ("b", "狗"), ("c", "鱼"), ("d", "鸟"))
    line = "siblings kept apart: {} rows found no batch in this epoch\n"
    assert list_batches(plan, 2, 5) == [["0", "6"], ["1", "7"], ["2", "8"], ["3", "6"], ["4", "7"]]
    assert capsys.readouterr().out == line.format(1)  # row 5
    monkeypatch.setattr(no_duplicates, "MAX_ROWS_WAITING", 1)
    assert list_batches(plan, 2, 5) == [["0", "6"], ["1", "7"], ["8", "0"], ["1", "6"], ["7", "8"]]
    assert capsys.readouterr().out == line.format(4)  # rows 2 to 5
    assert len(list(no_duplicates.keep_siblings_apart(plan, 2, 5, report=False))) == 10
    assert capsys.readouterr().out == ""


def test_captions_that_differ_in_script_are_siblings_where_the_model_reads_them_as_one() -> None:
    plan = Plan(("a", "蘋果"), ("b", "苹果"), ("c", "梨"), ("d", "桃"))
    rows = no_duplicates.keep_siblings_apart(plan, 2, 2, simplify=True)
    assert [spec.pair_id for spec in rows] == ["0", "2", "1", "3"]
    assert list_batches(plan, 2, 2) == [["0", "1"], ["2", "3"]]


def test_an_epoch_with_too_few_different_images_for_a_batch_is_refused() -> None:
    plan = Plan(("a", "猫"), ("b", "狗"), ("a", "黑猫"), ("c", "狗"))
    with pytest.raises(UserError, match=r"siblings: apart: only 2 pairs of .* batch of 3; lower"):
        list_batches(plan, 3, 1)
