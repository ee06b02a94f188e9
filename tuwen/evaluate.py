"""One model's embeddings and the true pairs -> metrics.json and ranks.parquet."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tuwen import pairs
from tuwen.errors import UserError
from tuwen.params import Evaluate
from tuwen.recall import Judged, hits, intervals, judge, recalls
from tuwen.search import Vectors, read_vectors

DIGITS = 6


class Answers(NamedTuple):
    """One direction of one set, judged: t2i (a text asks for pictures) or i2t (a picture asks for texts)."""

    direction: str
    judged: Judged
    query_ids: pa.Array  # [N]
    groups: npt.NDArray[Any]  # [N] what the bootstrap draws; a text has the group of its first picture


def evaluate(embeddings: Path, clean: Path, results: Path, params: Evaluate) -> dict[str, dict[str, float]]:
    """Write `results/metrics.json` (test and valid) and `results/ranks.parquet` (test); return the metrics.

    embeddings: folder of one model with `<set>/images.npy` [I, D] and `<set>/texts.npy` [T, D]; clean: folder of
    the sets' tables. Raises UserError for missing or unsound embeddings and for a set without pairs.
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
    results.mkdir(parents=True, exist_ok=True)
    (results / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    pairs.write_table(results / "ranks.parquet", ranks)
    return metrics


def read_set(embedded: Path, folder: Path, pair_set: pairs.PairSet) -> tuple[Vectors, Vectors]:
    """The vectors of one set: images [I, D], texts [T, D], in the row order of its tables."""
    return (
        read_vectors(embedded / "images.npy", pair_set.images.num_rows, folder / "images.parquet"),
        read_vectors(embedded / "texts.npy", pair_set.texts.num_rows, folder / "texts.parquet"),
    )


def _ask(embedded: Path, folder: Path, pair_set: pairs.PairSet, params: Evaluate) -> list[Answers]:
    images, texts = read_set(embedded, folder, pair_set)
    image, text = pairs.true_rows(pair_set)
    if not len(image):
        raise UserError(
            f"{folder / 'pairs.parquet'}: no pair, so there is no truth to measure by; "
            "take more data or a larger share of it (params.yaml: source, split)"
        )
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
