"""One model's embeddings and the true pairs -> metrics.json, ranks.parquet and pair_cosines.parquet."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tuwen import pairs
from tuwen.errors import UserError
from tuwen.params import Evaluate
from tuwen.params_data import Pairs
from tuwen.recall import Judged, hits, intervals, judge, recalls
from tuwen.search import Vectors, read_vectors

DIGITS = 6
PAIRS_AT_ONCE = 1 << 14  # multiplied in float64


class Answers(NamedTuple):
    """One direction of one set, judged: t2i (a text asks for pictures) or i2t (a picture asks for texts)."""

    direction: str
    judged: Judged
    query_ids: pa.Array  # [N]
    groups: npt.NDArray[Any]  # [N] what the bootstrap draws; a text has the group of its first picture


def evaluate(
    embeddings: Path, clean: Path, results: Path, params: Evaluate, doubt: Pairs
) -> dict[str, dict[str, float]]:
    """Write metrics.json (test, valid, bank), ranks.parquet (test), pair_cosines.parquet (bank) into `results`.

    embeddings: folder of one model with `<set>/images.npy` [I, D] and `<set>/texts.npy` [T, D]; clean: folder of
    the sets' tables. Returns the metrics. Raises UserError for missing or unsound embeddings and for a set
    without pairs.
    """
    metrics = {}
    for name in ("test", "valid"):
        pair_set = pairs.read(clean / name)
        answers = _ask(embeddings / name, clean / name, pair_set, params)
        metrics[name] = {"images": pair_set.images.num_rows, "texts": pair_set.texts.num_rows}
        for answer in answers:
            metrics[name] |= _figures(answer, params)
        if name == "test":
            ranks = pa.concat_tables([_rank_table(answer, params) for answer in answers]).combine_chunks()
    bank = pairs.read(clean / "bank")
    cosines = pair_cosines(bank, *read_set(embeddings / "bank", clean / "bank", bank))
    metrics["bank"] = _doubt(cosines, clean / "bank", doubt)
    results.mkdir(parents=True, exist_ok=True)
    (results / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    pairs.write_table(results / "ranks.parquet", ranks)
    pairs.write_table(results / "pair_cosines.parquet", cosines)
    return metrics


def read_set(embedded: Path, folder: Path, pair_set: pairs.PairSet) -> tuple[Vectors, Vectors]:
    """The vectors of one set: images [I, D], texts [T, D], in the row order of its tables."""
    return (
        read_vectors(embedded / "images.npy", pair_set.images.num_rows, folder / "images.parquet"),
        read_vectors(embedded / "texts.npy", pair_set.texts.num_rows, folder / "texts.parquet"),
    )


def pair_cosines(pair_set: pairs.PairSet, images: Vectors, texts: Vectors) -> pa.Table:
    """How well each true pair fits in a model's eyes: pair_id, image_id, text_id, cosine, the lowest first.

    images [I, D] and texts [T, D]: unit vectors in the row order of the tables; equal cosines by pair_id.
    """
    image, text = pairs.true_rows(pair_set)
    cosine = np.empty(len(image))
    for start in range(0, len(image), PAIRS_AT_ONCE):
        p = slice(start, start + PAIRS_AT_ONCE)
        cosine[p] = (images[image[p]].astype(np.float64) * texts[text[p]]).sum(axis=1)
    named = pairs.true_pairs(pair_set).select(["pair_id", "image_id", "text_id"])
    table = named.append_column("cosine", pa.array(cosine.round(DIGITS)))
    return table.sort_by([("cosine", "ascending"), ("pair_id", "ascending")]).combine_chunks()


def _doubt(cosines: pa.Table, folder: Path, params: Pairs) -> dict[str, float]:
    if not len(cosines):
        raise _no_pair(folder)
    cosine = cosines["cosine"].to_numpy()
    return {
        "pairs": len(cosine),
        "mean_cosine": round(float(cosine.mean()), DIGITS),
        "share_under_min_cosine": round(float((cosine < params.min_cosine).mean()), DIGITS),
    }


def _no_pair(folder: Path) -> UserError:
    return UserError(
        f"{folder / 'pairs.parquet'}: no pair, so there is no truth to measure by; "
        "take more data or a larger share of it (params.yaml: source, split)"
    )


def _ask(embedded: Path, folder: Path, pair_set: pairs.PairSet, params: Evaluate) -> list[Answers]:
    images, texts = read_set(embedded, folder, pair_set)
    image, text = pairs.true_rows(pair_set)
    if not len(image):
        raise _no_pair(folder)
    group_I = pc.coalesce(pair_set.images["group"], pair_set.images["image_id"]).to_numpy(zero_copy_only=False)
    # read backwards, so that the first picture of a text is the one that stays
    first_picture = dict(zip(text[::-1].tolist(), image[::-1].tolist(), strict=True))
    t2i = judge(texts, images, text, image, params.ks)
    i2t = judge(images, texts, image, text, params.ks)
    text_groups = group_I[[first_picture[row] for row in t2i.query.tolist()]]
    return [
        Answers("t2i", t2i, pair_set.texts["text_id"].combine_chunks().take(pa.array(t2i.query)), text_groups),
        Answers(
            "i2t", i2t, pair_set.images["image_id"].combine_chunks().take(pa.array(i2t.query)), group_I[i2t.query]
        ),
    ]


def _figures(answers: Answers, params: Evaluate) -> dict[str, float]:
    direction, judged = answers.direction, answers.judged
    hit_NK, recall_NK = hits(judged.best_rank, params.ks), recalls(judged.found, judged.true_items)
    interval_K2 = intervals(hit_NK, answers.groups, params.bootstrap_samples, params.seed)
    figures: dict[str, float] = {f"{direction}_queries": len(judged.query)}
    for column, k in enumerate(params.ks):
        low, high = interval_K2[column]
        figures[f"{direction}_hit_at_{k}"] = round(float(hit_NK[:, column].mean()), DIGITS)
        figures[f"{direction}_hit_at_{k}_low"] = round(float(low), DIGITS)
        figures[f"{direction}_hit_at_{k}_high"] = round(float(high), DIGITS)
        figures[f"{direction}_recall_at_{k}"] = round(float(recall_NK[:, column].mean()), DIGITS)
    return figures


def _rank_table(answers: Answers, params: Evaluate) -> pa.Table:
    judged = answers.judged
    columns = {
        "direction": pa.array([answers.direction] * len(judged.query), pa.string()),
        "query_id": answers.query_ids,
        "group": pa.array(answers.groups, pa.string()),
        "best_rank": judged.best_rank,
        "true_items": judged.true_items,
    }
    found = {f"found_at_{k}": judged.found[:, column] for column, k in enumerate(params.ks)}
    return pa.table(columns | found)
