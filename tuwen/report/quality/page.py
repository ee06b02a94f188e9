"""The page of data quality: rows in and out, expectations not met, faults, odd images, copies, distributions.

One file that opens offline: images and charts stand inside it, there is no script, and its own policy forbids
every request.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tuwen.data.quality import summary
from tuwen.report.html.histogram import COLOURS, Scale, Values, draw_histogram
from tuwen.report.html.page import render
from tuwen.report.quality import copies, odd_images

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES_PER_FAULT = 3
HISTOGRAMS: list[tuple[str, str, str, Scale]] = [  # table, column, label, scale
    ("texts", "chars", "characters per caption", "whole"),
    ("texts", "tokens", "tokens per caption", "whole"),
    ("images", "width", "width in pixels", "log"),
    ("images", "height", "height in pixels", "log"),
    ("images", "aspect", "long side / short side", "log"),
    ("images", "size", "bytes per picture", "log"),
]
FORMAT_COLUMNS = ("format", "mode", "frames", "orientation")
TRAITS = ("newline", "side_word", "unmirrored", "masks", "boilerplate", "control_chars", "private_use_chars")
SHARES = {"chinese_share": "Chinese, %", "latin_share": "Latin, %"}


def write_page(
    path: Path,
    data: Path,
    body: summary.Summary,
    frames: "summary.Frames",
    quarantine: pa.Table,
    examples: "summary.Examples | None" = None,
) -> None:
    """Write the page to `path`.

    data: the data root; body: the content of quality.json; frames: set -> images, texts, pairs -> measured
    columns; quarantine: `examined_table.QUARANTINE_SCHEMA`, every row that left its set, is shown to a model as a
    blank, or stays under a warning; examples: rows that do not meet a check. Raises UserError where a shard is
    missing.
    """
    rows: pd.DataFrame = quarantine.to_pandas()
    measured = {name: tables["images"] for name, tables in frames.items()}
    odd = odd_images.collect_odd_images(data, measured, rows)
    facts = {
        "counts": summary.list_row_counts(body),
        "findings": summary.list_findings(body),
        "severities": summary.SEVERITIES,
        "examples": list(_list_examples(body, examples or {})),
        "faults": list(_list_faults(rows)),
        "colours": {name: colour for name, colour in COLOURS.items() if _has_images(frames, name)},
        "charts": list(_draw_charts(frames)),
        "formats": [table for column in FORMAT_COLUMNS if (table := _count_formats(measured, column))],
        "traits": list(_count_traits(frames)),
        "odd_images": odd,
        "copies": copies.collect_copies(data, frames, rows),
        "named": [one[:-1] for one in odd.named],
        "sizes": summary.list_sizes(body),
        "groups": summary.flatten_values(body["groups"]),
        "files": summary.list_text_files(body),
        "further": summary.list_further(body),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render("quality.html.j2", facts), encoding="utf-8")


def _list_examples(body: summary.Summary, examples: "summary.Examples") -> Iterator[tuple[str, ...]]:
    """Yield (severity, set, table, check, id, place, caption), in the order of the checks not met."""
    for finding in summary.list_findings(body):
        for one in examples.get((finding.set, finding.table), ()):
            if one.check == finding.expectation and not finding.success:
                place = odd_images.describe_place({"file": one.file, "row": one.row})
                yield (finding.severity, finding.set, finding.table, one.check, one.id, place, one.caption)


def _list_faults(rows: "pd.DataFrame") -> Iterator[tuple[Any, ...]]:
    """Yield (set, item, reason, severity, outcome, rows, examples); in a set the most frequent first."""
    groups = rows.groupby(["set", "item", "reason", "severity", "outcome"], sort=True)
    for key, group in sorted(groups, key=lambda keyed: (keyed[0][0], -len(keyed[1]))):
        first = odd_images.list_records(group.head(EXAMPLES_PER_FAULT))
        examples = [
            f"{row['id']} ({odd_images.describe_place(row)})"
            + (f" = {other}" if (other := row.get("counterpart")) else "")
            for row in first
        ]
        yield (*key, len(group), "; ".join(examples))


def _draw_charts(frames: "summary.Frames") -> Iterator[tuple[str, str]]:
    """Yield (label, SVG) of each of HISTOGRAMS that has values."""
    for table, column, label, scale in HISTOGRAMS:
        values = {name: _collect_values(frames, name, table, column) for name in COLOURS}
        if chart := draw_histogram(column, label, values, scale):
            yield label, chart


def _has_images(frames: "summary.Frames", series: str) -> bool:
    return len(_collect_values(frames, series, "images", "width")) > 0


def _collect_values(frames: "summary.Frames", series: str, table: str, column: str) -> Values:
    """Return a measured column of a set, or of all corpora; empty where it was not measured."""
    tables = [tables[table] for name, tables in frames.items() if name.partition("/")[0] == series]
    values = [_to_numbers(frame[column]) for frame in tables if column in frame]
    return np.concatenate([np.empty(0), *values])


def _to_numbers(column: "pd.Series[Any]") -> Values:
    import pandas as pd

    return np.asarray(pd.to_numeric(column, errors="coerce"), np.float64)


def _count_formats(measured: Mapping[str, "pd.DataFrame"], column: str) -> list[tuple[Any, ...]]:
    """Return a header and rows: the images of every set with each value of the column; empty without images."""
    import pandas as pd

    by_set = {}
    for name, frame in measured.items():
        if len(frame):
            counts = frame[column].value_counts(dropna=False)
            counts.index = pd.Index([_name_format(column, value) for value in counts.index])
            by_set[name] = counts.groupby(level=0).sum()
    table = pd.DataFrame(by_set).fillna(0).astype(int).sort_index()
    return [(column, *table.columns), *table.itertuples(name=None)] if by_set else []


def _name_format(column: str, value: Any) -> str:
    if value is None or value != value:
        return "unknown"
    if column == "frames":
        return "one" if value == 1 else "several"
    return value if isinstance(value, str) else f"{value:g}"


def _count_traits(frames: "summary.Frames") -> Iterator[tuple[Any, ...]]:
    """Yield a header and rows: set, captions, how many hold each of TRAITS, mean of each of SHARES in per cent."""
    yield ("set", "captions", *(name.replace("_", " ") for name in TRAITS), *SHARES.values())
    for name, tables in frames.items():
        if len(texts := tables["texts"]):
            counts = [int((_to_numbers(texts[trait]) > 0).sum()) for trait in TRAITS]
            means = [round(100 * _to_numbers(texts[share]).mean(), 1) for share in SHARES]
            yield (name, len(texts), *counts, *means)
