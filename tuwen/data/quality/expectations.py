"""Runs Great Expectations suites over measured columns; what a critical expectation finds stops the stage.

critical   the stage cannot go on: UserError with place, value and fix
warning    a row with a fault leaves its set, or is shown as a blank; what is a matter of degree is reported alone
info       counted, changes nothing
Which rows fail always comes from the expectation's own result. The suites stand in checks.py.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tuwen.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 3  # ids that a message names


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
    result: Any  # as Great Expectations gave it


def run(frame: "pd.DataFrame", suite: list[Any]) -> list[Verdict]:
    """Validate `frame` against the expectations of `suite`; one verdict each, in their order."""
    gx = great_expectations()
    from great_expectations.validator.v1_validator import Validator

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    asset = context.data_sources.add_pandas("measured").add_dataframe_asset("table")
    # Great Expectations hashes all that it is given, strings at a second per million
    needed = frame[columns(suite) or frame.columns[:1]]
    whole, given = asset.add_batch_definition_whole_dataframe("whole"), {"dataframe": needed}
    form = {"result_format": "COMPLETE", "return_unexpected_index_query": False}
    # what `Batch.validate` calls, which would hash the frame twice
    validator = Validator(batch_definition=whole, batch_parameters=given, result_format=form)
    found = validator.validate_expectation_suite(gx.ExpectationSuite("suite", expectations=suite))
    # the results come in an order of their own
    verdicts = {verdict.name: verdict for verdict in map(_verdict, found.results)}
    return [verdicts[expectation.meta["name"]] for expectation in suite]


def columns(suite: list[Any]) -> list[str]:
    """The columns that the expectations of `suite` look at, by name."""
    names = {getattr(rule, key, None) for rule in suite for key in ("column", "column_A", "column_B")}
    return sorted(name for name in names if name is not None)


def _verdict(result: Any) -> Verdict:
    config, values = result.expectation_config, result.result
    assert "unexpected_count" in values or "observed_value" in values, result.exception_info
    if isinstance(values.get("observed_value"), np.generic):  # its pages cannot show NumPy's numbers
        values["observed_value"] = values["observed_value"].item()
    return Verdict(
        severity=config.severity.value,
        success=bool(result.success),
        unexpected=int(values.get("unexpected_count", not result.success)),
        rows=list(values.get("unexpected_index_list") or []),
        observed=values.get("observed_value"),
        result=result,
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


def merged(verdicts: Iterable[Verdict]) -> dict[str, dict[str, Any]]:
    """name -> severity, success, unexpected, as in quality.json; a suite that ran twice counts together."""
    found: dict[str, dict[str, Any]] = {}
    for verdict in verdicts:
        known = found.setdefault(verdict.name, {"severity": verdict.severity, "success": True, "unexpected": 0})
        known["success"] = known["success"] and verdict.success
        known["unexpected"] += verdict.unexpected
    return found


def write_docs(folder: Path, judged: Mapping[str, list[Verdict]]) -> None:
    """Write Great Expectations' own pages, one per entry of `judged`, and an index; for people, never an out.

    Their styles come from the network: clean/quality.html is the page that opens anywhere.
    """
    import html
    import shutil

    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    links = []
    for name, verdicts in judged.items():
        good = sum(verdict.success for verdict in verdicts)
        result = ExpectationSuiteValidationResult(
            success=good == len(verdicts),
            results=[verdict.result for verdict in verdicts],
            suite_name=name,
            statistics={
                "evaluated_expectations": len(verdicts),
                "successful_expectations": good,
                "unsuccessful_expectations": len(verdicts) - good,
                "success_percent": 100 * good / len(verdicts),
            },
            meta={"great_expectations_version": great_expectations().__version__},
        )
        page = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result))
        file = f"{name.replace('/', '-').replace(' ', '-')}.html"
        (folder / file).write_text(page, encoding="utf-8")
        links.append(f'<li><a href="{html.escape(file)}">{html.escape(name)}</a>: {good} of {len(verdicts)} met')
    index = f'<!doctype html><meta charset="utf-8"><title>Data Docs</title><ul>{"".join(links)}</ul>\n'
    (folder / "index.html").write_text(index, encoding="utf-8")


def great_expectations() -> Any:
    """The package, imported when it is needed: that takes seconds."""
    os.environ["GX_ANALYTICS_ENABLED"] = "False"  # not every version leaves it off
    import great_expectations
    import great_expectations.expectations

    return great_expectations
