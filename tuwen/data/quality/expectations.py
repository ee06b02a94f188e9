"""Runs Great Expectations suites over measured columns; a failed critical expectation stops the stage.

critical   the stage cannot go on: UserError with place, value and fix
warning    a row with a fault leaves its set, or is shown as a blank; what is a matter of degree is reported alone
info       counted, changes nothing; some are a warning on more than NOTABLE_SHARE of the rows
Which rows fail always comes from the expectation's own result. The suites stand in suites.py.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tuwen.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES_PER_MESSAGE = 3  # ids that a message names
NOTABLE_SHARE = 0.05
EXAMPLES_PER_CHECK = 5  # rows that the page of data quality shows of a check that is not met
CAPTION_HEAD, CAPTION_TAIL = 40, 20  # characters of a caption that are shown


class Finding(NamedTuple):
    """What one expectation found."""

    name: str
    severity: str  # critical, warning, info
    success: bool
    unexpected: int  # rows that fail; 1 for a failed expectation about the whole table
    rows: list[Any]  # their index labels
    observed: Any  # the value of an expectation about the whole table
    fix: str
    row_fault: bool  # the name is the reason under which the rows are listed in `quarantine`
    why: str  # it was to be expected, so that it is no warning; mostly empty
    result: Any  # as Great Expectations gave it


class ExampleRow(NamedTuple):
    """A row that does not meet a check."""

    check: str
    id: str
    file: str | None
    row: float | None
    caption: str  # as `format_caption` returns it; empty where the table has none


def run_suite(frame: "pd.DataFrame", suite: list[Any]) -> list[Finding]:
    """Validate `frame` against the expectations of `suite`; return one finding for each, in their order."""
    gx = import_great_expectations()
    from great_expectations.validator.v1_validator import Validator

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    asset = context.data_sources.add_pandas("measured").add_dataframe_asset("table")
    # Great Expectations hashes the whole frame, strings at a second per million: it gets only what it needs
    needed = frame[list_columns(suite) or frame.columns[:1]]
    batch, parameters = asset.add_batch_definition_whole_dataframe("whole"), {"dataframe": needed}
    result_format = {"result_format": "COMPLETE", "return_unexpected_index_query": False}
    # what `Batch.validate` calls; calling that would hash the frame twice
    validator = Validator(batch_definition=batch, batch_parameters=parameters, result_format=result_format)
    validation = validator.validate_expectation_suite(gx.ExpectationSuite("suite", expectations=suite))
    # the results come in an order of their own
    findings = {finding.name: finding for finding in map(_read_result, validation.results)}
    return [findings[expectation.meta["name"]] for expectation in suite]


def list_columns(suite: list[Any]) -> list[str]:
    """Return the columns that the expectations of `suite` look at, by name."""
    keys = ("column", "column_A", "column_B")
    names = {getattr(expectation, key, None) for expectation in suite for key in keys}
    return sorted(name for name in names if name is not None)


def _read_result(result: Any) -> Finding:
    config, values = result.expectation_config, result.result
    meta = dict(config.meta)
    severities = config.severity.value, meta.pop("often")
    assert "unexpected_count" in values or "observed_value" in values, result.exception_info
    if isinstance(values.get("observed_value"), np.generic):  # its pages cannot show NumPy's numbers
        values["observed_value"] = values["observed_value"].item()
    unexpected = int(values.get("unexpected_count", not result.success))
    often = unexpected > NOTABLE_SHARE * values.get("element_count", unexpected)
    return Finding(
        severity=severities[often],
        success=bool(result.success),
        unexpected=unexpected,
        rows=list(values.get("unexpected_index_list") or []),
        observed=values.get("observed_value"),
        result=result,
        **meta,
    )


def list_example_rows(
    frame: "pd.DataFrame", findings: Sequence[Finding], find_caption: Callable[[Any], str | None] | None = None
) -> Iterator[ExampleRow]:
    """Yield the first EXAMPLES_PER_CHECK rows of each check of `findings` that is not met.

    The first column of `frame` is the id; `file`, `row` and `caption` are shown where it has them. find_caption:
    returns the caption of an index label, for a frame that has none.
    """
    rows_of: dict[str, set[Any]] = {}
    for finding in findings:
        if not finding.success and finding.rows:
            rows_of.setdefault(finding.name, set()).update(finding.rows[:EXAMPLES_PER_CHECK])
    for name, labels in rows_of.items():
        for label in sorted(labels)[:EXAMPLES_PER_CHECK]:
            values = frame.loc[label, [c for c in (frame.columns[0], "file", "row", "caption") if c in frame]]
            values = values.astype(object).where(values.notna(), None)
            caption = find_caption(label) if find_caption else values.get("caption")
            identity = values[frame.columns[0]]
            yield ExampleRow(
                name, str(identity or ""), values.get("file"), values.get("row"), format_caption(caption or "")
            )


def format_caption(caption: str) -> str:
    """Return a caption for people: its ends where it is long, `\\u200b` for a character that cannot be seen."""
    left_out = len(caption) - CAPTION_HEAD - CAPTION_TAIL
    if left_out > CAPTION_TAIL:
        caption = f"{caption[:CAPTION_HEAD]} … ({left_out} characters) … {caption[-CAPTION_TAIL:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in caption)


def stop_on_critical(place: Path, frame: "pd.DataFrame", findings: list[Finding]) -> None:
    """Raise one UserError that names every failed critical expectation, if there is one.

    The first column of `frame` is the id by which rows are named.
    """
    problems = [
        f"{place}: {finding.name} {_describe(frame, finding)}; {finding.fix}"
        for finding in findings
        if finding.severity == "critical" and not finding.success
    ]
    if problems:
        raise UserError("\n".join(problems))


def _describe(frame: "pd.DataFrame", finding: Finding) -> str:
    if not finding.rows:
        return f"is {finding.observed:.4g}"
    ids = frame.iloc[:, 0].loc[finding.rows]
    names = [
        f"row {label}" if missing else str(name)
        for (label, name), missing in zip(ids.items(), ids.isna(), strict=True)
    ]
    examples = ", ".join(list(dict.fromkeys(names))[:EXAMPLES_PER_MESSAGE])
    return f"on {finding.unexpected} of {len(frame)} rows, such as {examples}"


def write_data_docs(folder: Path, findings: Mapping[str, list[Finding]]) -> None:
    """Write Great Expectations' own pages, one per entry of `findings`, and an index; for people, never an out.

    Their styles come from the network: clean/quality.html is the page that opens anywhere.
    """
    import html
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    links = []
    for name, of_table in findings.items():
        met = sum(finding.success for finding in of_table)
        file = f"{name.replace('/', '-').replace(' ', '-')}.html"
        (folder / file).write_text(_render_page(name, of_table, met), encoding="utf-8")
        links.append(f'<li><a href="{html.escape(file)}">{html.escape(name)}</a>: {met} of {len(of_table)} met')
    index = f'<!doctype html><meta charset="utf-8"><title>Data Docs</title><ul>{"".join(links)}</ul>\n'
    (folder / "index.html").write_text(index, encoding="utf-8")


def _render_page(name: str, findings: list[Finding], met: int) -> str:
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    result = ExpectationSuiteValidationResult(
        success=met == len(findings),
        results=[finding.result for finding in findings],
        suite_name=name,
        statistics={
            "evaluated_expectations": len(findings),
            "successful_expectations": met,
            "unsuccessful_expectations": len(findings) - met,
            "success_percent": 100 * met / len(findings),
        },
        meta={"great_expectations_version": import_great_expectations().__version__},
    )
    page: str = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result))
    return page


def import_great_expectations() -> Any:
    """Return the package, imported only when it is needed: that takes seconds."""
    os.environ["GX_ANALYTICS_ENABLED"] = "False"  # not every version leaves it off
    import great_expectations
    import great_expectations.expectations

    return great_expectations
