"""Great Expectations suites as code: what the measured columns must be. expectations.py runs them.

The name of a row fault is the reason that stands in quarantine.csv; all names are keys of quality.json.
"""

from typing import Any

from tuwen.core.params import Validate
from tuwen.data.formats.impostors import UNREAD_FORMS
from tuwen.data.formats.pairs import FAULTS
from tuwen.data.quality.caption_marks import MARK_DECISIONS
from tuwen.data.quality.expectations import import_great_expectations

MIN_IMAGES_FOR_GROUP_SHARE = 1000  # in a smaller set a group may hold any share
COMMON_FORMATS = ("GIF", "JPEG", "PNG", "WEBP")
MAX_JOINED_SHARE = 0.1  # of such a small set, in a group that equal captions join
UNREAD_FORMAT = "HEIC"  # where the extra that reads it is not installed; where it is, the format is HEIF
PLAIN_MODES = ("L", "RGB")  # any other is converted: palette, alpha, CMYK, 16 bit
MAX_LATIN_SHARE = 0.5
MIN_GALLERY = 5  # what a result of the contest ranks for every query


def build_image_suite(params: Validate, needs_rows: bool) -> list[Any]:
    """Return what images must be, over `image_stats.measure_images`; needs_rows: an empty table is a fault."""
    gxe, not_read = import_great_expectations().expectations, [UNREAD_FORMAT, *UNREAD_FORMS]
    remedy = "the shard is not what ingest wrote: run `dvc repro --force ingest`"
    altered = _describe("altered_bytes", "critical", remedy)
    return [
        *_expect_table("image_id", needs_rows),
        gxe.ExpectColumnPairValuesToBeEqual(
            column_A="sha256", column_B="measured_sha256", ignore_row_if="either_value_is_missing", **altered
        ),
        *(_expect_none_of("fault", [fault], _describe_row_fault(fault)) for fault in FAULTS),
        _expect_none_of("format", [UNREAD_FORMAT], _describe_row_fault("heic_without_pillow_heif")),
        _expect_none_of("format", not_read[1:], _describe_row_fault("form_not_read")),
        _expect_one_of("readable", [True], _describe_row_fault("unreadable")),
        _expect_between("pixels", _describe_row_fault("too_large"), max_value=params.max_pixels),
        _expect_between("width", _describe_row_fault("too_narrow"), min_value=params.min_side_px),
        _expect_between("height", _describe_row_fault("too_low"), min_value=params.min_side_px),
        _expect_between("aspect", _describe("elongated", "warning"), max_value=params.max_aspect),
        _expect_one_of("blank", [False], _describe("blank", "info")),
        _expect_one_of("format", [*COMMON_FORMATS, *not_read], _describe("uncommon_format", "info")),
        _expect_between("frames", _describe("animated", "info"), max_value=1),
        _expect_one_of("mode", list(PLAIN_MODES), _describe("converted_to_rgb", "info")),
        _expect_one_of("orientation", [1], _describe("turned_upright", "info")),
    ]


def build_text_suite(params: Validate, max_tokens: int, needs_rows: bool) -> list[Any]:
    """Return what captions must be, over `text_stats.measure_captions`; max_tokens: what a model reads of one."""
    return [
        *_expect_table("text_id", needs_rows),
        _expect_between("chars", _describe_row_fault("empty"), min_value=1),
        _expect_between("chars", _describe_row_fault("too_long"), max_value=params.max_chars),
        _expect_between("control_chars", _describe_row_fault("control_characters"), max_value=0),
        *(_expect_one_of(name, [False], _describe(name, *decision)) for name, decision in MARK_DECISIONS.items()),
        _expect_none_of("chars", [1], _describe("one_character", "info")),
        _expect_none_of("script", ["mixed"], _describe("mixed_scripts", "warning")),
        _expect_none_of("script", ["traditional"], _describe("traditional", "info")),
        _expect_between("private_use_chars", _describe("private_use_characters", "info"), max_value=0),
        _expect_one_of("newline", [False], _describe("newline", "info")),
        _expect_between("chinese_share", _describe("no_chinese", "info"), min_value=0, strict_min=True),
        _expect_between("latin_share", _describe("mostly_latin", "info"), max_value=MAX_LATIN_SHARE),
        _expect_between("masks", _describe("masks", "info"), max_value=0),
        _expect_between("tokens", _describe("over_max_tokens", "info", often="warning"), max_value=max_tokens),
        _expect_between("duplicates", _describe("duplicate_caption", "info"), max_value=1),
    ]


def build_pair_suite(needs_rows: bool) -> list[Any]:
    """Return what pairs must be, over `pair_stats.measure_pairs`."""
    return [
        *_expect_table("pair_id", needs_rows),
        _expect_one_of("picture_exists", [True], _describe_row_fault("picture_missing")),
        _expect_one_of("caption_exists", [True], _describe_row_fault("caption_missing")),
    ]


def build_torn_suite(outcome: str, why: str = "") -> list[Any]:
    """Return expectations over pairs with `picture_clean` and `caption_clean`.

    outcome: what became of the ends that are not; why: it was to be expected.
    """
    return [
        _expect_one_of("picture_clean", [True], _describe_row_fault(f"picture_{outcome}", why)),
        _expect_one_of("caption_clean", [True], _describe_row_fault(f"caption_{outcome}", why)),
    ]


def build_paired_suite(why: str = "") -> list[Any]:
    """Return expectations over images or texts with `pairs`, the number of clean pairs that hold each.

    An image or text that no pair holds is of no use. why: it was to be expected.
    """
    return [_expect_between("pairs", _describe_row_fault("without_pair", why), min_value=1)]


def build_duplicate_suite() -> list[Any]:
    """Return expectations over pairs with `duplicate`."""
    return [_expect_one_of("duplicate", [False], _describe_row_fault("duplicate_pair"))]


def build_contradiction_suite() -> list[Any]:
    """Return expectations over pairs with the columns of `consistency.find_contradictions`.

    All stay, since either may be wrong.
    """
    names = ("opposite_sides", "opposite_labels", "nothing_in_common")
    return [_expect_one_of(name, [False], _describe(name, "warning")) for name in names]


def build_spread_suite(params: Validate) -> list[Any]:
    """Return expectations over texts with `pictures`, the number of images under the equal normalised caption."""
    meta = _describe("on_too_many_pictures", "warning")
    return [_expect_between("pictures", meta, max_value=params.max_pictures_per_caption)]


def build_leak_suite() -> list[Any]:
    """Return expectations over images with `reaches`.

    `reaches`: the split that wins their group where the source put them elsewhere.
    """
    return [
        _expect_none_of("reaches", [split], _describe_row_fault(f"leaks_into_{split}"))
        for split in ("test", "valid")
    ]


def build_across_suite() -> list[Any]:
    """Return expectations over dealt images with `near_elsewhere`.

    The source's groups separate images that look alike; all stay.
    """
    return [_expect_one_of("near_elsewhere", [False], _describe("near_equal_across_splits", "warning"))]


def build_seen_suite() -> list[Any]:
    """Return expectations over texts with `caption_in_train`: of valid and test, an equal caption is in train.

    All stay; what is found by such a caption is measured apart.
    """
    return [_expect_one_of("caption_in_train", [False], _describe("caption_in_train", "warning"))]


def build_gallery_suite() -> list[Any]:
    """Return expectations over what a task leaves to be ranked."""
    fix = (
        f"a result ranks {MIN_GALLERY} items for every query: mend what was left out, clean/quarantine.csv names "
        "it, or give the task more items in the source"
    )
    meta = _describe("gallery_items", "critical", fix)
    return [import_great_expectations().expectations.ExpectTableRowCountToBeBetween(min_value=MIN_GALLERY, **meta)]


def build_overlap_suite(why: str = "") -> list[Any]:
    """Return expectations over corpus images with `in_valid_or_test`; why: it was to be expected."""
    return [_expect_one_of("in_valid_or_test", [False], _describe_row_fault("in_valid_or_test", why))]


def build_drift_suite(params: Validate) -> list[Any]:
    """Return expectations over `consistency.measure_drift`."""
    return [_expect_between("distance", _describe("drift", "warning"), max_value=params.max_drift)]


def build_outcome_suite(params: Validate, reasons: str) -> list[Any]:
    """Return expectations over `quarantined` (0 or 1 per row of a table).

    reasons: which faults they are, for the message.
    """
    gxe = import_great_expectations().expectations

    most = params.max_quarantined_share
    fix = (
        f"validate.max_quarantined_share allows {most}: {reasons}; mend these rows in the source, "
        "clean/quarantine.csv names them, or raise the share"
    )
    meta = _describe("quarantined_share", "critical", fix)
    return [gxe.ExpectColumnMeanToBeBetween(column="quarantined", max_value=most, **meta)]


def build_positives_suite() -> list[Any]:
    """Return expectations over the queries of one split with `positives`.

    `positives`: the number of true items in the gallery.
    """
    fix = "no gallery item is true for it: pair it or remove it in the source"
    return [_expect_between("positives", _describe("without_positive", "critical", fix), min_value=1)]


def choose_largest_group(params: Validate, images: int) -> int:
    """Return how many of `images` a group may hold that equal captions join: not so many as to be critical."""
    if images > MIN_IMAGES_FOR_GROUP_SHARE:
        return int(images * params.max_group_share)
    return max(params.max_pictures_per_caption, int(images * MAX_JOINED_SHARE))


def build_group_suite(params: Validate, images: int) -> list[Any]:
    """Return expectations over the split groups with `pictures` each, of `images` in all.

    A chain of links may have blown one up.
    """
    most = images * params.max_group_share if images > MIN_IMAGES_FOR_GROUP_SHARE else images
    meta = _describe(
        "group_too_large",
        "critical",
        f"it holds more of the labelled pictures than validate.max_group_share ({params.max_group_share}) allows "
        "and cannot be split: give the source's `group` column, remove the pictures that chain it, "
        "or raise the share",
    )
    return [_expect_between("pictures", meta, max_value=most)]


def _expect_table(id_column: str, needs_rows: bool) -> list[Any]:
    gxe = import_great_expectations().expectations

    rows = _describe("rows", "critical", "give the set pictures and captions in the source")
    filled = _describe(f"null_{id_column}", "critical", f"fill in the {id_column} in the source")
    unique = _describe(f"duplicate_{id_column}", "critical", f"give every row its own {id_column} in the source")
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1 if needs_rows else 0, **rows),
        gxe.ExpectColumnValuesToNotBeNull(column=id_column, **filled),
        gxe.ExpectColumnValuesToBeUnique(column=id_column, **unique),
    ]


def _expect_between(column: str, meta: dict[str, Any], **bounds: Any) -> Any:
    gxe = import_great_expectations().expectations
    return gxe.ExpectColumnValuesToBeBetween(column=column, **bounds, **meta)


def _expect_one_of(column: str, values: list[Any], meta: dict[str, Any]) -> Any:
    gxe = import_great_expectations().expectations
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=values, **meta)


def _expect_none_of(column: str, values: list[Any], meta: dict[str, Any]) -> Any:
    gxe = import_great_expectations().expectations
    return gxe.ExpectColumnValuesToNotBeInSet(column=column, value_set=values, **meta)


def _describe(
    name: str, severity: str, fix: str = "", row_fault: bool = False, often: str = "", why: str = ""
) -> dict[str, Any]:
    """Return what an expectation says of itself; often: the severity on a notable share of the rows."""
    meta = {"name": name, "fix": fix, "row_fault": row_fault, "often": often or severity, "why": why}
    return {"severity": severity, "meta": meta}


def _describe_row_fault(name: str, why: str = "") -> dict[str, Any]:
    return _describe(name, "info" if why else "warning", row_fault=True, why=why)
