"""For the tests of `validate`: params, changes of raw tables, what stands in the clean ones."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from tuwen.core.params import Split, Text, Validate
from tuwen.data.formats import pairs
from tuwen.data.quality.validate import validate
from tuwen.report.quality.page import write_page

PARAMS = Validate(
    min_side_px=16,
    max_pixels=100_000,
    max_aspect=8.0,
    max_chars=60,
    max_pictures_per_caption=3,
    max_quarantined_share=0.5,
    max_group_share=0.01,
    max_drift=0.2,
    full_doctor_pairs=100,
    doctor_share=0.5,
)
SPLIT = Split(seed=0, valid=0.2, test=0.25, official=True)
TEXT = Text(max_tokens=32, simplify=False)
FAULTY = ("quarantined", "left_out", "blank")  # what may become of a row with a fault


def run_validate(
    data: Path, params: Validate = PARAMS, sources: tuple[str, ...] = ("art",), text: Text = TEXT, **more: Any
) -> Path:
    """Write `data/clean` from `data/raw` as the stage does, the page included; return `data/clean`."""
    clean = data / "clean"
    validated = validate(data / "raw", clean, params, SPLIT, sources, text, **more)
    write_page(
        clean / "quality.html", data, validated.summary, validated.frames, validated.quarantine, validated.examples
    )
    return clean


def change_row(data: Path, name: str, table: str, row: int | None, **values: Any) -> None:
    """Change one row of a raw table, or append one where `row` is None."""
    path = data / "raw" / name / f"{table}.parquet"
    read = pairs.read_table(path)
    rows = read.to_pylist()
    if row is None:
        rows.append(values)
    else:
        rows[row] |= values
    pairs.write_table(path, pa.Table.from_pylist(rows, read.schema))


def lose_image(data: Path, name: str, row: int, fault: str) -> None:
    """Make row `row` an image that the source could not give, for the reason `fault`."""
    change_row(data, name, "images", row, shard=None, offset=None, size=None, sha256=None, fault=fault)


def read_ids(clean: Path, name: str, table: str) -> list[str]:
    return list(pairs.read_table(clean / name / f"{table}.parquet").column(0).to_pylist())


def read_quarantine(clean: Path) -> list[dict[str, Any]]:
    return list(pairs.read_table(clean / "quarantine.parquet").to_pylist())


def read_reasons(clean: Path, set_name: str, item: str) -> dict[str, tuple[str, str]]:
    """Return id -> (reason, outcome) of the rows that left, or are shown as a blank."""
    rows = [row for row in read_quarantine(clean) if (row["set"], row["item"]) == (set_name, item)]
    return {row["id"]: (row["reason"], row["outcome"]) for row in rows if row["outcome"] in FAULTY}


def read_counterparts(clean: Path, reason: str) -> dict[str, str]:
    """Return id -> the row that it is about, of those listed for this reason."""
    return {row["id"]: row["counterpart"] for row in read_quarantine(clean) if row["reason"] == reason}


def read_quality(clean: Path) -> dict[str, Any]:
    return dict(json.loads((clean / "quality.json").read_text(encoding="utf-8")))


def assert_rows_add_up(clean: Path) -> None:
    """Assert that rows in = clean + quarantined + left out + merged, each of these listed, in every table."""
    for name, tables in read_quality(clean)["raw"].items():
        for table in ("images", "texts", "pairs"):
            counts, left = tables[table], read_reasons(clean, name, table.removesuffix("s"))
            gone = counts["quarantined"] + counts["left_out"] + counts["merged"]
            assert counts["in"] == counts["clean"] + gone
            merged = [row for row in read_quarantine(clean) if row["outcome"] == "merged"]
            ours = [row for row in merged if (row["set"], f"{row['item']}s") == (name, table)]
            assert counts["merged"] == len(ours) == sum(bool(row["counterpart"]) for row in ours)
            for outcome in FAULTY:
                assert counts[outcome] == [one for _, one in left.values()].count(outcome), (name, table, outcome)
            assert sum(counts["faults"].values()) == len(left)
            if name in ("t2i", "i2t") and counts["in"]:
                assert counts["clean"] == len(read_ids(clean, name, table))
            if name == "labelled":
                before = set(read_ids(clean.parent / "raw", name, table))
                kept = {one for split in ("train", "valid", "test") for one in read_ids(clean, split, table)}
                assert counts["clean"] == len(kept & before)


def draw_png(width: int, height: int, colour: str = "teal") -> bytes:
    """Return a PNG of one colour."""
    encoded = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(encoded, "PNG")
    return encoded.getvalue()
