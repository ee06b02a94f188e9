"""Tables of pairs over two small pictures, in every form, and what is read from them."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tuwen.core.params import TableSource
from tuwen.data import sources
from tuwen.data.sources.records import Record

CAT, DOG = b"\x89PNG a cat", b"\x89PNG a dog"
ROWS = [
    {"path": "pictures/cat.png", "zh": "一只猫, 在沙发上睡觉", "more": '"咪咪"\n睡着了'},
    {"path": "pictures/dog.png", "zh": "草地上的狗", "more": ""},
    {"path": "pictures/cat.png", "zh": "橘猫", "more": "猫"},
]


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `rows` in the form of the suffix."""
    match path.suffix:
        case ".parquet":
            pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
        case ".jsonl":
            path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        case suffix:
            with open(path, "w", encoding="utf-8", newline="") as file:
                out = csv.DictWriter(file, list(rows[0]), delimiter="\t" if suffix == ".tsv" else ",")
                out.writeheader()
                out.writerows(rows)


def source(root: Path, file: str, **named: Any) -> TableSource:
    return TableSource(kind="table", root=str(root), file=file, **{"image": "path", "captions": ["zh"]} | named)


def read(root: Path, file: str, **named: Any) -> list[Record]:
    return list(sources.read_source(source(root, file, **named))["labelled"])


def of_kind(records: Sequence[Record], kind: type) -> list:
    return [record for record in records if isinstance(record, kind)]
