from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.support.checkout import ROOT
from tuwen.core.errors import UserError
from tuwen.core.params import load_params
from tuwen.data.quality import expectations, suites
from tuwen.data.quality.caption_marks import PATTERNS
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
        "chars": [5, 8, 20, 2],
        "control_chars": [0] * 4,
        **dict.fromkeys(("boilerplate", *PATTERNS), [False] * 4),
        "script": ["simplified", "", "", "simplified"],
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
# suite, column, the value that a row gets there, the expectation that fails, its severity
FAULTS = [
    ("images", "image_id", "猫.png", "duplicate_image_id", "critical"),
    ("images", "image_id", None, "null_image_id", "critical"),
    ("images", "measured_sha256", "z", "altered_bytes", "critical"),
    ("images", "format", "HEIC", "heic_without_pillow_heif", "warning"),
    ("images", "format", "JPEG 2000", "form_not_read", "warning"),
    ("images", "readable", False, "unreadable", "warning"),
    ("images", "pixels", 1_000_001, "too_large", "warning"),
    ("images", "width", 15, "too_narrow", "warning"),
    ("images", "height", 1, "too_low", "warning"),
    ("images", "fault", "missing", "missing", "warning"),
    ("images", "fault", "not_fetched", "not_fetched", "warning"),
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
    ("texts", "chars", 1, "one_character", "info"),
    *(("texts", name, True, name, "warning") for name in ("boilerplate", "html", "escapes", "lost_characters")),
    *(("texts", name, True, name, "warning") for name in ("url_only", "file_name_only", "placeholder")),
    *(("texts", name, True, name, "info") for name in ("number_only", "symbols_only", "file_ending")),
    *(("texts", name, True, name, "info") for name in ("zero_width", "bidi_controls")),
    ("texts", "script", "mixed", "mixed_scripts", "warning"),
    ("texts", "script", "traditional", "traditional", "info"),
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
def build_suite(name: str) -> list[Any]:
    builders: dict[str, Callable[[], list[Any]]] = {
        "images": lambda: suites.build_image_suite(PARAMS, True),
        "texts": lambda: suites.build_text_suite(PARAMS, 32, True),
        "pairs": lambda: suites.build_pair_suite(True),
        "torn": lambda: suites.build_torn_suite("quarantined"),
        "duplicates": suites.build_duplicate_suite,
        "contradictions": suites.build_contradiction_suite,
        "leaks": suites.build_leak_suite,
        "across": suites.build_across_suite,
        "overlap": suites.build_overlap_suite,
        "drift": lambda: suites.build_drift_suite(PARAMS),
        "paired": suites.build_paired_suite,
        "spread": lambda: suites.build_spread_suite(PARAMS),
        "outcome": lambda: suites.build_outcome_suite(PARAMS, "unreadable 2"),
        "positives": suites.build_positives_suite,
        "groups": lambda: suites.build_group_suite(PARAMS, 2000),
    }
    return builders[name]()


@pytest.mark.parametrize("suite", FRAMES)
def test_sound_rows_pass(suite: str) -> None:
    findings = expectations.run_suite(pd.DataFrame(FRAMES[suite]), build_suite(suite))
    assert [finding for finding in findings if not finding.success] == []
    assert len(findings) == len(build_suite(suite))


@pytest.mark.parametrize("suite", FRAMES)
def test_each_expectation_fails_on_its_fault_alone(suite: str) -> None:
    """Add one row per fault: sound but for that one value."""
    sound = pd.DataFrame(FRAMES[suite]).astype(object)
    faults = [fault[1:] for fault in FAULTS if fault[0] == suite]
    key, rows = sound.columns[0], []
    for number, (column, bad, _, _) in enumerate(faults):
        rows.append(
            sound.iloc[3].to_dict() | ({key: f"坏{number}"} if len(sound.columns) > 1 else {}) | {column: bad}
        )
    frame = pd.concat([sound, pd.DataFrame(rows, dtype=object)], ignore_index=True).infer_objects()
    failing = {
        finding.name: finding
        for finding in expectations.run_suite(frame, build_suite(suite))
        if not finding.success
    }
    assert failing.keys() == {name for *_, name, _ in faults}
    for row, (column, bad, name, severity) in enumerate(faults, len(sound)):
        twin = [list(sound[key]).index(bad)] if column == key and bad in list(sound[key]) else []
        assert failing[name].severity == severity
        assert failing[name].rows == ([] if suite == "outcome" else [*twin, row])
    for name, finding in failing.items():
        if finding.severity == "critical":
            with pytest.raises(UserError, match=rf"^表\.parquet: {name} .+; .+"):
                expectations.stop_on_critical(Path("表.parquet"), frame, [finding])
        else:
            expectations.stop_on_critical(Path("表.parquet"), frame, [finding])


def test_the_share_of_bad_rows_is_observed() -> None:
    (finding,) = expectations.run_suite(
        pd.DataFrame({"quarantined": [0.0, 1.0, 1.0, 0.0]}), build_suite("outcome")
    )
    assert (finding.success, finding.rows, finding.observed) == (False, [], 0.5)


@pytest.mark.parametrize(("cut", "severity"), [(119, "warning"), (36, "warning"), (35, "info"), (1, "info")])
def test_what_befalls_a_notable_share_of_the_captions_is_a_warning(cut: int, severity: str) -> None:
    sound = {name: [values[0]] * 700 for name, values in FRAMES["texts"].items()}
    frame = pd.DataFrame(sound | {"text_id": range(700), "tokens": [33] * cut + [32] * (700 - cut)})
    findings = {finding.name: finding for finding in expectations.run_suite(frame, build_suite("texts"))}
    assert findings["over_max_tokens"].severity == severity
    assert findings["over_max_tokens"].unexpected == cut


def test_no_expectation_goes_without_a_fault() -> None:
    names = {expectation.meta["name"] for suite in FRAMES for expectation in build_suite(suite)}
    assert names == {name for *_, name, _ in FAULTS} | {"rows"}


@pytest.mark.parametrize("suite", ["images", "texts", "pairs"])
def test_a_set_that_needs_rows_must_not_be_empty(suite: str) -> None:
    empty = pd.DataFrame(FRAMES[suite])[:0]
    findings = expectations.run_suite(empty, build_suite(suite))
    assert [finding.name for finding in findings if not finding.success] == ["rows"]
    with pytest.raises(UserError, match=r"^表\.parquet: rows is 0; give the set pictures and captions"):
        expectations.stop_on_critical(Path("表.parquet"), empty, findings)
    assert all(finding.success for finding in expectations.run_suite(empty, suites.build_pair_suite(False)[:1]))


def test_what_could_not_be_measured_fails_no_expectation() -> None:
    unknown = {"width": [None] * 4, "height": [None] * 4, "pixels": [None] * 4, "blank": [None] * 4}
    frame = pd.DataFrame({**FRAMES["images"], **unknown, "readable": [False, None, None, None]})
    failing = [finding for finding in expectations.run_suite(frame, build_suite("images")) if not finding.success]
    assert [(finding.name, finding.rows) for finding in failing] == [("unreadable", [0])]


def test_a_small_set_may_have_any_groups() -> None:
    frame = pd.DataFrame({"group": ["概念"], "pictures": [1000]})
    assert expectations.run_suite(frame, suites.build_group_suite(PARAMS, 1000))[0].success
    assert not expectations.run_suite(frame, suites.build_group_suite(PARAMS, 1001))[0].success


def test_a_gallery_holds_what_a_result_ranks() -> None:
    frame = pd.DataFrame({"image_id": [f"图{n}" for n in range(CONTEST_K)]})
    assert expectations.run_suite(frame, suites.build_gallery_suite())[0].success
    assert not expectations.run_suite(frame[1:], suites.build_gallery_suite())[0].success
