"""One table and its rows. Whole sets with a fault of every kind: tests/stages/test_validate_rows.py."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from tests.support.checkout import ROOT
from tuwen.core.errors import UserError
from tuwen.core.params import load_params
from tuwen.data.formats import pairs
from tuwen.data.quality import suites, text_stats
from tuwen.data.quality.examined_table import QUARANTINE_SCHEMA, ExaminedTable
from tuwen.data.quality.expectations import ExampleRow
from tuwen.data.quality.quarantine import write_quarantine

PARAMS = load_params(ROOT / "params.yaml").validate_.model_copy(
    update={"max_chars": 10, "max_quarantined_share": 0.5}
)
ROWS: dict[str, list[Any]] = {
    "text_id": ["句1", "句2", "句3", "句4"],
    "chars": [0, 11, 5, 5],
    "control_chars": [2, 0, 0, 0],
    "file": ["表.csv", "表.csv", None, "表.csv"],
    "row": [2, 3, 4, 5],
}


def make_table(set_name: str = "labelled", **columns: list[Any]) -> ExaminedTable:
    frame = pd.DataFrame(ROWS | columns)
    return ExaminedTable(Path("raw/texts.parquet"), set_name, "texts", frame, needs_rows=True)


def list_reasons(table: ExaminedTable) -> list[str | None]:
    return [None if pd.isna(reason) else str(reason) for reason in table.fault]


def build_suite() -> list[Any]:
    """The expectations about the columns that ROWS has."""
    return [
        expectation
        for expectation in suites.build_text_suite(PARAMS, 32, needs_rows=True)
        if getattr(expectation, "column", None) in ROWS
    ]


def test_a_row_leaves_under_its_first_fault() -> None:
    table = make_table()
    assert table.examine(build_suite())
    assert list_reasons(table) == ["empty", "too_long", None, None]
    assert table.clean["text_id"].tolist() == ["句3", "句4"]
    assert table.reasons == {"empty": 1, "too_long": 1}
    counts = {"in": 4, "clean": 2, "quarantined": 2, "left_out": 0, "blank": 0, "merged": 0}
    assert table.count_rows() == counts | {"faults": {"empty": 1, "too_long": 1}}


def test_a_row_that_left_is_not_examined_again() -> None:
    table = make_table(pairs=[0, 0, 0, 1])
    table.examine(build_suite())
    assert table.examine(suites.build_paired_suite())
    assert list_reasons(table) == ["empty", "too_long", "without_pair", None]
    assert table.findings[-1].rows == [2]
    assert not table.examine(build_suite())


def test_a_query_without_a_caption_stays_as_a_blank_and_other_faults_are_only_counted() -> None:
    table = make_table("t2i")
    assert not table.examine(build_suite())
    assert list_reasons(table) == ["empty", None, None, None]
    assert table.stays.tolist() == [True] * 4
    assert table.count_rows()["blank"] == 1
    findings = {finding.name: finding.unexpected for finding in table.findings}
    assert (findings["too_long"], findings["control_characters"]) == (1, 1)


def test_a_gallery_item_without_a_caption_is_left_out() -> None:
    table = make_table("i2t")
    table.examine(build_suite())
    assert (table.outcome, list_reasons(table)) == ("left_out", ["empty", None, None, None])
    assert table.count_rows()["left_out"] == 1


def test_more_bad_rows_than_allowed_are_an_error_that_counts_the_reasons() -> None:
    table = make_table()
    table.examine(build_suite())
    table.examine_outcome(PARAMS)
    message = r"^raw/texts\.parquet: quarantined_share is 0\.5; .+ allows 0\.4: empty 1, too_long 1; mend"
    with pytest.raises(UserError, match=message):
        table.examine_outcome(PARAMS.model_copy(update={"max_quarantined_share": 0.4}))


def test_a_table_without_rows_is_examined_only_where_it_needs_some() -> None:
    empty = pd.DataFrame(ROWS)[:0]
    table = ExaminedTable(Path("raw/texts.parquet"), "t2i", "texts", empty, needs_rows=False)
    assert not table.examine(suites.build_text_suite(PARAMS, 32, needs_rows=False))
    assert table.findings == []


def test_the_quarantine_names_file_and_row_of_each_bad_row(tmp_path: Path) -> None:
    table = make_table(chars=[0, 5, 0, 5])
    table.examine(build_suite())
    faults = write_quarantine(tmp_path, [table, make_table("i2t", chars=[5] * 4)])
    assert faults.schema == QUARANTINE_SCHEMA
    assert faults.to_pylist()[1] == {
        **{"set": "labelled", "item": "text", "id": "句3", "file": None, "row": 4},
        **{"reason": "empty", "severity": "warning", "outcome": "quarantined", "counterpart": None},
    }
    assert (tmp_path / "quarantine.csv").read_text(encoding="utf-8").splitlines() == [
        "set,file,row,id,reason,severity,outcome,counterpart",
        "labelled,表.csv,2,句1,empty,warning,quarantined,",
        "labelled,,4,句3,empty,warning,quarantined,",
    ]


def test_rows_that_equal_ones_took_in_are_listed_and_counted_apart(tmp_path: Path) -> None:
    table = make_table(chars=[0, 5, 5, 5])
    table.examine(build_suite())
    table.note_merged(dict(zip([3], table.describe_rows([2]), strict=True)))
    table.note_staying("caption_in_train", dict(zip([1], table.describe_rows([0]), strict=True)))
    counts = {"in": 4, "clean": 2, "quarantined": 1, "left_out": 0, "blank": 0, "merged": 1}
    assert table.count_rows() == counts | {"faults": {"empty": 1}}
    write_quarantine(tmp_path, [table])
    assert (tmp_path / "quarantine.csv").read_text(encoding="utf-8").splitlines()[1:] == [
        "labelled,表.csv,2,句1,empty,warning,quarantined,",
        "labelled,表.csv,5,句4,equal_to_another,info,merged,labelled 句3 (row 4)",
        'labelled,表.csv,3,句2,caption_in_train,warning,stays,"labelled 句1 (表.csv, row 2)"',
    ]


def test_a_check_that_is_not_met_shows_rows_with_their_captions() -> None:
    captions = [
        "一只橘猫趴在窗台上",
        "https://item.example.com/1",
        "IMG_1234.jpg",
        "红色\u200b羽绒服",
        "保温杯&amp;茶杯",
        "长" * 90 + "尾",
        "龍猫公仔",
        *(f"{number}%" for number in range(7)),
    ]
    rows = [{"text_id": f"句{n}", "caption": c, "file": "表.csv", "row": n + 2} for n, c in enumerate(captions)]
    frame = text_stats.measure_captions(pa.Table.from_pylist(rows, pairs.TEXTS))
    table = ExaminedTable(Path("raw/texts.parquet"), "labelled", "texts", frame, needs_rows=True)
    table.examine(suites.build_text_suite(PARAMS.model_copy(update={"max_chars": 200}), 52, True))
    shown: dict[str, list[ExampleRow]] = {}
    for example in table.list_example_rows():
        shown.setdefault(example.check, []).append(example)
    assert [one.caption for one in shown["url_only"]] == ["https://item.example.com/1"]
    assert [(one.id, one.file, one.row) for one in shown["file_name_only"]] == [("句2", "表.csv", 4)]
    assert [one.caption for one in shown["zero_width"]] == [r"红色\u200b羽绒服"]
    assert [one.caption for one in shown["html"]] == ["保温杯&amp;茶杯"]
    assert [one.caption for one in shown["over_max_tokens"]] == [
        "长" * 40 + " … (31 characters) … " + "长" * 19 + "尾"
    ]
    assert [one.caption for one in shown["mixed_scripts"]] == ["龍猫公仔"]
    assert [one.caption for one in shown["number_only"]] == [f"{number}%" for number in range(5)]
    assert list_reasons(table)[:3] == [None, "url_only", "file_name_only"]
    severity = {finding.name: finding.severity for finding in table.findings if not finding.success}
    assert severity["number_only"] == "warning"  # 7 of 14
    assert severity["zero_width"] == "info"
