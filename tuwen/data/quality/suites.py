"""Great Expectations suites as code: what the columns of doctor.py and relations.py must be; run by gates.py."""

from typing import Any

from tuwen.core.params import Validate
from tuwen.data.formats.pairs import FAULTS
from tuwen.data.quality.expectations import great_expectations

MIN_PICTURES_FOR_GROUP_SHARE = 1000  # in a smaller set a group may hold any share
COMMON_FORMATS = ("GIF", "JPEG", "PNG", "WEBP")
PLAIN_MODES = ("L", "RGB")  # any other is converted: palette, alpha, CMYK, 16 bit
MAX_LATIN_SHARE = 0.5
MIN_GALLERY = 5  # what a result of the contest ranks for every query


def image_suite(params: Validate, needs_rows: bool) -> list[Any]:
    """Over `doctor.measure_pictures`."""
    gxe = great_expectations().expectations

    rule = _rule("altered_bytes", "critical", "the shard is not what ingest wrote: run `dvc repro --force ingest`")
    return [
        *_table_rules("image_id", needs_rows),
        gxe.ExpectColumnPairValuesToBeEqual(
            column_A="sha256", column_B="measured_sha256", ignore_row_if="either_value_is_missing", **rule
        ),
        *(_none_of("fault", [fault], _row(fault)) for fault in FAULTS),
        _one_of("readable", [True], _row("unreadable")),
        _between("pixels", _row("too_large"), max_value=params.max_pixels),
        _between("width", _row("too_narrow"), min_value=params.min_side_px),
        _between("height", _row("too_low"), min_value=params.min_side_px),
        _between("aspect", _rule("elongated", "warning"), max_value=params.max_aspect),
        _one_of("blank", [False], _rule("blank", "info")),
        _one_of("format", list(COMMON_FORMATS), _rule("uncommon_format", "info")),
        _between("frames", _rule("animated", "info"), max_value=1),
        _one_of("mode", list(PLAIN_MODES), _rule("converted_to_rgb", "info")),
        _one_of("orientation", [1], _rule("turned_upright", "info")),
    ]


def text_suite(params: Validate, max_tokens: int, needs_rows: bool) -> list[Any]:
    """Over `doctor.measure_captions`."""
    return [
        *_table_rules("text_id", needs_rows),
        _between("chars", _row("empty"), min_value=1),
        _between("chars", _row("too_long"), max_value=params.max_chars),
        _between("control_chars", _row("control_characters"), max_value=0),
        _one_of("boilerplate", [False], _rule("boilerplate", "warning")),
        _between("private_use_chars", _rule("private_use_characters", "info"), max_value=0),
        _one_of("newline", [False], _rule("newline", "info")),
        _between("chinese_share", _rule("no_chinese", "info"), min_value=0, strict_min=True),
        _between("latin_share", _rule("mostly_latin", "info"), max_value=MAX_LATIN_SHARE),
        _between("masks", _rule("masks", "info"), max_value=0),
        _between("tokens", _rule("over_max_tokens", "info"), max_value=max_tokens),
        _between("duplicates", _rule("duplicate_caption", "info"), max_value=1),
    ]


def pair_suite(needs_rows: bool) -> list[Any]:
    """Over `doctor.measure_pairs`."""
    return [
        *_table_rules("pair_id", needs_rows),
        _one_of("picture_exists", [True], _row("picture_missing")),
        _one_of("caption_exists", [True], _row("caption_missing")),
    ]


def torn_suite(outcome: str) -> list[Any]:
    """Over pairs with `picture_clean` and `caption_clean`; outcome: what became of those that are not."""
    return [
        _one_of("picture_clean", [True], _row(f"picture_{outcome}")),
        _one_of("caption_clean", [True], _row(f"caption_{outcome}")),
    ]


def paired_suite() -> list[Any]:
    """Over pictures or captions with `pairs`, the number of clean pairs that hold each: one alone is of no use."""
    return [_between("pairs", _row("without_pair"), min_value=1)]


def duplicate_suite() -> list[Any]:
    """Over pairs with `duplicate`."""
    return [_one_of("duplicate", [False], _row("duplicate_pair"))]


def contradiction_suite() -> list[Any]:
    """Over pairs with the columns of `relations.contradictions`; all stay: nobody knows which is right."""
    names = ("opposite_sides", "opposite_labels", "nothing_in_common")
    return [_one_of(name, [False], _rule(name, "warning")) for name in names]


def spread_suite(params: Validate) -> list[Any]:
    """Over captions with `pictures`, the number of pictures under the equal normalised caption."""
    rule = _rule("on_too_many_pictures", "warning")
    return [_between("pictures", rule, max_value=params.max_pictures_per_caption)]


def leak_suite() -> list[Any]:
    """Over pictures with `reaches`, the split that wins their group where the source put them elsewhere."""
    return [_none_of("reaches", [split], _row(f"leaks_into_{split}")) for split in ("test", "valid")]


def across_suite() -> list[Any]:
    """Over dealt pictures with `near_elsewhere`: the source's groups part what looks alike; all stay."""
    return [_one_of("near_elsewhere", [False], _rule("near_equal_across_splits", "warning"))]


def gallery_suite() -> list[Any]:
    """Over what a task leaves to be ranked."""
    fix = (
        f"a result ranks {MIN_GALLERY} items for every query: mend what was left out, clean/quarantine.csv names "
        "it, or give the task more items in the source"
    )
    rule = _rule("gallery_items", "critical", fix)
    return [great_expectations().expectations.ExpectTableRowCountToBeBetween(min_value=MIN_GALLERY, **rule)]


def overlap_suite() -> list[Any]:
    """Over corpus pictures with `in_valid_or_test`."""
    return [_one_of("in_valid_or_test", [False], _row("in_valid_or_test"))]


def drift_suite(params: Validate) -> list[Any]:
    """Over `relations.drift`."""
    return [_between("distance", _rule("drift", "warning"), max_value=params.max_drift)]


def outcome_suite(params: Validate, reasons: str) -> list[Any]:
    """Over `quarantined` (0 or 1 per row of a table); `reasons` tells the user which faults they are."""
    gxe = great_expectations().expectations

    most = params.max_quarantined_share
    fix = (
        f"validate.max_quarantined_share allows {most}: {reasons}; mend these rows in the source, "
        "clean/quarantine.csv names them, or raise the share"
    )
    rule = _rule("quarantined_share", "critical", fix)
    return [gxe.ExpectColumnMeanToBeBetween(column="quarantined", max_value=most, **rule)]


def positives_suite() -> list[Any]:
    """Over the queries of one split with `positives`, the number of true items in the gallery."""
    fix = "no gallery item is true for it: pair it or remove it in the source"
    return [_between("positives", _rule("without_positive", "critical", fix), min_value=1)]


def group_suite(params: Validate, pictures: int) -> list[Any]:
    """Over the split groups with `pictures` each, of `pictures` in all: a group that chains have blown up."""
    most = pictures * params.max_group_share if pictures > MIN_PICTURES_FOR_GROUP_SHARE else pictures
    rule = _rule(
        "group_too_large",
        "critical",
        f"it holds more of the labelled pictures than validate.max_group_share ({params.max_group_share}) allows "
        "and cannot be split: give the source's `group` column, remove the pictures and captions that chain it, "
        "or raise the share",
    )
    return [_between("pictures", rule, max_value=most)]


def _table_rules(id_column: str, needs_rows: bool) -> list[Any]:
    gxe = great_expectations().expectations

    unique = _rule(f"duplicate_{id_column}", "critical", f"give every row its own {id_column} in the source")
    known = _rule(f"null_{id_column}", "critical", f"fill in the {id_column} in the source")
    least = _rule("rows", "critical", "give the set pictures and captions in the source")
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1 if needs_rows else 0, **least),
        gxe.ExpectColumnValuesToNotBeNull(column=id_column, **known),
        gxe.ExpectColumnValuesToBeUnique(column=id_column, **unique),
    ]


def _between(column: str, rule: dict[str, Any], **bounds: Any) -> Any:
    return great_expectations().expectations.ExpectColumnValuesToBeBetween(column=column, **bounds, **rule)


def _one_of(column: str, values: list[Any], rule: dict[str, Any]) -> Any:
    return great_expectations().expectations.ExpectColumnValuesToBeInSet(column=column, value_set=values, **rule)


def _none_of(column: str, values: list[Any], rule: dict[str, Any]) -> Any:
    return great_expectations().expectations.ExpectColumnValuesToNotBeInSet(
        column=column, value_set=values, **rule
    )


def _rule(name: str, severity: str, fix: str = "", row_fault: bool = False) -> dict[str, Any]:
    return {"severity": severity, "meta": {"name": name, "fix": fix, "row_fault": row_fault}}


def _row(name: str) -> dict[str, Any]:
    return _rule(name, "warning", row_fault=True)
