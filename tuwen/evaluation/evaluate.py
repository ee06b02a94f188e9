"""One model's embeddings and the true pairs -> metrics.json, details.json, ranks.parquet, pair_cosines.parquet."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from tuwen.core.params import Evaluate, Pairs
from tuwen.data.formats import pairs
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.data.formats.json_file import read_json, write_json
from tuwen.data.formats.text import is_simplifying
from tuwen.evaluation.answers import answer_set, choose_betas, compute_corrections, list_first_answers
from tuwen.evaluation.details import make_details, measure_small_vectors
from tuwen.evaluation.embedded_set import EmbeddedSet, read_embedded_set, score_pairs
from tuwen.evaluation.figures import DIGITS, MetricValues, measure_figures
from tuwen.evaluation.ranks import make_ranks_table
from tuwen.evaluation.seen.captions import find_seen_texts
from tuwen.retrieval.calibration import measure_calibration
from tuwen.retrieval.vectors import Floats, Vectors

MEASURED_SETS = ("test", "valid")
EVALUATED_SETS = (*MEASURED_SETS, "bank")
SHUFFLES = 4  # false pairs for each true one, to calibrate by
PAIRS_NAMED = 5
PAIR_COSINES = pa.schema(
    {name: pa.string() for name in ("pair_id", "image_id", "text_id")} | {"cosine": pa.float64()}
)


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
    simplify = model is not None and is_simplifying(model)
    for name in MEASURED_SETS:
        seen = find_seen_texts(pairs.read_pair_set(clean / name), train, simplify)
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
    metrics["bank"] = _measure_doubt(cosines, doubt, bank, params.seed)
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / "metrics.json", metrics)
    details = make_details(sets["test"], answers["test"], betas, params, exact["test"])
    details["small_vectors"] = measure_small_vectors(sets["test"], params, _read_prefixes(model))
    details["calibration"] = {
        name: {
            "cosine": measure_calibration(
                *(list_first_answers(sets[one], direction, answers[one][name]) for one in ("valid", "test"))
            )
        }
        for name, direction in DIRECTIONS.items()
    }
    write_json(results / "details.json", details)
    pairs.write_table(results / "ranks.parquet", make_ranks_table(sets["test"], answers["test"], params.ks))
    pairs.write_table(results / "pair_cosines.parquet", cosines)
    return metrics


def _read_prefixes(model: Path | None) -> list[int]:
    """Return the numbers of first dimensions that were trained to answer by themselves."""
    config = model / "config.json" if model else None
    return list(read_json(config).get("matryoshka", [])) if config and config.is_file() else []


def compute_pair_cosines(pair_set: pairs.PairSet, images: Vectors, texts: Vectors) -> pa.Table:
    """Return how well each true pair fits by a model: pair_id, image_id, text_id, cosine, the lowest first.

    images [I, D] and texts [T, D]: unit vectors in the row order of the tables; equal cosines by pair_id.
    """
    image, text = pairs.find_true_rows(pair_set)
    cosine = score_pairs(images, texts, image, text)
    named = pairs.select_true_pairs(pair_set).select(["pair_id", "image_id", "text_id"])
    table = named.append_column("cosine", pa.array(cosine.round(DIGITS)))
    return table.sort_by([("cosine", "ascending"), ("pair_id", "ascending")]).combine_chunks()


def _measure_doubt(cosines: pa.Table, params: Pairs, bank: EmbeddedSet, seed: int) -> MetricValues:
    """Return the bank's figures; with `min_cosine: auto` what it came to, with null no share."""
    cosine, values = cosines["cosine"].to_numpy(), MetricValues()
    least = params.min_cosine
    if least == "auto":
        least = values["min_cosine"] = choose_min_cosine(cosine, _score_shuffled_pairs(bank, seed))
    if least is not None:
        values["share_under_min_cosine"] = round(float((cosine < least).mean()), DIGITS)
    return {"pairs": len(cosine), "mean_cosine": round(float(cosine.mean()), DIGITS)} | values


def _score_shuffled_pairs(bank: EmbeddedSet, seed: int) -> Floats:
    """Return the cosines of pairs whose texts changed places, without those that are true all the same."""
    draw = np.random.default_rng(seed)
    image = np.tile(bank.image, SHUFFLES)
    text = np.concatenate([draw.permutation(bank.text) for _ in range(SHUFFLES)])
    width = len(bank.texts)
    false = ~np.isin(image * width + text, bank.image * width + bank.text)
    return score_pairs(bank.images, bank.texts, image[false], text[false])


def choose_min_cosine(true: Floats, shuffled: Floats) -> float:
    """Return the cosine under which the share of `shuffled` exceeds that of `true` most; -1 where it never does.

    Pairs of `true` that do not fit hardly move it: they lie with the shuffled ones and take from all shares alike.
    """
    edges = np.unique(np.concatenate([true, shuffled]))
    below = [np.searchsorted(np.sort(cosines), edges) / max(len(cosines), 1) for cosines in (true, shuffled)]
    excess = below[1] - below[0]
    return round(float(edges[excess.argmax()]), DIGITS) if len(edges) and excess.max() > 0 else -1.0


def judge_pairs(bank: MetricValues, params: Pairs, results: Path) -> str:
    """Return what is wrong with the bank's pairs by the figures of one model; empty where they are in bounds.

    results: folder of the model's results, which name the pairs.
    """
    share = bank.get("share_under_min_cosine", 0.0)
    if share <= params.max_share:
        return ""
    table = results / "pair_cosines.parquet"
    lowest = ", ".join(pairs.read_table(table).slice(0, PAIRS_NAMED)["pair_id"].to_pylist())
    least, most = bank.get("min_cosine", params.min_cosine), 100 * params.max_share
    return (
        f"results/{results.name}/{table.name}: {100 * share:.1f} % of {bank['pairs']:,} pairs have a cosine under "
        f"{least:g}, expected {most:g} % at most (params.yaml: pairs.max_share); the lowest: {lowest}. Pictures "
        "and captions may not belong together: look at them (the lowest stand first), mend the source, or "
        "raise pairs.max_share"
    )
