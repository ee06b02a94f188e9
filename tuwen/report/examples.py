"""The queries that the report shows: best, worst and random ones with both models' first answers.

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
from tuwen.report.html.page import thumbnail
from tuwen.retrieval.search import rank_items, top_k
from tuwen.retrieval.vectors import Rows, Vectors

SHOWN = 5  # answers shown per query and model


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
    pictures: dict[int, str]  # image row -> data: URI
    names: dict[int, str]  # image row -> its first caption
    captions: list[str]  # by text row


def collect_examples(
    data: Path,
    pair_set: pairs.PairSet,
    vectors: Mapping[str, tuple[Vectors, Vectors]],
    ranked: Mapping[str, pa.Table],
    count: int,
    seed: int,
) -> Examples:
    """Choose and answer `count` queries of each kind in both directions.

    data: the data root; vectors: model -> (images, texts); ranked: model -> its ranks table, the baseline first.
    """
    captions = pair_set.texts["caption"].to_pylist()
    image, text = pairs.find_true_rows(pair_set)
    swapped = {model: (texts, images) for model, (images, texts) in vectors.items()}
    sides = {
        "t2i": (pair_set.texts["text_id"], text, image, swapped),
        "i2t": (pair_set.images["image_id"], image, text, vectors),
    }
    queries = {}
    for direction, (ids, query, item, both) in sides.items():
        tables = [table.filter(pc.equal(table["direction"], direction)) for table in ranked.values()]
        row_N = pc.index_in(tables[0]["query_id"], value_set=ids.combine_chunks())
        if row_N.null_count:
            raise UserError(f"{data / 'clean/test'}: the ranks name queries that are not in it; run `dvc repro`")
        kinds = choose(*(table["best_rank"].to_numpy() for table in tables), count=count, seed=seed)
        rows = {kind: row_N.to_numpy()[numbers].tolist() for kind, numbers in kinds.items()}
        shown = answer(sorted({row for some in rows.values() for row in some}), both, query, item)
        queries[direction] = {kind: [shown[row] for row in some] for kind, some in rows.items()}
    asked = {example.row for some in queries["i2t"].values() for example in some}
    answers = (example.answers.values() for some in queries["t2i"].values() for example in some)
    given = {one.row for models in answers for found in models for one in found}
    return Examples(queries, thumbnails(data, pair_set.images, asked | given), names(pair_set), captions)


def choose(baseline: Rows, finetuned: Rows, *, count: int, seed: int) -> dict[str, Rows]:
    """Kind -> up to `count` numbers of queries, given both models' best rank [N] of the same queries.

    best: the fine-tuned model's lowest rank, and of equal ones the largest gain over the baseline; worst: its
    highest rank; random: drawn from all queries.
    """
    kinds = {
        "best": np.lexsort((-baseline, finetuned)),
        "worst": np.argsort(-finetuned, kind="stable"),
        "random": np.random.default_rng(seed).permutation(len(finetuned)),
    }
    return {kind: order[:count] for kind, order in kinds.items()}


def answer(
    rows: list[int], vectors: Mapping[str, tuple[Vectors, Vectors]], query: Rows, item: Rows
) -> dict[int, Example]:
    """Query row -> example, for the query rows in `rows`, which are sorted.

    vectors: model -> (queries [Q, D], gallery [G, D]); query and item [P]: the true pairs as rows of the two.
    """
    asked = np.isin(query, rows)
    number, item = np.searchsorted(rows, query[asked]), item[asked]  # of the queries in `rows`
    examples = {row: Example(row, {}) for row in rows}
    for model, (queries, gallery) in vectors.items():
        ids, scores = top_k(queries[rows], gallery, min(SHOWN, len(gallery)))
        rank_P = rank_items(queries[rows], gallery, number, item)
        for n, row in enumerate(rows):
            true = np.flatnonzero(number == n)
            best = true[rank_P[true].argmin()]
            found = zip(ids[n].tolist(), range(1, SHOWN + 1), scores[n].tolist(), strict=False)
            answers = [Answer(*one, one[0] in item[true]) for one in found]
            if rank_P[best] > len(answers):
                score = float(queries[row] @ gallery[item[best]])
                answers.append(Answer(int(item[best]), int(rank_P[best]), score, True))
            examples[row].answers[model] = answers
    return examples


def names(pair_set: pairs.PairSet) -> dict[int, str]:
    """Image row -> the first caption that is true for it, for pictures that have one."""
    image, text = pairs.find_true_rows(pair_set)
    captions = pair_set.texts["caption"].to_pylist()
    # read backwards, so that the first one is the one that stays
    return {i: captions[t] for i, t in zip(image[::-1].tolist(), text[::-1].tolist(), strict=True)}


def thumbnails(data: Path, images: pa.Table, rows: Iterable[int]) -> dict[int, str]:
    """Row of the images table -> `data:` URI of its thumbnail; `data` is the data root."""
    wanted = sorted(rows)
    taken = images.select(shards.Place._fields).take(pa.array(wanted, pa.int64()))
    places = map(shards.Place.of, taken.to_pylist())
    return {row: thumbnail(shards.read_member(data, place)) for row, place in zip(wanted, places, strict=True)}
