import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from tuwen.data.quality import expectations, suites, summary

QUALITY: dict[str, Any] = {
    "raw": {
        "labelled": {
            "images": {
                "in": 12,
                "clean": 10,
                "quarantined": 2,
                "left_out": 0,
                "blank": 0,
                "faults": {"unreadable": 2},
            },
            "texts": {"in": 0, "clean": 0, "quarantined": 0, "faults": {}},
            "formats": {"PNG": 12},
            "side_words": 1,
        },
        "corpus/art": {
            "images": {"in": 9, "clean": 6, "quarantined": 3, "faults": {"in_valid_or_test": 3}},
        },
    },
    "clean": {"test": {"images": 3, "texts": 4, "pairs": 6, "merged_captions": 2}},
    "groups": {"groups": 12, "largest_group_pictures": 2},
    "leaks": {"prevented": 0, "leaks_into_test": 1},
    "drift": {"t2i": {"latin_share": 0.25}},
    "corpus": {"far": {"shards": 2, "faults": {}, "in_valid_or_test": 1}, "near": {"in_valid_or_test": 4}},
    "checks": {
        "labelled": {
            "images": {
                "blank": {"severity": "info", "success": False, "unexpected": 1},
                "elongated": {"severity": "warning", "success": False, "unexpected": 2},
            },
            "pairs": {"rows": {"severity": "critical", "success": True, "unexpected": 0}},
        },
    },
}


def test_row_counts_are_listed_for_tables_with_rows() -> None:
    labelled, art = summary.list_row_counts(QUALITY)
    assert labelled == ("labelled", "images", 12, 10, 2, 0, 0, 0, {"unreadable": 2})
    assert art == ("corpus/art", "images", 9, 6, 3, 0, 0, 0, {"in_valid_or_test": 3})
    assert labelled.adds_up
    assert not labelled._replace(clean=9).adds_up
    assert labelled._replace(clean=9, merged=1).adds_up


def test_a_terminal_is_told_what_became_of_the_rows_and_where_the_page_lies(tmp_path: Path) -> None:
    assert summary.format_counts(QUALITY, tmp_path).splitlines() == [
        "labelled: 12 pictures: 12 rows in = 10 clean + 2 quarantined; most of all unreadable 2",
        "corpus/art: 9 pictures: 9 rows in = 6 clean + 3 quarantined; most of all in_valid_or_test 3",
        f"checks not met: 1 (elongated); {tmp_path}/quality.html shows all, quarantine.csv beside it lists rows",
    ]


def test_findings_are_listed_the_severest_first() -> None:
    assert summary.list_findings(QUALITY) == [
        ("labelled", "pairs", "rows", "critical", 0, True, ""),
        ("labelled", "images", "elongated", "warning", 2, False, ""),
        ("labelled", "images", "blank", "info", 1, False, ""),
    ]


def test_sizes_are_those_of_the_clean_sets() -> None:
    assert summary.list_sizes(QUALITY) == [("test", 3, 4, 6)]


def test_text_files_are_listed_with_how_they_were_read() -> None:
    one = {"file": "a.tsv", "encoding": "gb18030", "delimiter": "\t", "quotes": "text", "lines": 61, "records": 60}
    files = {"labelled": [one | {"notes": ["甲", "乙"]}], "t2i": []}
    assert summary.list_text_files(QUALITY | {"files": files}) == [
        ("labelled", "a.tsv", "gb18030", "text", 61, 60, "甲; 乙")
    ]
    assert summary.list_text_files(QUALITY) == []
    assert "files" not in summary.list_further(QUALITY | {"files": files})


def test_keys_without_a_reader_of_their_own_are_listed_as_they_are() -> None:
    assert summary.list_further(QUALITY | {"more": 7}) == {
        "leaks": [("prevented", 0), ("leaks into test", 1)],
        "drift": [("t2i latin share", 0.25)],
        "corpus": [("far shards", 2), ("far in valid or test", 1), ("near in valid or test", 4)],
        "more": [("more", 7)],
    }


def test_nested_values_are_flattened_with_the_names_of_all_levels() -> None:
    values = {"one_level": {"two": 1.5}, "names": ["甲", "乙"], "none_of_them": []}
    assert summary.flatten_values(values) == [
        ("one level two", 1.5),
        ("names", "甲, 乙"),
        ("none of them", "none"),
    ]


def test_corpus_images_of_valid_and_test_are_counted_where_they_left_and_where_they_stay() -> None:
    assert summary.count_in_valid_or_test(QUALITY) == (3, 5)


def test_the_findings_of_a_suite_that_ran_twice_count_together() -> None:
    def run(flags: list[bool]) -> list[expectations.Finding]:
        frame = pd.DataFrame({"pair_id": ["对1", "对2", "对3", "对4"], "duplicate": flags})
        return expectations.run_suite(frame, suites.build_duplicate_suite())

    findings = [*run([False] * 4), *run([True, False, True, False])] * 2
    assert summary.merge_findings(findings) == {
        "duplicate_pair": {"severity": "warning", "success": False, "unexpected": 4}
    }


def test_reading_needs_nothing_of_what_examines() -> None:
    code = (
        "import sys; from tuwen.data.quality import summary; "
        "print([name for name in sys.modules if name.startswith('tuwen.data.quality.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['tuwen.data.quality.summary']\n"
