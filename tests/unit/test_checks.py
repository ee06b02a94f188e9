import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tuwen import checks
from tuwen.errors import UserError
from tuwen.params import Validate

PARAMS = Validate(
    min_side_px=16, max_pixels=1_000_000, max_chars=20, max_pictures_per_caption=3, max_quarantined_share=0.25
)
FRAMES: dict[str, dict[str, list[Any]]] = {
    "images": {
        "image_id": ["猫.png", "狗.png", "鱼.png", "鸟.png"],
        "sha256": ["a", "b", "c", "d"],
        "measured_sha256": ["a", "b", "c", "d"],
        "readable": [True] * 4,
        "pixels": [4096] * 4,
        "width": [64] * 4,
        "height": [64] * 4,
        "blank": [False] * 4,
    },
    "texts": {
        "text_id": ["句1", "句2", "句3", "句4"],
        "chars": [5, 8, 20, 1],
        "control_chars": [0] * 4,
        "newline": [False] * 4,
        "chinese_share": [1.0, 0.9, 0.1, 1.0],
    },
    "pairs": {
        "pair_id": ["对1", "对2", "对3", "对4"],
        **{f"{end}_{state}": [True] * 4 for end in ("picture", "caption") for state in ("exists", "clean")},
    },
    "paired": {"image_id": ["猫.png", "狗.png", "鱼.png", "鸟.png"], "pairs": [1, 2, 1, 5]},
    "spread": {"text_id": ["句1", "句2", "句3", "句4"], "pictures": [1, 3, 2, 1]},
    "outcome": {"quarantined": [0.0, 1.0, 0.0, 0.0]},
    "positives": {"text_id": ["句1", "句2", "句3", "句4"], "positives": [1, 1, 4, 2]},
    "groups": {"group": ["概念1", "概念2", "概念3", "概念4"], "pictures": [20, 1, 3, 4]},
}
# suite, column, the value that the rows 1 and 2 get, the rule that fails, its severity
FAULTS = [
    ("images", "image_id", "猫.png", "duplicate_image_id", "critical"),
    ("images", "image_id", None, "null_image_id", "critical"),
    ("images", "measured_sha256", "z", "altered_bytes", "critical"),
    ("images", "readable", False, "unreadable", "warning"),
    ("images", "pixels", 1_000_001, "too_large", "warning"),
    ("images", "width", 15, "too_narrow", "warning"),
    ("images", "height", 1, "too_low", "warning"),
    ("images", "blank", True, "blank", "info"),
    ("texts", "text_id", "句1", "duplicate_text_id", "critical"),
    ("texts", "text_id", None, "null_text_id", "critical"),
    ("texts", "chars", 0, "empty", "warning"),
    ("texts", "chars", 21, "too_long", "warning"),
    ("texts", "control_chars", 1, "control_characters", "warning"),
    ("texts", "newline", True, "newline", "info"),
    ("texts", "chinese_share", 0.0, "no_chinese", "info"),
    ("pairs", "pair_id", "对1", "duplicate_pair_id", "critical"),
    ("pairs", "pair_id", None, "null_pair_id", "critical"),
    ("pairs", "picture_exists", False, "picture_missing", "warning"),
    ("pairs", "caption_exists", False, "caption_missing", "warning"),
    ("pairs", "picture_clean", False, "picture_quarantined", "warning"),
    ("pairs", "caption_clean", False, "caption_quarantined", "warning"),
    ("paired", "pairs", 0, "without_pair", "warning"),
    ("spread", "pictures", 4, "on_too_many_pictures", "warning"),
    ("outcome", "quarantined", 1.0, "quarantined_share", "critical"),
    ("positives", "positives", 0, "without_positive", "critical"),
    ("groups", "pictures", 21, "group_too_large", "critical"),
]


@cache
def suite_of(name: str) -> list[Any]:
    suites: dict[str, Callable[[], list[Any]]] = {
        "images": lambda: checks.image_suite(PARAMS, "warning", True),
        "texts": lambda: checks.text_suite(PARAMS, "warning", True),
        "pairs": lambda: checks.pair_suite("warning", True),
        "paired": checks.paired_suite,
        "spread": lambda: checks.spread_suite(PARAMS),
        "outcome": lambda: checks.outcome_suite(PARAMS, "unreadable 2"),
        "positives": checks.positives_suite,
        "groups": lambda: checks.group_suite(2000),
    }
    return suites[name]()


@pytest.mark.parametrize("suite", FRAMES)
def test_sound_rows_pass(suite: str) -> None:
    verdicts = checks.run(pd.DataFrame(FRAMES[suite]), suite_of(suite))
    assert [verdict for verdict in verdicts if not verdict.success] == []
    assert len(verdicts) == len(suite_of(suite))


@pytest.mark.parametrize(("suite", "column", "bad", "name", "severity"), FAULTS)
def test_each_rule_fails_on_its_fault_alone(suite: str, column: str, bad: Any, name: str, severity: str) -> None:
    values = FRAMES[suite][column]
    frame = pd.DataFrame({**FRAMES[suite], column: [values[0], bad, bad, values[3]]})
    failing = [verdict for verdict in checks.run(frame, suite_of(suite)) if not verdict.success]
    assert [(verdict.name, verdict.severity) for verdict in failing] == [(name, severity)]
    if name == "quarantined_share":
        assert (failing[0].rows, failing[0].observed) == ([], 0.5)
    else:
        assert set(failing[0].rows) >= {1, 2}
    if severity == "critical":
        with pytest.raises(UserError, match=rf"^表\.parquet: {name} .+; .+"):
            checks.stop_on_critical(Path("表.parquet"), frame, failing)
    else:
        checks.stop_on_critical(Path("表.parquet"), frame, failing)


def test_no_rule_goes_without_a_fault() -> None:
    named = {rule.meta["name"] for suite in FRAMES for rule in suite_of(suite)}
    assert named == {name for *_, name, _ in FAULTS} | {"rows"}


@pytest.mark.parametrize("suite", ["images", "texts", "pairs"])
def test_a_set_that_needs_rows_must_not_be_empty(suite: str) -> None:
    empty = pd.DataFrame(FRAMES[suite])[:0]
    verdicts = checks.run(empty, suite_of(suite))
    assert [verdict.name for verdict in verdicts if not verdict.success] == ["rows"]
    with pytest.raises(UserError, match=r"^表\.parquet: rows is 0; give the set pictures and captions"):
        checks.stop_on_critical(Path("表.parquet"), empty, verdicts)
    assert all(verdict.success for verdict in checks.run(empty, checks.pair_suite("warning", False)[:1]))


def test_failing_rows_keep_their_labels_after_a_filter() -> None:
    frame = pd.DataFrame({**FRAMES["images"], "width": [8, 64, 64, 9]}, index=[3, 5, 8, 13])
    verdicts = {verdict.name: verdict for verdict in checks.run(frame, suite_of("images"))}
    assert verdicts["too_narrow"].rows == [3, 13]


def test_what_could_not_be_measured_is_not_judged() -> None:
    unknown = {"width": [None] * 4, "height": [None] * 4, "pixels": [None] * 4, "blank": [None] * 4}
    frame = pd.DataFrame({**FRAMES["images"], **unknown, "readable": [False, None, None, None]})
    failing = [verdict for verdict in checks.run(frame, suite_of("images")) if not verdict.success]
    assert [(verdict.name, verdict.rows) for verdict in failing] == [("unreadable", [0])]


def test_all_critical_faults_stand_in_one_message_with_examples() -> None:
    frame = pd.DataFrame({**FRAMES["images"], "image_id": ["猫.png", "猫.png", None, "鸟.png"]})
    verdicts = checks.run(frame, suite_of("images"))
    with pytest.raises(UserError) as raised:
        checks.stop_on_critical(Path("data/raw/labelled/images.parquet"), frame, verdicts)
    assert str(raised.value).splitlines() == [
        "data/raw/labelled/images.parquet: null_image_id on 1 of 4 rows, such as row 2; "
        "fill in the image_id in the source",
        "data/raw/labelled/images.parquet: duplicate_image_id on 2 of 4 rows, such as 猫.png; "
        "give every row its own image_id in the source",
    ]


def test_a_small_set_may_have_any_groups() -> None:
    frame = pd.DataFrame({"group": ["概念"], "pictures": [1000]})
    assert checks.run(frame, checks.group_suite(1000))[0].success
    assert not checks.run(frame, checks.group_suite(1001))[0].success


def test_nothing_is_sent_anywhere() -> None:
    code = (
        "import socket, pandas\n"
        "calls = []\n"
        "socket.socket.connect = lambda self, address: calls.append(address)\n"
        "from tuwen import checks\n"
        "checks.run(pandas.DataFrame({'image_id': ['猫.png'], 'pairs': [0]}), checks.paired_suite())\n"
        "print(calls)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")  # no progress bar either
