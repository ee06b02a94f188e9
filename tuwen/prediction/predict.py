"""result1.csv (a text asks for pictures) and result2.csv (a picture asks for texts): write and strictly check.

Form of the contest (泰迪杯 2024, problem B, attachment 4): comma CSV, UTF-8 without BOM, LF, ranks 1..5 of each
query below each other, queries in the order of their table. Other lengths have the same columns and other names.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from tuwen.core.errors import UserError
from tuwen.data.formats import manifest, pairs
from tuwen.prediction.correct import read_correction
from tuwen.prediction.result_file import HEADERS, find_faults
from tuwen.retrieval.qb_norm import answer_corrected
from tuwen.retrieval.search import top_k
from tuwen.retrieval.vectors import Rows, read_vectors

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
    """Answer the tasks `clean/t2i` and `clean/i2t`: `results/result1.csv` and `result2.csv`; check these files.

    The contest's files have five ranks whatever k is; `topk_t2i.csv` and `topk_i2t.csv` beside them have k.
    embeddings: folder of one model with `t2i` and `i2t`; model: the folder of that model; chosen: details.json
    with the temperature of QB-Norm, where it corrects the scores. Raises UserError for missing or unsound
    embeddings, those of another model or set, and a gallery of fewer than five or k items.
    """
    if model is not None:
        for name in ("t2i", "i2t") if chosen is None else ("t2i", "i2t", "bank"):
            manifest.require_inputs(embeddings / name, {"model": model, "set": clean / name})
    for direction, name in (("t2i", "result1.csv"), ("i2t", "result2.csv")):
        folder, embedded = clean / direction, embeddings / direction
        task = pairs.read_pair_set(folder)
        ids = {"images": task.images["image_id"].to_pylist(), "texts": task.texts["text_id"].to_pylist()}
        vectors = {
            side: read_vectors(embedded / f"{side}.npy", len(ids[side]), folder / f"{side}.parquet")
            for side in ids
        }
        asking, asked = ("texts", "images") if direction == "t2i" else ("images", "texts")
        files = {results / name: CONTEST_K, results / f"topk_{direction}.csv": k}
        if len(ids[asked]) < max(files.values()):
            raise UserError(
                f"{folder / asked}.parquet: {len(ids[asked])} rows, but {name} needs a gallery of at least "
                f"{CONTEST_K} and predict.k is {k}; take more data (params.yaml: source; or split.test, where the "
                "test split is the task) or lower predict.k"
            )
        found, _ = top_k(vectors[asking], vectors[asked], max(files.values()))
        if chosen is not None:
            known = read_correction(embeddings, clean, chosen, direction, vectors[asked])
            found = answer_corrected(vectors[asking], vectors[asked], found, known)
        for path, ranks in files.items():
            write_result_file(path, ids[asking], ids[asked], found[:, :ranks], direction=direction)
            require_sound(path, ids[asking], ids[asked], ranks, direction=direction)


def write_result_file(
    path: Path, query_ids: Sequence[str], gallery_ids: Sequence[str], found: Rows, *, direction: str
) -> None:
    """Write `found` [Q, k], gallery rows best first, as a result file; direction: t2i or i2t."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(HEADERS[direction])
        for query_id, items in zip(query_ids, found.tolist(), strict=True):
            rows.writerows([query_id, rank, gallery_ids[item]] for rank, item in enumerate(items, 1))


def require_sound(
    path: Path, query_ids: Sequence[str], gallery_ids: Sequence[str], k: int, *, direction: str
) -> None:
    """Raise UserError with the first fault that `find_faults` finds in `path`."""
    faults = find_faults(path, query_ids, gallery_ids, k, direction=direction).faults
    if faults:
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise UserError(f"{path}: line {faults[0].line}: {faults[0].text}{more}")
