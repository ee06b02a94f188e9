"""result1.csv (a text asks for pictures) and result2.csv (a picture asks for texts): write and strictly check.

Form of the contest (泰迪杯 2024, problem B, attachment 4): comma CSV, UTF-8 without BOM, LF, ranks 1..k of each
query below each other, queries in the order of their table.
"""

import csv
import io
from collections.abc import Collection, Sequence
from pathlib import Path

from tuwen import manifest, pairs
from tuwen.correct import correction
from tuwen.errors import UserError
from tuwen.hubness import answer
from tuwen.search import Rows, read_vectors, top_k

HEADERS = {
    "t2i": ["text_id", "similarity_ranking", "result_image_id"],
    "i2t": ["image_id", "similarity_ranking", "result_text_id"],
}
ASKS = {"t2i": "a text asks for pictures (result1.csv)", "i2t": "a picture asks for texts (result2.csv)"}
CONTEST_K = 5


def predict(
    embeddings: Path,
    clean: Path,
    results: Path,
    k: int,
    *,
    model: Path | None = None,
    chosen: Path | None = None,
) -> None:
    """Answer the tasks `clean/t2i` and `clean/i2t` in `results/result1.csv` and `results/result2.csv`; check both.

    embeddings: folder of one model with `t2i` and `i2t`; model: the folder of that model; chosen: details.json
    with the temperature of QB-Norm, where it corrects the scores. Raises UserError for k other than the contest's,
    missing or unsound embeddings, those of another model or set, and a gallery of fewer than k items.
    """
    if model is not None:
        for name in ("t2i", "i2t") if chosen is None else ("t2i", "i2t", "bank"):
            manifest.require(embeddings / name, {"model": model, "set": clean / name})
    if k != CONTEST_K:
        raise UserError(f"params.yaml: predict.k must be {CONTEST_K}, the ranks of the contest's files, got {k}")
    for direction, name in (("t2i", "result1.csv"), ("i2t", "result2.csv")):
        folder, embedded = clean / direction, embeddings / direction
        task = pairs.read(folder)
        ids = {"images": task.images["image_id"].to_pylist(), "texts": task.texts["text_id"].to_pylist()}
        vectors = {
            side: read_vectors(embedded / f"{side}.npy", len(ids[side]), folder / f"{side}.parquet")
            for side in ids
        }
        asking, asked = ("texts", "images") if direction == "t2i" else ("images", "texts")
        if len(ids[asked]) < k:
            raise UserError(
                f"{folder / asked}.parquet: {len(ids[asked])} rows, but {name} needs a gallery of at least {k}; "
                "take more data (params.yaml: source; or split.test, where the test split is the task)"
            )
        found, _ = top_k(vectors[asking], vectors[asked], k)
        if chosen is not None:
            known = correction(embeddings, clean, chosen, direction, vectors[asked])
            found = answer(vectors[asking], vectors[asked], found, known)
        write(results / name, ids[asking], ids[asked], found, direction=direction)
        check(results / name, ids[asking], ids[asked], k, direction=direction)


def write(
    path: Path, query_ids: Sequence[str], gallery_ids: Sequence[str], found: Rows, *, direction: str
) -> None:
    """Write `found` [Q, k], gallery rows best first, as a result file; direction: t2i or i2t."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(HEADERS[direction])
        for query_id, items in zip(query_ids, found.tolist(), strict=True):
            rows.writerows([query_id, rank, gallery_ids[item]] for rank, item in enumerate(items, 1))


def check(path: Path, query_ids: Sequence[str], gallery_ids: Sequence[str], k: int, *, direction: str) -> None:
    """Raise UserError, naming line, value and fix, unless `path` is a sound result file; direction: t2i or i2t.

    Sound: the exact header; UTF-8 without BOM, LF; every query once per rank 1..k, in the order of `query_ids`;
    every result one of `gallery_ids`; no result twice for one query.
    """
    lines = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        fault = _header_fault(next(lines, []), direction)
        queries, gallery = set(query_ids), set(gallery_ids)
        due = ((query_id, str(rank)) for query_id in query_ids for rank in range(1, k + 1))
        seen: set[str] = set()
        while not fault and (row := next(lines, None)) is not None:
            if len(row) == 3 and row[1] == "1":
                seen.clear()
            fault = _row_fault(row, queries, gallery, direction) or _place_fault(row, next(due, None), seen, k)
            seen.update(row[2:])
    except csv.Error as error:
        fault = f"not valid CSV: {error}; quote fields that hold commas, quotes or newlines"
    if not fault and (missing := next(due, None)) is not None:
        fault = f"the file ends here, but query {missing[0]!r} rank {missing[1]} is missing; add it"
    if fault:
        raise UserError(f"{path}: line {lines.line_num}: {fault}")


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: this result file is missing; run `dvc repro predict`") from None
    if data.startswith(b"\xef\xbb\xbf"):
        raise UserError(f"{path}: line 1: starts with a byte order mark; save as UTF-8 without BOM")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        value = f"{data[error.start]:#04x}"
        raise UserError(f"{path}: line {line}: byte {value} is not UTF-8; save as UTF-8 without BOM") from None
    if "\r" in text:
        line = text.count("\n", 0, text.index("\r")) + 1
        raise UserError(f"{path}: line {line}: a carriage return; end lines with LF alone")
    return text


def _header_fault(header: list[str], direction: str) -> str:
    if header == HEADERS[direction]:
        return ""
    for other, names in HEADERS.items():
        if header == names:
            return (
                f"the directions are swapped: by this header {ASKS[other]}, "
                f"but due is: {ASKS[direction]}; exchange the two files"
            )
    return f"header {','.join(HEADERS[direction])!r} expected, got {','.join(header)!r}"


def _row_fault(row: list[str], queries: Collection[str], gallery: Collection[str], direction: str) -> str:
    if len(row) != 3:
        return f"3 fields expected, got {row}; write query, rank and result"
    query_id, _, item_id = row
    if query_id not in queries and query_id in gallery and item_id in queries:
        return (
            f"the directions are swapped: {query_id!r} is of the gallery and {item_id!r} is a query, "
            f"but due is: {ASKS[direction]}; exchange the two files"
        )
    if query_id not in queries:
        return f"{query_id!r} is not a query; use the ids of the query table as they are"
    if item_id not in gallery:
        return f"{item_id!r} is not in the gallery; use the ids of the gallery table as they are"
    return ""


def _place_fault(row: list[str], due: tuple[str, str] | None, seen: Collection[str], k: int) -> str:
    query_id, rank, item_id = row
    order = f"each query has the ranks 1 to {k} once, in the order of the query table"
    if due is None:
        return f"{query_id!r} rank {rank!r} comes after the last query's rank {k}; {order}"
    if (query_id, rank) != due:
        return f"query {due[0]!r} rank {due[1]} is due, got {query_id!r} rank {rank!r}; {order}"
    if item_id in seen:
        return f"{item_id!r} stands twice for query {query_id!r}; give {k} different items"
    return ""
