"""The page of data quality: rows in and out, checks not met, faults, pictures to look at, distributions.

One file that opens offline: pictures and figures stand inside it, there is no script, and its own policy forbids
every request.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tuwen.data.quality import quality_file
from tuwen.report.html.histogram import COLOURS, Scale, Values, draw_histogram
from tuwen.report.html.page import render
from tuwen.report.quality import odd_images

if TYPE_CHECKING:
    import pandas as pd

    Frames = Mapping[str, Mapping[str, pd.DataFrame]]

EXAMPLES = 3  # rows that a fault names
FIGURES: list[tuple[str, str, str, Scale]] = [
    ("texts", "chars", "characters per caption", "whole"),
    ("texts", "tokens", "tokens per caption", "whole"),
    ("images", "width", "width in pixels", "log"),
    ("images", "height", "height in pixels", "log"),
    ("images", "aspect", "long side / short side", "log"),
    ("images", "size", "bytes per picture", "log"),
]
FORMS = ("format", "mode", "frames", "orientation")
TRAITS = ("newline", "side_word", "masks", "boilerplate", "control_chars", "private_use_chars")
SHARES = {"chinese_share": "Chinese, %", "latin_share": "Latin, %"}


def write_page(path: Path, data: Path, body: quality_file.Body, frames: "Frames", quarantine: pa.Table) -> None:
    """Write the page to `path`.

    data: the data root; body: what becomes quality.json; frames: set -> images, texts, pairs as doctor.py measured
    them; quarantine: set, item, id, file, row, reason, severity, outcome of every row that left its set or is
    shown to a model as a blank. Raises UserError where a shard is missing.
    """
    rows: pd.DataFrame = quarantine.to_pandas()
    measured = {name: tables["images"] for name, tables in frames.items()}
    pictures = odd_images.collect_odd_images(data, measured, rows)
    drawn = [(label, _draw(frames, table, column, label, scale)) for table, column, label, scale in FIGURES]
    facts = {
        "counts": quality_file.counts(body),
        "verdicts": quality_file.verdicts(body),
        "severities": quality_file.SEVERITIES,
        "faults": list(_faults(rows)),
        "colours": {
            name: colour for name, colour in COLOURS.items() if len(_values(frames, name, "images", "width"))
        },
        "figures": [(label, figure) for label, figure in drawn if figure],
        "forms": [table for column in FORMS if (table := _forms(measured, column))],
        "traits": [
            ("set", "captions", *(name.replace("_", " ") for name in TRAITS), *SHARES.values()),
            *_traits(frames),
        ],
        "pictures": pictures,
        "unseen": [odd[:-1] for odd in pictures.unseen],
        "sizes": quality_file.sizes(body),
        "groups": quality_file.figures(body["groups"]),
        "further": quality_file.further(body),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render("quality.html.j2", facts), encoding="utf-8")


def _faults(rows: "pd.DataFrame") -> Iterator[tuple[Any, ...]]:
    """(set, item, reason, severity, outcome, rows, examples); in a set the most frequent first."""
    groups = rows.groupby(["set", "item", "reason", "severity", "outcome"], sort=True)
    for key, found in sorted(groups, key=lambda group: (group[0][0], -len(group[1]))):
        examples = [f"{row['id']} ({odd_images.place(row)})" for row in odd_images.records(found.head(EXAMPLES))]
        yield (*key, len(found), "; ".join(examples))


def _draw(frames: "Frames", table: str, column: str, label: str, scale: Scale) -> str:
    return draw_histogram(column, label, {name: _values(frames, name, table, column) for name in COLOURS}, scale)


def _values(frames: "Frames", series: str, table: str, column: str) -> Values:
    """A measured column of a set, or of all corpora; without values where nobody measured it."""
    tables = [tables[table] for name, tables in frames.items() if name.partition("/")[0] == series]
    found = [_numbers(frame[column]) for frame in tables if column in frame]
    return np.concatenate([np.empty(0), *found])


def _numbers(column: "pd.Series[Any]") -> Values:
    import pandas as pd

    return np.asarray(pd.to_numeric(column, errors="coerce"), np.float64)


def _forms(pictures: Mapping[str, "pd.DataFrame"], column: str) -> list[tuple[Any, ...]]:
    """A header and rows: how many pictures of every set have each value of the column; empty without pictures."""
    import pandas as pd

    counted = {}
    for name, frame in pictures.items():
        if len(frame):
            counts = frame[column].value_counts(dropna=False)
            counts.index = pd.Index([_form(column, value) for value in counts.index])
            counted[name] = counts.groupby(level=0).sum()
    table = pd.DataFrame(counted).fillna(0).astype(int).sort_index()
    return [(column, *table.columns), *table.itertuples(name=None)] if counted else []


def _form(column: str, value: Any) -> str:
    if value is None or value != value:
        return "unknown"
    if column == "frames":
        return "one" if value == 1 else "several"
    return value if isinstance(value, str) else f"{value:g}"


def _traits(frames: "Frames") -> Iterator[tuple[Any, ...]]:
    """(set, captions, how many hold each of TRAITS, mean of each of SHARES in per cent)."""
    for name, tables in frames.items():
        if len(texts := tables["texts"]):
            held = [int((_numbers(texts[trait]) > 0).sum()) for trait in TRAITS]
            yield (name, len(texts), *held, *(round(100 * _numbers(texts[share]).mean(), 1) for share in SHARES))
