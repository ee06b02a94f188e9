import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.checkout import ROOT
from tuwen.core.errors import UserError
from tuwen.core.params import load_params
from tuwen.data.quality import expectations
from tuwen.data.quality import suites as checks
from tuwen.prediction.predict import CONTEST_K

PARAMS = load_params(ROOT / "params.yaml").validate_.model_copy(
    update={
        "max_pixels": 1_000_000,
        "max_aspect": 8.0,
        "max_chars": 20,
        "max_pictures_per_caption": 3,
        "max_quarantined_share": 0.25,
    }
)
PAIRS = ["对1", "对2", "对3", "对4"]
FRAMES: dict[str, dict[str, list[Any]]] = {
    "images": {
        "image_id": ["猫.png", "狗.png", "鱼.png", "鸟.png"],
        "sha256": ["a", "b", "c", "d"],
        "measured_sha256": ["a", "b", "c", "d"],
        "fault": [None] * 4,
        "readable": [True] * 4,
        "pixels": [4096] * 4,
        "width": [64] * 4,
        "height": [64] * 4,
        "aspect": [1.0, 8.0, 2.0, 1.0],
        "blank": [False] * 4,
        "format": ["JPEG", "PNG", "GIF", "WEBP"],
        "frames": [1] * 4,
        "mode": ["RGB", "L", "RGB", "RGB"],
        "orientation": [1] * 4,
    },
    "texts": {
        "text_id": ["句1", "句2", "句3", "句4"],
        "chars": [5, 8, 20, 1],
        "control_chars": [0] * 4,
        "boilerplate": [False] * 4,
        "private_use_chars": [0] * 4,
        "newline": [False] * 4,
        "chinese_share": [1.0, 0.9, 0.1, 1.0],
        "latin_share": [0.0, 0.1, 0.5, 0.0],
        "masks": [0] * 4,
        "tokens": [7, 10, 32, 3],
        "duplicates": [1] * 4,
    },
    "pairs": {"pair_id": PAIRS, "picture_exists": [True] * 4, "caption_exists": [True] * 4},
    "torn": {"pair_id": PAIRS, "picture_clean": [True] * 4, "caption_clean": [True] * 4},
    "duplicates": {"pair_id": PAIRS, "duplicate": [False] * 4},
    "contradictions": {
        "pair_id": PAIRS,
        **dict.fromkeys(("opposite_sides", "opposite_labels", "nothing_in_common"), [False] * 4),
    },
    "leaks": {"image_id": ["猫.png", "狗.png", "鱼.png", "鸟.png"], "reaches": [None] * 4},
    "across": {"image_id": ["猫.png", "狗.png", "鱼.png", "鸟.png"], "near_elsewhere": [False] * 4},
    "overlap": {"image_id": ["猫.png", "狗.png", "鱼.png", "鸟.png"], "in_valid_or_test": [False] * 4},
    "drift": {"measure": ["字数", "长宽比", "拉丁字母", "又"], "distance": [0.0, 0.1, 0.2, 0.05]},
    "paired": {"image_id": ["猫.png", "狗.png", "鱼.png", "鸟.png"], "pairs": [1, 2, 1, 5]},
    "spread": {"text_id": ["句1", "句2", "句3", "句4"], "pictures": [1, 3, 2, 1]},
    "outcome": {"quarantined": [0.0, 1.0, 0.0, 0.0]},
    "positives": {"text_id": ["句1", "句2", "句3", "句4"], "positives": [1, 1, 4, 2]},
    "groups": {"group": ["概念1", "概念2", "概念3", "概念4"], "pictures": [20, 1, 3, 4]},
}
# suite, column, the value that a row gets there, the rule that fails, its severity
FAULTS = [
    ("images", "image_id", "猫.png", "duplicate_image_id", "critical"),
    ("images", "image_id", None, "null_image_id", "critical"),
    ("images", "measured_sha256", "z", "altered_bytes", "critical"),
    ("images", "readable", False, "unreadable", "warning"),
    ("images", "pixels", 1_000_001, "too_large", "warning"),
    ("images", "width", 15, "too_narrow", "warning"),
    ("images", "height", 1, "too_low", "warning"),
    ("images", "fault", "missing", "missing", "warning"),
    ("images", "fault", "outside_source", "outside_source", "warning"),
    ("images", "fault", "unreadable_record", "unreadable_record", "warning"),
    ("images", "aspect", 8.1, "elongated", "warning"),
    ("images", "blank", True, "blank", "info"),
    ("images", "format", "TIFF", "uncommon_format", "info"),
    ("images", "frames", 2, "animated", "info"),
    ("images", "mode", "CMYK", "converted_to_rgb", "info"),
    ("images", "orientation", 6, "turned_upright", "info"),
    ("texts", "text_id", "句1", "duplicate_text_id", "critical"),
    ("texts", "text_id", None, "null_text_id", "critical"),
    ("texts", "chars", 0, "empty", "warning"),
    ("texts", "chars", 21, "too_long", "warning"),
    ("texts", "control_chars", 1, "control_characters", "warning"),
    ("texts", "boilerplate", True, "boilerplate", "warning"),
    ("texts", "private_use_chars", 1, "private_use_characters", "info"),
    ("texts", "latin_share", 0.6, "mostly_latin", "info"),
    ("texts", "masks", 1, "masks", "info"),
    ("texts", "tokens", 33, "over_max_tokens", "info"),
    ("texts", "duplicates", 2, "duplicate_caption", "info"),
    ("texts", "newline", True, "newline", "info"),
    ("texts", "chinese_share", 0.0, "no_chinese", "info"),
    ("pairs", "pair_id", "对1", "duplicate_pair_id", "critical"),
    ("pairs", "pair_id", None, "null_pair_id", "critical"),
    ("pairs", "picture_exists", False, "picture_missing", "warning"),
    ("pairs", "caption_exists", False, "caption_missing", "warning"),
    ("torn", "picture_clean", False, "picture_quarantined", "warning"),
    ("torn", "caption_clean", False, "caption_quarantined", "warning"),
    ("duplicates", "duplicate", True, "duplicate_pair", "warning"),
    ("contradictions", "opposite_sides", True, "opposite_sides", "warning"),
    ("contradictions", "opposite_labels", True, "opposite_labels", "warning"),
    ("contradictions", "nothing_in_common", True, "nothing_in_common", "warning"),
    ("leaks", "reaches", "test", "leaks_into_test", "warning"),
    ("leaks", "reaches", "valid", "leaks_into_valid", "warning"),
    ("across", "near_elsewhere", True, "near_equal_across_splits", "warning"),
    ("overlap", "in_valid_or_test", True, "in_valid_or_test", "warning"),
    ("drift", "distance", 0.21, "drift", "warning"),
    ("paired", "pairs", 0, "without_pair", "warning"),
    ("spread", "pictures", 4, "on_too_many_pictures", "warning"),
    ("outcome", "quarantined", 1.0, "quarantined_share", "critical"),
    ("positives", "positives", 0, "without_positive", "critical"),
    ("groups", "pictures", 21, "group_too_large", "critical"),
]


@cache
def suite_of(name: str) -> list[Any]:
    suites: dict[str, Callable[[], list[Any]]] = {
        "images": lambda: checks.image_suite(PARAMS, True),
        "texts": lambda: checks.text_suite(PARAMS, 32, True),
        "pairs": lambda: checks.pair_suite(True),
        "torn": lambda: checks.torn_suite("quarantined"),
        "duplicates": checks.duplicate_suite,
        "contradictions": checks.contradiction_suite,
        "leaks": checks.leak_suite,
        "across": checks.across_suite,
        "overlap": checks.overlap_suite,
        "drift": lambda: checks.drift_suite(PARAMS),
        "paired": checks.paired_suite,
        "spread": lambda: checks.spread_suite(PARAMS),
        "outcome": lambda: checks.outcome_suite(PARAMS, "unreadable 2"),
        "positives": checks.positives_suite,
        "groups": lambda: checks.group_suite(PARAMS, 2000),
    }
    return suites[name]()


@pytest.mark.parametrize("suite", FRAMES)
def test_sound_rows_pass(suite: str) -> None:
    verdicts = expectations.run(pd.DataFrame(FRAMES[suite]), suite_of(suite))
    assert [verdict for verdict in verdicts if not verdict.success] == []
    assert len(verdicts) == len(suite_of(suite))


@pytest.mark.parametrize("suite", FRAMES)
def test_each_rule_fails_on_its_fault_alone(suite: str) -> None:
    """One more row per fault: sound but for that one value."""
    sound = pd.DataFrame(FRAMES[suite]).astype(object)
    faults = [fault[1:] for fault in FAULTS if fault[0] == suite]
    key, rows = sound.columns[0], []
    for number, (column, bad, _, _) in enumerate(faults):
        rows.append(
            sound.iloc[3].to_dict() | ({key: f"坏{number}"} if len(sound.columns) > 1 else {}) | {column: bad}
        )
    frame = pd.concat([sound, pd.DataFrame(rows, dtype=object)], ignore_index=True).infer_objects()
    failing = {
        verdict.name: verdict for verdict in expectations.run(frame, suite_of(suite)) if not verdict.success
    }
    assert failing.keys() == {name for *_, name, _ in faults}
    for row, (column, bad, name, severity) in enumerate(faults, len(sound)):
        twin = [list(sound[key]).index(bad)] if column == key and bad in list(sound[key]) else []
        assert failing[name].severity == severity
        assert failing[name].rows == ([] if suite == "outcome" else [*twin, row])
    for name, verdict in failing.items():
        if verdict.severity == "critical":
            with pytest.raises(UserError, match=rf"^表\.parquet: {name} .+; .+"):
                expectations.stop_on_critical(Path("表.parquet"), frame, [verdict])
        else:
            expectations.stop_on_critical(Path("表.parquet"), frame, [verdict])


def test_the_share_of_bad_rows_is_told() -> None:
    (verdict,) = expectations.run(pd.DataFrame({"quarantined": [0.0, 1.0, 1.0, 0.0]}), suite_of("outcome"))
    assert (verdict.success, verdict.rows, verdict.observed) == (False, [], 0.5)


def test_no_rule_goes_without_a_fault() -> None:
    named = {rule.meta["name"] for suite in FRAMES for rule in suite_of(suite)}
    assert named == {name for *_, name, _ in FAULTS} | {"rows"}


@pytest.mark.parametrize("suite", ["images", "texts", "pairs"])
def test_a_set_that_needs_rows_must_not_be_empty(suite: str) -> None:
    empty = pd.DataFrame(FRAMES[suite])[:0]
    verdicts = expectations.run(empty, suite_of(suite))
    assert [verdict.name for verdict in verdicts if not verdict.success] == ["rows"]
    with pytest.raises(UserError, match=r"^表\.parquet: rows is 0; give the set pictures and captions"):
        expectations.stop_on_critical(Path("表.parquet"), empty, verdicts)
    assert all(verdict.success for verdict in expectations.run(empty, checks.pair_suite(False)[:1]))


def test_failing_rows_keep_their_labels_after_a_filter() -> None:
    frame = pd.DataFrame({**FRAMES["images"], "width": [8, 64, 64, 9]}, index=[3, 5, 8, 13])
    verdicts = {verdict.name: verdict for verdict in expectations.run(frame, suite_of("images"))}
    assert verdicts["too_narrow"].rows == [3, 13]


def test_what_could_not_be_measured_is_not_judged() -> None:
    unknown = {"width": [None] * 4, "height": [None] * 4, "pixels": [None] * 4, "blank": [None] * 4}
    frame = pd.DataFrame({**FRAMES["images"], **unknown, "readable": [False, None, None, None]})
    failing = [verdict for verdict in expectations.run(frame, suite_of("images")) if not verdict.success]
    assert [(verdict.name, verdict.rows) for verdict in failing] == [("unreadable", [0])]


def test_all_critical_faults_stand_in_one_message_with_examples() -> None:
    frame = pd.DataFrame({**FRAMES["images"], "image_id": ["猫.png", "猫.png", None, "鸟.png"]})
    verdicts = expectations.run(frame, suite_of("images"))
    with pytest.raises(UserError) as raised:
        expectations.stop_on_critical(Path("data/raw/labelled/images.parquet"), frame, verdicts)
    assert str(raised.value).splitlines() == [
        "data/raw/labelled/images.parquet: null_image_id on 1 of 4 rows, such as row 2; "
        "fill in the image_id in the source",
        "data/raw/labelled/images.parquet: duplicate_image_id on 2 of 4 rows, such as 猫.png; "
        "give every row its own image_id in the source",
    ]


def test_a_small_set_may_have_any_groups() -> None:
    frame = pd.DataFrame({"group": ["概念"], "pictures": [1000]})
    assert expectations.run(frame, checks.group_suite(PARAMS, 1000))[0].success
    assert not expectations.run(frame, checks.group_suite(PARAMS, 1001))[0].success


def test_a_gallery_holds_what_a_result_ranks() -> None:
    frame = pd.DataFrame({"image_id": [f"图{n}" for n in range(CONTEST_K)]})
    assert expectations.run(frame, checks.gallery_suite())[0].success
    assert not expectations.run(frame[1:], checks.gallery_suite())[0].success


def test_nothing_is_sent_anywhere() -> None:
    code = (
        "import socket, pandas\n"
        "calls = []\n"
        "socket.socket.connect = lambda self, address: calls.append(address)\n"
        "from tuwen.data.quality import expectations, suites\n"
        "frame = pandas.DataFrame({'image_id': ['猫.png'], 'pairs': [0]})\n"
        "expectations.run(frame, suites.paired_suite())\n"
        "print(calls)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")  # no progress bar either


def test_a_suite_that_ran_twice_counts_together() -> None:
    frame = pd.DataFrame(FRAMES["duplicates"])
    bad = frame.assign(duplicate=[True, False, True, False])
    verdicts = [
        *expectations.run(frame, suite_of("duplicates")),
        *expectations.run(bad, suite_of("duplicates")),
    ] * 2
    assert expectations.merged(verdicts) == {
        "duplicate_pair": {"severity": "warning", "success": False, "unexpected": 4}
    }
