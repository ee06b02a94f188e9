"""result1.csv (texts search for images) and result2.csv (images search for texts): written and strictly checked.

Form of the contest (泰迪杯 2024, problem B, attachment 4): comma CSV, UTF-8 without BOM, LF, ranks 1..5 of each
query below each other, queries in the order of their table. Other lengths have the same columns and other names.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from tuwen.core.errors import UserError
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.directions import DIRECTIONS, Direction
from tuwen.data.formats.json_file import read_json
from tuwen.prediction.reranking import Reordering, answer_by_match
from tuwen.prediction.result_file import HEADERS, find_faults
from tuwen.retrieval.qb_norm import Correction, answer_corrected, compute_correction
from tuwen.retrieval.search import top_k
from tuwen.retrieval.vectors import Rows, Vectors, read_set_vectors, read_vectors

CONTEST_K = 5
CONTEST_FILES = {"t2i": "result1.csv", "i2t": "result2.csv"}


def predict(
    embeddings: Path | str,
    clean: Path | str,
    results: Path | str,
    k: int,
    *,
    model: Path | None = None,
    chosen: Path | None = None,
    reordering: Reordering | None = None,
) -> None:
    """Answer the tasks `clean/t2i` and `clean/i2t`: `results/result1.csv` and `result2.csv`; check these files.

    The contest's files have five ranks whatever k is; `topk_t2i.csv` and `topk_i2t.csv` beside them have k.
    embeddings: folder of one model with `t2i` and `i2t`; model: the folder of that model; chosen: details.json
    with the temperature of QB-Norm, where it corrects the scores; reordering: how the first answers are re-ranked,
    where they are. Raises UserError for missing or unsound embeddings, those of another model or set, and a
    gallery of fewer than five or k items.
    """
    embeddings, clean, results = Path(embeddings), Path(clean), Path(results)
    if model is not None:
        for name in (*DIRECTIONS, *(["bank"] if chosen else [])):
            manifest.require_inputs(embeddings / name, {"model": model, "set": clean / name})
    for name, direction in DIRECTIONS.items():
        folder = clean / name
        task = pairs.read_pair_set(folder)
        ids = {"images": task.images["image_id"].to_pylist(), "texts": task.texts["text_id"].to_pylist()}
        vectors = dict(zip(ids, read_set_vectors(embeddings / name, folder, task), strict=True))
        query_ids, gallery_ids = ids[direction.queries], ids[direction.gallery]
        queries, gallery = vectors[direction.queries], vectors[direction.gallery]
        files = {results / CONTEST_FILES[name]: CONTEST_K, results / f"topk_{name}.csv": k}
        _require_gallery(folder / f"{direction.gallery}.parquet", len(gallery), CONTEST_FILES[name], k)
        if reordering and name in reordering.choices and len(queries):
            answers = answer_by_match(name, queries, gallery, max(files.values()), folder, reordering)
        else:
            answers, _ = top_k(queries, gallery, max(files.values()))
        if chosen is not None:
            correction = read_correction(embeddings, clean, chosen, direction, gallery)
            answers = answer_corrected(queries, gallery, answers, correction)
        for path, ranks in files.items():
            write_result_file(path, query_ids, gallery_ids, answers[:, :ranks], direction=name)
            require_sound(path, query_ids, gallery_ids, ranks, direction=name)


def _require_gallery(table: Path, rows: int, file: str, k: int) -> None:
    if rows < max(CONTEST_K, k):
        raise UserError(
            f"{table}: {rows} rows, but {file} needs a gallery of at least {CONTEST_K} and predict.k is {k}; take "
            "more data (params.yaml: source; or split.test, where the test split is the task) or lower predict.k"
        )


def read_correction(
    embeddings: Path, clean: Path, chosen: Path, direction: Direction, gallery: Vectors
) -> Correction:
    """Return QB-Norm's correction of a task's gallery [G, D] by the bank, as valid chose it.

    embeddings: folder of the answering model, with `bank`; chosen: details.json of the model that was measured,
    whose temperature holds for its refit too. Raises UserError for a bank that is missing or unsound.
    """
    table = clean / "bank" / f"{direction.queries}.parquet"
    bank = read_vectors(embeddings / "bank" / f"{direction.queries}.npy", pairs.read_table(table).num_rows, table)
    if not len(bank):
        raise UserError(f"{table}: no rows, so nothing corrects; set predict.correction to none (params.yaml)")
    return compute_correction(bank, gallery, _read_beta(chosen, direction.name))


def _read_beta(chosen: Path, direction: str) -> float:
    try:
        return float(read_json(chosen)["qbnorm"][direction]["beta"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{chosen}: no temperature for {direction} ({error!r}); run `dvc repro`") from None


def write_result_file(
    path: Path, query_ids: Sequence[str], gallery_ids: Sequence[str], answers: Rows, *, direction: str
) -> None:
    """Write `answers` [Q, k], gallery rows best first, as a result file; direction: t2i or i2t."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(HEADERS[direction])
        for query_id, items in zip(query_ids, answers.tolist(), strict=True):
            rows.writerows([query_id, rank, gallery_ids[item]] for rank, item in enumerate(items, 1))


def require_sound(
    path: Path, query_ids: Sequence[str], gallery_ids: Sequence[str], k: int, *, direction: str
) -> None:
    """Raise UserError with the first fault that `find_faults` finds in `path`."""
    faults = find_faults(path, query_ids, gallery_ids, k, direction=direction).faults
    if faults:
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise UserError(f"{path}: line {faults[0].line}: {faults[0].text}{more}")
