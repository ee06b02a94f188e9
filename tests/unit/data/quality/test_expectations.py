import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tuwen.core.errors import UserError
from tuwen.data.quality import expectations, suites


def make_pairs(**columns: list[Any]) -> pd.DataFrame:
    """Four pairs without a fault but for `columns`."""
    sound = {"pair_id": ["对1", "对2", "对3", "对4"], "picture_exists": [True] * 4, "caption_exists": [True] * 4}
    return pd.DataFrame(sound | columns)


def test_the_findings_come_in_the_order_of_the_suite_with_what_each_expectation_says_of_itself() -> None:
    suite = suites.build_pair_suite(True)
    findings = expectations.run_suite(make_pairs(caption_exists=[True, False, True, False]), suite)
    assert [finding.name for finding in findings] == [
        *("rows", "null_pair_id", "duplicate_pair_id", "picture_missing", "caption_missing")
    ]
    assert [finding.severity for finding in findings] == ["critical"] * 3 + ["warning"] * 2
    assert [finding.row_fault for finding in findings] == [False] * 3 + [True] * 2
    assert [finding.success for finding in findings] == [True] * 4 + [False]
    assert (findings[0].observed, findings[4].unexpected, findings[4].rows) == (4, 2, [1, 3])


def test_failing_rows_keep_their_labels_after_a_filter() -> None:
    frame = make_pairs(picture_exists=[False, True, True, False]).set_axis([3, 5, 8, 13])
    findings = {finding.name: finding for finding in expectations.run_suite(frame, suites.build_pair_suite(True))}
    assert findings["picture_missing"].rows == [3, 13]


def test_only_the_columns_of_the_suite_are_needed() -> None:
    assert expectations.list_columns(suites.build_pair_suite(True)) == [
        *("caption_exists", "pair_id", "picture_exists")
    ]
    assert expectations.list_columns(suites.build_gallery_suite()) == []
    (finding,) = expectations.run_suite(make_pairs()[["pair_id"]], suites.build_gallery_suite())
    assert (finding.success, finding.observed) == (False, 4)


def test_all_critical_faults_stand_in_one_message_with_examples() -> None:
    frame = make_pairs(pair_id=["对1", "对1", None, "对4"])
    findings = expectations.run_suite(frame, suites.build_pair_suite(True))
    with pytest.raises(UserError) as raised:
        expectations.stop_on_critical(Path("data/raw/labelled/pairs.parquet"), frame, findings)
    assert str(raised.value).splitlines() == [
        "data/raw/labelled/pairs.parquet: null_pair_id on 1 of 4 rows, such as row 2; "
        "fill in the pair_id in the source",
        "data/raw/labelled/pairs.parquet: duplicate_pair_id on 2 of 4 rows, such as 对1; "
        "give every row its own pair_id in the source",
    ]


def test_a_message_names_three_different_ids_at_most() -> None:
    frame = pd.DataFrame({"pair_id": ["对1", "对1", "对2", "对2", "对3", "对3", "对4", "对4"]})
    findings = expectations.run_suite(frame, suites.build_pair_suite(True)[:3])
    with pytest.raises(UserError, match=r"duplicate_pair_id on 8 of 8 rows, such as 对1, 对2, 对3; give"):
        expectations.stop_on_critical(Path("pairs.parquet"), frame, findings)


def test_a_warning_stops_nothing() -> None:
    frame = make_pairs(picture_exists=[False] * 4)
    findings = expectations.run_suite(frame, suites.build_pair_suite(True))
    assert not all(finding.success for finding in findings)
    expectations.stop_on_critical(Path("pairs.parquet"), frame, findings)


def test_the_data_docs_are_a_page_per_table_and_an_index(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/old.html").write_text("of an earlier run")
    frame = make_pairs(picture_exists=[True, False, True, True])
    findings = expectations.run_suite(frame, suites.build_pair_suite(True))
    expectations.write_data_docs(tmp_path / "docs", {"corpus/art/pairs": findings})
    assert sorted(path.name for path in (tmp_path / "docs").iterdir()) == ["corpus-art-pairs.html", "index.html"]
    index = (tmp_path / "docs/index.html").read_text(encoding="utf-8")
    assert '<a href="corpus-art-pairs.html">corpus/art/pairs</a>: 4 of 5 met' in index
    assert "picture_exists" in (tmp_path / "docs/corpus-art-pairs.html").read_text(encoding="utf-8")


def test_nothing_is_sent_anywhere() -> None:
    code = (
        "import socket, pandas\n"
        "calls = []\n"
        "socket.socket.connect = lambda self, address: calls.append(address)\n"
        "from tuwen.data.quality import expectations, suites\n"
        "frame = pandas.DataFrame({'image_id': ['猫.png'], 'pairs': [0]})\n"
        "expectations.run_suite(frame, suites.build_paired_suite())\n"
        "print(calls)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")  # no progress bar either
