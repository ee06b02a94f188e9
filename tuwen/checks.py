"""Great Expectations suites as code: they judge the columns that doctor.py measures.

critical   the stage cannot go on: UserError with place, value and fix
warning    a row with a fault leaves its set for `quarantine`; what is a matter of degree is reported alone
info       counted and listed, changes nothing
Which rows fail always comes from the expectation's own result.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tuwen.errors import UserError
from tuwen.params import Validate

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 3  # ids that a message names
MAX_GROUP_SHARE = 0.01  # of the labelled pictures in one split group ...
MIN_PICTURES_FOR_GROUP_SHARE = 1000  # ... once there are more than this


class Verdict(NamedTuple):
    """What one expectation found."""

    name: str
    severity: str  # critical, warning, info
    success: bool
    unexpected: int  # rows that fail; 1 for a failing expectation about the whole table
    rows: list[Any]  # their index labels
    observed: Any  # the value of an expectation about the whole table
    fix: str
    row_fault: bool  # the name is the reason under which the rows are listed in `quarantine`


def run(frame: "pd.DataFrame", suite: list[Any]) -> list[Verdict]:
    """Validate `frame` against the expectations of `suite`; one verdict each, in their order."""
    gx = _great_expectations()
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    asset = context.data_sources.add_pandas("measured").add_dataframe_asset("table")
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})
    found = batch.validate(
        gx.ExpectationSuite("suite", expectations=suite), result_format={"result_format": "COMPLETE"}
    )
    # the results come in an order of their own
    verdicts = {verdict.name: verdict for verdict in map(_verdict, found.results)}
    return [verdicts[expectation.meta["name"]] for expectation in suite]


def _verdict(result: Any) -> Verdict:
    config, values = result.expectation_config, result.result
    assert "unexpected_count" in values or "observed_value" in values, result.exception_info
    return Verdict(
        severity=config.severity.value,
        success=bool(result.success),
        unexpected=int(values.get("unexpected_count", not result.success)),
        rows=list(values.get("unexpected_index_list") or []),
        observed=values.get("observed_value"),
        **config.meta,
    )


def stop_on_critical(place: Path, frame: "pd.DataFrame", verdicts: list[Verdict]) -> None:
    """Raise one UserError that names every failing critical expectation, if there is one.

    The first column of `frame` is the id by which rows are named.
    """
    problems = []
    for verdict in verdicts:
        if verdict.severity == "critical" and not verdict.success:
            problems.append(f"{place}: {verdict.name} {_value(frame, verdict)}; {verdict.fix}")
    if problems:
        raise UserError("\n".join(problems))


def _value(frame: "pd.DataFrame", verdict: Verdict) -> str:
    if not verdict.rows:
        return f"is {verdict.observed:.4g}"
    ids = frame.iloc[:, 0].loc[verdict.rows]
    named = [
        f"row {label}" if missing else str(name)
        for (label, name), missing in zip(ids.items(), ids.isna(), strict=True)
    ]
    shown = ", ".join(list(dict.fromkeys(named))[:EXAMPLES])
    return f"on {verdict.unexpected} of {len(frame)} rows, such as {shown}"


def image_suite(params: Validate, fault: str, needs_rows: bool) -> list[Any]:
    """Over `doctor.measure_pictures`. fault: severity of a row's fault, "warning" or, where rows stay, "info"."""
    gxe = _great_expectations().expectations

    small = {"min_value": params.min_side_px}
    return [
        *_table_rules("image_id", needs_rows),
        gxe.ExpectColumnPairValuesToBeEqual(
            column_A="sha256",
            column_B="measured_sha256",
            ignore_row_if="either_value_is_missing",
            **_rule(
                "altered_bytes", "critical", "the shard is not what ingest wrote: run `dvc repro --force ingest`"
            ),
        ),
        gxe.ExpectColumnValuesToBeInSet(column="readable", value_set=[True], **_row("unreadable", fault)),
        gxe.ExpectColumnValuesToBeBetween(
            column="pixels", max_value=params.max_pixels, **_row("too_large", fault)
        ),
        gxe.ExpectColumnValuesToBeBetween(column="width", **small, **_row("too_narrow", fault)),
        gxe.ExpectColumnValuesToBeBetween(column="height", **small, **_row("too_low", fault)),
        gxe.ExpectColumnValuesToBeInSet(column="blank", value_set=[False], **_rule("blank", "info")),
    ]


def text_suite(params: Validate, fault: str, needs_rows: bool) -> list[Any]:
    """Over `doctor.measure_captions`; `fault` as in `image_suite`."""
    gxe = _great_expectations().expectations

    long = {"column": "chars", "max_value": params.max_chars}
    return [
        *_table_rules("text_id", needs_rows),
        gxe.ExpectColumnValuesToBeBetween(column="chars", min_value=1, **_row("empty", fault)),
        gxe.ExpectColumnValuesToBeBetween(**long, **_row("too_long", fault)),
        gxe.ExpectColumnValuesToBeBetween(
            column="control_chars", max_value=0, **_row("control_characters", fault)
        ),
        gxe.ExpectColumnValuesToBeInSet(column="newline", value_set=[False], **_rule("newline", "info")),
        gxe.ExpectColumnValuesToBeBetween(
            column="chinese_share", min_value=0, strict_min=True, **_rule("no_chinese", "info")
        ),
    ]


def pair_suite(fault: str, needs_rows: bool) -> list[Any]:
    """Over `doctor.measure_pairs` with `picture_clean` and `caption_clean`; `fault` as in `image_suite`."""
    gxe = _great_expectations().expectations

    reasons = {
        "picture_exists": "picture_missing",
        "caption_exists": "caption_missing",
        "picture_clean": "picture_quarantined",
        "caption_clean": "caption_quarantined",
    }
    return [
        *_table_rules("pair_id", needs_rows),
        *(
            gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[True], **_row(reason, fault))
            for column, reason in reasons.items()
        ),
    ]


def paired_suite() -> list[Any]:
    """Over pictures or captions with `pairs`, the number of clean pairs that hold each: one alone is of no use."""
    gxe = _great_expectations().expectations

    return [gxe.ExpectColumnValuesToBeBetween(column="pairs", min_value=1, **_row("without_pair", "warning"))]


def spread_suite(params: Validate) -> list[Any]:
    """Over captions with `pictures`, the number of pictures under the equal normalised caption."""
    gxe = _great_expectations().expectations

    most = {"column": "pictures", "max_value": params.max_pictures_per_caption}
    return [gxe.ExpectColumnValuesToBeBetween(**most, **_rule("on_too_many_pictures", "warning"))]


def outcome_suite(params: Validate, reasons: str) -> list[Any]:
    """Over `quarantined` (0 or 1 per row of a table); `reasons` tells the user which faults they are."""
    gxe = _great_expectations().expectations

    most = params.max_quarantined_share
    fix = (
        f"validate.max_quarantined_share allows {most}: {reasons}; mend these rows in the source, "
        "clean/quarantine.parquet names them, or raise the share"
    )
    rule = _rule("quarantined_share", "critical", fix)
    return [gxe.ExpectColumnMeanToBeBetween(column="quarantined", max_value=most, **rule)]


def positives_suite() -> list[Any]:
    """Over the queries of one split with `positives`, the number of true items in the gallery."""
    gxe = _great_expectations().expectations

    rule = _rule(
        "without_positive", "critical", "no gallery item is true for it: pair it or remove it in the source"
    )
    return [gxe.ExpectColumnValuesToBeBetween(column="positives", min_value=1, **rule)]


def group_suite(pictures: int) -> list[Any]:
    """Over the split groups with `pictures` each, of `pictures` in all: a group that chains have blown up."""
    gxe = _great_expectations().expectations

    most = pictures * MAX_GROUP_SHARE if pictures > MIN_PICTURES_FOR_GROUP_SHARE else pictures
    rule = _rule(
        "group_too_large",
        "critical",
        f"it holds more than {MAX_GROUP_SHARE:.0%} of the labelled pictures and cannot be split: "
        "give the source's `group` column or remove the pictures and captions that chain it",
    )
    return [gxe.ExpectColumnValuesToBeBetween(column="pictures", max_value=most, **rule)]


def _great_expectations() -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "False"  # not every version leaves it off
    import great_expectations  # takes seconds
    import great_expectations.expectations

    return great_expectations


def _table_rules(id_column: str, needs_rows: bool) -> list[Any]:
    gxe = _great_expectations().expectations

    unique = _rule(f"duplicate_{id_column}", "critical", f"give every row its own {id_column} in the source")
    known = _rule(f"null_{id_column}", "critical", f"fill in the {id_column} in the source")
    least = _rule("rows", "critical", "give the set pictures and captions in the source")
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1 if needs_rows else 0, **least),
        gxe.ExpectColumnValuesToNotBeNull(column=id_column, **known),
        gxe.ExpectColumnValuesToBeUnique(column=id_column, **unique),
    ]


def _rule(name: str, severity: str, fix: str = "", row_fault: bool = False) -> dict[str, Any]:
    return {"severity": severity, "meta": {"name": name, "fix": fix, "row_fault": row_fault}}


def _row(name: str, severity: str) -> dict[str, Any]:
    return _rule(name, severity, row_fault=True)
