"""One model's embeddings and the true pairs -> its figures, ranks and pair cosines."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tuwen.core.errors import UserError
from tuwen.core.params import Evaluate, Pairs
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.json_file import write_json
from tuwen.evaluation import figures
from tuwen.evaluation.details import make_details
from tuwen.evaluation.figures import DIGITS, DIRECTIONS, Answers, Pool, side
from tuwen.retrieval import metrics as recall
from tuwen.retrieval import qb_norm
from tuwen.retrieval.qb_norm import Correction
from tuwen.retrieval.vectors import Vectors, read_vectors

MEASURED = ("test", "valid")
SETS = (*MEASURED, "bank")


class Set(NamedTuple):
    """One set in memory: its tables, and its vectors with what belongs together."""

    tables: pairs.PairSet
    pool: Pool


def evaluate_model(
    embeddings: Path, clean: Path, results: Path, params: Evaluate, doubt: Pairs, *, model: Path | None = None
) -> dict[str, dict[str, float]]:
    """Write metrics.json, details.json and ranks.parquet (test), and pair_cosines.parquet (bank) into `results`.

    embeddings: folder of one model with `<set>/images.npy` [I, D] and `<set>/texts.npy` [T, D]; clean: folder of
    the sets' tables; model: folder of the model that the embeddings must have been made by. Returns the metrics
    (test, valid, bank). Raises UserError for missing or unsound embeddings, those of another model or set, a set
    without pairs, and a k over a gallery.
    """
    sets = {name: read_embedded_set(embeddings / name, clean / name, params, model) for name in SETS}
    bank = sets["bank"].pool
    betas = choose_betas(sets["valid"].pool, bank)
    metrics: dict[str, dict[str, float]] = {}
    answers = {}
    for name in MEASURED:
        tables, pool = sets[name]
        answers[name] = figures.ask(pool, params, corrections(pool, bank, betas))
        metrics[name] = {"images": len(tables.images), "texts": len(tables.texts)}
        metrics[name] |= figures.measure_figures(pool, answers[name], params)
    cosines = pair_cosines(sets["bank"].tables, bank.images, bank.texts)
    metrics["bank"] = _doubt(cosines, doubt)
    test, ids = sets["test"], _query_ids(sets["test"].tables)
    gallery_ids = {"t2i": ids["i2t"].to_pylist(), "i2t": ids["t2i"].to_pylist()}
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / "metrics.json", metrics)
    write_json(results / "details.json", make_details(test.pool, answers["test"], gallery_ids, betas, params))
    pairs.write_table(results / "ranks.parquet", make_ranks_table(test.tables, answers["test"], params))
    pairs.write_table(results / "pair_cosines.parquet", cosines)
    return metrics


def read_embedded_set(embedded: Path, folder: Path, params: Evaluate, model: Path | None) -> Set:
    """The set in `folder` with its vectors in `embedded`. Raises UserError as `evaluate_model`."""
    if model is not None:
        manifest.require_inputs(embedded, {"model": model, "set": folder})
    tables = pairs.read_pair_set(folder)
    images, texts = read_set_vectors(embedded, folder, tables)
    image, text = pairs.find_true_rows(tables)
    if not len(image):
        raise UserError(
            f"{folder / 'pairs.parquet'}: no pair, so there is no truth to measure by; "
            "take more data or a larger share of it (params.yaml: source, split)"
        )
    if folder.name in MEASURED:
        for name, gallery in (("images", images), ("texts", texts)):
            recall.check_ks(params.ks, len(gallery), f"params.yaml: evaluate.ks, {folder / name}.parquet")
    groups = pc.coalesce(tables.images["group"], tables.images["image_id"]).to_numpy(zero_copy_only=False)
    return Set(tables, Pool(images, texts, image, text, groups, pairs.find_unfit_rows(tables)))


def read_set_vectors(embedded: Path, folder: Path, pair_set: pairs.PairSet) -> tuple[Vectors, Vectors]:
    """The vectors of one set: images [I, D], texts [T, D], in the row order of its tables."""
    return (
        read_vectors(embedded / "images.npy", pair_set.images.num_rows, folder / "images.parquet"),
        read_vectors(embedded / "texts.npy", pair_set.texts.num_rows, folder / "texts.parquet"),
    )


def choose_betas(valid: Pool, bank: Pool) -> dict[str, float]:
    """QB-Norm's inverse temperature by direction, chosen on valid."""
    asking = {direction: side(bank, direction).queries for direction in DIRECTIONS}
    return {name: qb_norm.choose_beta(queries, *side(valid, name)) for name, queries in asking.items()}


def corrections(pool: Pool, bank: Pool, betas: Mapping[str, float]) -> dict[str, Correction]:
    """What the bank's texts say of the pool's pictures (t2i), and its pictures of the pool's texts (i2t)."""
    return {
        direction: qb_norm.compute_correction(side(bank, direction).queries, side(pool, direction).gallery, beta)
        for direction, beta in betas.items()
    }


def pair_cosines(pair_set: pairs.PairSet, images: Vectors, texts: Vectors) -> pa.Table:
    """How well each true pair fits in a model's eyes: pair_id, image_id, text_id, cosine, the lowest first.

    images [I, D] and texts [T, D]: unit vectors in the row order of the tables; equal cosines by pair_id.
    """
    image, text = pairs.find_true_rows(pair_set)
    cosine = figures.cosines(images, texts, image, text)
    named = pairs.select_true_pairs(pair_set).select(["pair_id", "image_id", "text_id"])
    table = named.append_column("cosine", pa.array(cosine.round(DIGITS)))
    return table.sort_by([("cosine", "ascending"), ("pair_id", "ascending")]).combine_chunks()


def _doubt(cosines: pa.Table, params: Pairs) -> dict[str, float]:
    cosine = cosines["cosine"].to_numpy()
    return {
        "pairs": len(cosine),
        "mean_cosine": round(float(cosine.mean()), DIGITS),
        "share_under_min_cosine": round(float((cosine < params.min_cosine).mean()), DIGITS),
    }


def make_ranks_table(tables: pairs.PairSet, answers: Mapping[str, Answers], params: Evaluate) -> pa.Table:
    """Each query that has a true item: direction, query_id, group, best_rank, true_items, found_at_<k> of each k.

    answers: what `measure.ask` says of the set that `tables` hold.
    """
    ids = _query_ids(tables)
    made = [_rank_table(name, answers[name], ids[name], params) for name in DIRECTIONS]
    return pa.concat_tables(made).combine_chunks()


def _query_ids(tables: pairs.PairSet) -> dict[str, pa.ChunkedArray]:
    return {"t2i": tables.texts["text_id"], "i2t": tables.images["image_id"]}


def _rank_table(direction: str, answers: Answers, ids: pa.ChunkedArray, params: Evaluate) -> pa.Table:
    judged = answers.judged
    columns = {
        "direction": pa.array([direction] * len(judged.query), pa.string()),
        "query_id": ids.combine_chunks().take(pa.array(judged.query)),
        "group": pa.array(answers.groups, pa.string()),
        "best_rank": judged.best_rank,
        "true_items": judged.true_items,
    }
    found = {f"found_at_{k}": judged.found[:, column] for column, k in enumerate(params.ks)}
    return pa.table(columns | found)
