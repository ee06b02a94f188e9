"""What the tests of `validate` share: params, changes of raw tables, what stands in the clean ones."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from tuwen.core.params import Split, Validate
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
MAX_TOKENS = 32


def run(data: Path, params: Validate = PARAMS, sources: tuple[str, ...] = ("art",), **more: Any) -> Path:
    """Write `data/clean` from `data/raw` as the stage does, the page included; return `data/clean`."""
    clean = data / "clean"
    validated = validate(data / "raw", clean, params, SPLIT, sources, MAX_TOKENS, **more)
    write_page(clean / "quality.html", data, validated.summary, validated.frames, validated.quarantine)
    return clean


def change(data: Path, name: str, table: str, row: int | None, **values: Any) -> None:
    """Change one row of a raw table, or with row None append one."""
    path = data / "raw" / name / f"{table}.parquet"
    read = pairs.read_table(path)
    rows = read.to_pylist()
    if row is None:
        rows.append(values)
    else:
        rows[row] |= values
    pairs.write_table(path, pa.Table.from_pylist(rows, read.schema))


def lose(data: Path, name: str, row: int, fault: str) -> None:
    """The source could not give this picture."""
    change(data, name, "images", row, shard=None, offset=None, size=None, sha256=None, fault=fault)


def ids(clean: Path, name: str, table: str) -> list[str]:
    return list(pairs.read_table(clean / name / f"{table}.parquet").column(0).to_pylist())


def listed(clean: Path) -> list[dict[str, Any]]:
    return list(pairs.read_table(clean / "quarantine.parquet").to_pylist())


def reasons(clean: Path, set_name: str, item: str) -> dict[str, tuple[str, str]]:
    """id -> (reason, outcome)."""
    rows = [row for row in listed(clean) if (row["set"], row["item"]) == (set_name, item)]
    return {row["id"]: (row["reason"], row["outcome"]) for row in rows}


def quality(clean: Path) -> dict[str, Any]:
    return dict(json.loads((clean / "quality.json").read_text(encoding="utf-8")))


def add_up(clean: Path) -> None:
    """Rows in = clean + quarantined + left out, and each of those that left is listed, for every set and table."""
    for name, tables in quality(clean)["raw"].items():
        for table in ("images", "texts", "pairs"):
            counts, found = tables[table], reasons(clean, name, table.removesuffix("s"))
            assert counts["in"] == counts["clean"] + counts["quarantined"] + counts["left_out"]
            for outcome in ("quarantined", "left_out", "blank"):
                assert counts[outcome] == [one for _, one in found.values()].count(outcome), (name, table, outcome)
            assert sum(counts["faults"].values()) == len(found)
            if name in ("t2i", "i2t") and counts["in"]:
                assert counts["clean"] == len(ids(clean, name, table))


def png(width: int, height: int, colour: str = "teal") -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(encoded, "PNG")
    return encoded.getvalue()
