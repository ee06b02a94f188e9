"""One model's embeddings and the true pairs -> metrics.json, details.json, ranks.parquet, pair_cosines.parquet."""

from pathlib import Path

import pyarrow as pa

from tuwen.core.params import Evaluate, Pairs
from tuwen.data.formats import pairs
from tuwen.data.formats.json_file import write_json
from tuwen.evaluation.answers import answer_set, choose_betas, compute_corrections
from tuwen.evaluation.details import make_details
from tuwen.evaluation.embedded_set import read_embedded_set, score_pairs
from tuwen.evaluation.figures import DIGITS, MetricValues, measure_figures
from tuwen.evaluation.ranks import make_ranks_table
from tuwen.evaluation.seen.captions import find_seen_texts
from tuwen.retrieval.vectors import Vectors

MEASURED_SETS = ("test", "valid")
EVALUATED_SETS = (*MEASURED_SETS, "bank")


def evaluate_model(
    embeddings: Path, clean: Path, results: Path, params: Evaluate, doubt: Pairs, *, model: Path | None = None
) -> dict[str, MetricValues]:
    """Write metrics.json, details.json and ranks.parquet (test), and pair_cosines.parquet (bank) into `results`.

    embeddings: folder of one model with `<set>/images.npy` [I, D] and `<set>/texts.npy` [T, D]; clean: folder of
    the sets' tables; model: folder of the model that the embeddings must have been made by. Returns the metrics
    (test, valid, bank). Raises UserError for missing or unsound embeddings, those of another model or set, a set
    without pairs, and a k over a gallery.
    """
    sets = {
        name: read_embedded_set(embeddings / name, clean / name, model, params.ks if name in MEASURED_SETS else ())
        for name in EVALUATED_SETS
    }
    bank, train = sets["bank"], pairs.read_pair_set(clean / "bank")
    for name in MEASURED_SETS:
        seen = find_seen_texts(pairs.read_pair_set(clean / name), train)
        sets[name] = sets[name]._replace(seen_texts=seen)
    betas = choose_betas(sets["valid"], bank)
    metrics: dict[str, MetricValues] = {}
    answers, exact = {}, {}
    for name in MEASURED_SETS:
        embedded = sets[name]
        answers[name] = answer_set(embedded, params, compute_corrections(embedded, bank, betas))
        metrics[name] = {"images": len(embedded.images), "texts": len(embedded.texts)}
        values, exact[name] = measure_figures(embedded, answers[name], params)
        metrics[name] |= values
    cosines = compute_pair_cosines(train, bank.images, bank.texts)
    metrics["bank"] = _measure_doubt(cosines, doubt)
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / "metrics.json", metrics)
    details = make_details(sets["test"], answers["test"], betas, params, exact["test"])
    write_json(results / "details.json", details)
    pairs.write_table(results / "ranks.parquet", make_ranks_table(sets["test"], answers["test"], params.ks))
    pairs.write_table(results / "pair_cosines.parquet", cosines)
    return metrics


def compute_pair_cosines(pair_set: pairs.PairSet, images: Vectors, texts: Vectors) -> pa.Table:
    """Return how well each true pair fits by a model: pair_id, image_id, text_id, cosine, the lowest first.

    images [I, D] and texts [T, D]: unit vectors in the row order of the tables; equal cosines by pair_id.
    """
    image, text = pairs.find_true_rows(pair_set)
    cosine = score_pairs(images, texts, image, text)
    named = pairs.select_true_pairs(pair_set).select(["pair_id", "image_id", "text_id"])
    table = named.append_column("cosine", pa.array(cosine.round(DIGITS)))
    return table.sort_by([("cosine", "ascending"), ("pair_id", "ascending")]).combine_chunks()


def _measure_doubt(cosines: pa.Table, params: Pairs) -> MetricValues:
    cosine = cosines["cosine"].to_numpy()
    return {
        "pairs": len(cosine),
        "mean_cosine": round(float(cosine.mean()), DIGITS),
        "share_under_min_cosine": round(float((cosine < params.min_cosine).mean()), DIGITS),
    }
