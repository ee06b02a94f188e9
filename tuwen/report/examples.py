"""The queries that the report shows: best, worst and random ones with the first answers of every model.

Shapes: N judged queries of one direction, P true pairs, Q queries and G items of a gallery, D dimensions.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tuwen.core.errors import UserError
from tuwen.data.formats import pairs, shards
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.evaluation.embedded_set import make_task
from tuwen.evaluation.models import SHIPPED, get_base
from tuwen.evaluation.ranks import RankedQueries
from tuwen.report.html.page import make_thumbnail
from tuwen.retrieval.search import rank_items, top_k
from tuwen.retrieval.vectors import RetrievalTask, Rows, Vectors

ANSWERS_SHOWN = 5  # per query and model


class Answer(NamedTuple):
    """One item of the gallery as an answer: its row, its 1-based rank, its cosine, whether it is true."""

    row: int
    rank: int
    score: float
    is_true: bool


class Example(NamedTuple):
    """A query's row and, by model, its first answers; the best true item comes last where it is not among them."""

    row: int
    answers: dict[str, list[Answer]]

    def best_rank(self, model: str) -> int:
        """1-based rank of the model's best true item."""
        return next(answer.rank for answer in self.answers[model] if answer.is_true)


class Examples(NamedTuple):
    """All that the page shows of queries; rows are those of the set's tables."""

    queries: dict[str, dict[str, list[Example]]]  # direction -> kind -> examples
    thumbnails: dict[int, str]  # image row -> data: URI
    first_captions: dict[int, str]  # by image row
    captions: list[str]  # by text row


def collect_examples(
    data: Path,
    pair_set: pairs.PairSet,
    vectors: Mapping[str, tuple[Vectors, Vectors]],
    ranks: Mapping[str, Mapping[str, RankedQueries]],
    count: int,
    seed: int,
) -> Examples:
    """Choose and answer `count` queries of each kind in both directions.

    data: the data root; vectors: model -> (images, texts); ranks: model -> its ranks by direction.
    """
    image, text = pairs.find_true_rows(pair_set)
    queries = {}
    for name, direction in DIRECTIONS.items():
        base, shipped = (ranks[model][name] for model in (get_base().name, SHIPPED))
        ids = getattr(pair_set, direction.queries)[direction.query_id].combine_chunks()
        row_N = pc.index_in(base.query_ids, value_set=ids)
        if row_N.null_count:
            raise UserError(f"{data / 'clean/test'}: the ranks name queries that are not in it; run `dvc repro`")
        kinds = choose_queries(base.judged.best_rank, shipped.judged.best_rank, count=count, seed=seed)
        rows = {kind: row_N.to_numpy()[numbers].tolist() for kind, numbers in kinds.items()}
        tasks = {model: make_task(direction, *both, image, text) for model, both in vectors.items()}
        examples = answer_queries(sorted({row for some in rows.values() for row in some}), tasks)
        queries[name] = {kind: [examples[row] for row in some] for kind, some in rows.items()}
    shown = {example.row for some in queries["i2t"].values() for example in some}
    by_model = (example.answers.values() for some in queries["t2i"].values() for example in some)
    shown |= {answer.row for models in by_model for answers in models for answer in answers}
    return Examples(
        queries=queries,
        thumbnails=make_thumbnails(data, pair_set.images, shown),
        first_captions=list_first_captions(pair_set),
        captions=pair_set.texts["caption"].to_pylist(),
    )


def choose_queries(base: Rows, shipped: Rows, *, count: int, seed: int) -> dict[str, Rows]:
    """Return kind -> up to `count` numbers of queries, given two models' best rank [N] of the same queries.

    best: the shipped model's lowest rank, and of equal ones the largest gain over the base; worst: its highest
    rank; random: drawn from all queries.
    """
    kinds = {
        "best": np.lexsort((-base, shipped)),
        "worst": np.argsort(-shipped, kind="stable"),
        "random": np.random.default_rng(seed).permutation(len(shipped)),
    }
    return {kind: order[:count] for kind, order in kinds.items()}


def answer_queries(rows: list[int], tasks: Mapping[str, RetrievalTask]) -> dict[int, Example]:
    """Return query row -> example for the query rows in `rows`, which are sorted; tasks: by model."""
    examples = {row: Example(row, {}) for row in rows}
    for model, task in tasks.items():
        queries, chosen_P = task.queries[rows], np.isin(task.query, rows)
        number, item = np.searchsorted(rows, task.query[chosen_P]), task.item[chosen_P]  # of the queries in `rows`
        ids, scores = top_k(queries, task.gallery, min(ANSWERS_SHOWN, len(task.gallery)))
        rank_P = rank_items(queries, task.gallery, number, item)
        for n, row in enumerate(rows):
            true = np.flatnonzero(number == n)
            best = true[rank_P[true].argmin()]
            first = zip(ids[n].tolist(), range(1, ANSWERS_SHOWN + 1), scores[n].tolist(), strict=False)
            answers = [Answer(*one, one[0] in item[true]) for one in first]
            if rank_P[best] > len(answers):
                score = float(task.queries[row] @ task.gallery[item[best]])
                answers.append(Answer(int(item[best]), int(rank_P[best]), score, True))
            examples[row].answers[model] = answers
    return examples


def list_first_captions(pair_set: pairs.PairSet) -> dict[int, str]:
    """Return image row -> the first caption that is true for it, for images that have one."""
    image, text = pairs.find_true_rows(pair_set)
    captions = pair_set.texts["caption"].to_pylist()
    # read backwards, so that the first one is the one that stays
    return {i: captions[t] for i, t in zip(image[::-1].tolist(), text[::-1].tolist(), strict=True)}


def make_thumbnails(data: Path, images: pa.Table, rows: Iterable[int]) -> dict[int, str]:
    """Return row of the images table -> `data:` URI of its thumbnail; `data` is the data root."""
    chosen = sorted(rows)
    taken = images.select(shards.Place._fields).take(pa.array(chosen, pa.int64())).to_pylist()
    return {
        row: make_thumbnail(shards.read_member(data, shards.Place.of(place)))
        for row, place in zip(chosen, taken, strict=True)
    }
