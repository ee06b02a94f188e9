"""All figures of one pool of pictures and texts, from vectors and the pairs that are true.

What `evaluate` (a model's sets) and `foreign` (anybody's embeddings) share.
Shapes: I pictures, T texts, D dimensions, P true pairs, N queries with a true item, R first answers, K ks.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tuwen.core.params import Evaluate
from tuwen.retrieval import metrics, qb_norm
from tuwen.retrieval.qb_norm import Correction
from tuwen.retrieval.vectors import Rows, Vectors

Groups = npt.NDArray[Any]
Figures = dict[str, float]

DIGITS = 6
DIRECTIONS = ("t2i", "i2t")  # a text asks for pictures, a picture asks for texts
HUB_K = 10  # an item is a hub where it stands among the first ten of many queries
PAIRS_AT_ONCE = 1 << 14  # multiplied in float64


class Pool(NamedTuple):
    """Pictures and texts as unit vectors, and which belong together."""

    images: Vectors  # [I, D]
    texts: Vectors  # [T, D]
    image: Rows  # [P] picture image[p] and text text[p] are a true pair
    text: Rows  # [P]
    group: Groups  # [I] what the bootstrap draws; a text has the group of its first picture
    unfit: tuple[Rows, Rows]  # picture and text rows of pairs known not to fit: a matching set's label 0


class Side(NamedTuple):
    """A pool in one direction."""

    queries: Vectors
    gallery: Vectors
    query: Rows  # [P]
    item: Rows  # [P]


class Answers(NamedTuple):
    """One direction, judged."""

    judged: metrics.Judged
    groups: Groups  # [N]
    first: Rows  # [Q, R] gallery rows, best first
    corrected: Rows | None  # [Q, R] the same by QB-Norm


def side(pool: Pool, direction: str) -> Side:
    """The pool as queries and gallery."""
    if direction == "t2i":
        return Side(pool.texts, pool.images, pool.text, pool.image)
    return Side(pool.images, pool.texts, pool.image, pool.text)


def reach(pool: Pool, params: Evaluate) -> int:
    """How many first answers hits and hubs need, R; no more than either gallery has."""
    return min(max(HUB_K, *params.ks), len(pool.images), len(pool.texts))


def ask(pool: Pool, params: Evaluate, known: dict[str, Correction] | None = None) -> dict[str, Answers]:
    """Both directions of a pool, judged; known: the correction by direction, where there is a bank."""
    count = reach(pool, params)
    first = qb_norm.find_first_answers(pool.images, pool.texts, count)
    corrected = qb_norm.answer_both_corrected(pool.images, pool.texts, first, known) if known else {}
    text_group = np.empty(len(pool.texts), pool.group.dtype)
    text_group[pool.text[::-1]] = pool.group[pool.image[::-1]]  # backwards: a text's first picture stays
    answers = {}
    for direction in DIRECTIONS:
        judged = metrics.judge_queries(*side(pool, direction), params.ks)
        groups = text_group[judged.query] if direction == "t2i" else pool.group[judged.query]
        answers[direction] = Answers(judged, groups, first[direction], corrected.get(direction))
    return answers


def measure_figures(pool: Pool, answers: Mapping[str, Answers], params: Evaluate) -> Figures:
    """Flat name -> figure: hit@k, recall@k, median ranks, hubs, R@M, AUC and their intervals.

    R@M, `mean_recall`, is the mean of hit@k over all ks and both directions, `t2i_mean_recall` over one direction,
    as cn_clip prints it. `qbnorm_gain` is corrected less uncorrected hit@k.
    """
    made: Figures = {}
    columns: dict[str, vectors.Floats] = {}  # figure -> its values [rows of both directions], NaN in the other's
    sizes = [len(answers[direction].judged.query) for direction in DIRECTIONS]
    for direction, start in zip(DIRECTIONS, (0, sizes[0]), strict=True):
        made |= _of_direction(pool, direction, answers[direction], params.ks)
        for name, value_N in _per_query(pool, direction, answers[direction], params.ks).items():
            columns[name] = np.full(sum(sizes), np.nan)
            columns[name][start : start + len(value_N)] = value_N
    groups = np.concatenate([answers[direction].groups for direction in DIRECTIONS])
    made |= _with_intervals(columns, groups, params)
    if len(pool.unfit[0]):
        made |= _auc(pool, params)
    return {name: round(value, DIGITS) for name, value in made.items()}


def _of_direction(pool: Pool, direction: str, found: Answers, ks: list[int]) -> Figures:
    """The figures that have no interval."""
    judged, gallery = found.judged, len(side(pool, direction).gallery)
    share_K = metrics.compute_recalls(judged.found, judged.true_items).mean(axis=0).tolist()
    made: Figures = {
        f"{direction}_queries": len(judged.query),
        f"{direction}_median_rank": float(np.median(judged.best_rank)),
        f"{direction}_hub_skewness": qb_norm.compute_skewness(qb_norm.count_occurrences(found.first, gallery)),
    }
    if found.corrected is not None:
        times = qb_norm.count_occurrences(found.corrected, gallery)
        made[f"{direction}_qbnorm_hub_skewness"] = qb_norm.compute_skewness(times)
    return made | {f"{direction}_recall_at_{k}": share for k, share in zip(ks, share_K, strict=True)}


def _per_query(pool: Pool, direction: str, found: Answers, ks: list[int]) -> dict[str, vectors.Floats]:
    """hit@k of each query, and by QB-Norm where there is a bank."""
    hit_NK = metrics.compute_hits(found.judged.best_rank, ks)
    blocks = {"hit": hit_NK}
    if found.corrected is not None:
        _, _, query, item = side(pool, direction)
        corrected_NK = metrics.compute_hits_among(found.corrected, query, item, ks)
        blocks |= {"qbnorm_hit": corrected_NK, "qbnorm_gain": corrected_NK - hit_NK}
    return {
        f"{direction}_{name}_at_{k}": column
        for name, values in blocks.items()
        for k, column in zip(ks, values.T, strict=True)
    }


def _with_intervals(columns: Mapping[str, vectors.Floats], groups: Groups, params: Evaluate) -> Figures:
    values, names = np.stack(list(columns.values()), axis=1), list(columns)
    means, drawn = (
        np.nanmean(values, axis=0),
        metrics.bootstrap(values, groups, params.bootstrap_samples, params.seed),
    )
    hits = [[names.index(f"{direction}_hit_at_{k}") for k in params.ks] for direction in DIRECTIONS]
    mean_recalls = {f"{direction}_mean_recall": of for direction, of in zip(DIRECTIONS, hits, strict=True)}
    for name, mean_of in {**mean_recalls, "mean_recall": [*hits[0], *hits[1]]}.items():
        names.append(name)
        means, drawn = (np.append(n, n[..., mean_of].mean(-1, keepdims=True), axis=-1) for n in (means, drawn))
    low, high = np.nanquantile(drawn, metrics.INTERVAL, axis=0)
    ends = {"": means, "_low": low, "_high": high}
    return {name + end: float(value[n]) for n, name in enumerate(names) for end, value in ends.items()}


def _auc(pool: Pool, params: Evaluate) -> Figures:
    image, text = (np.concatenate(both) for both in zip((pool.image, pool.text), pool.unfit, strict=True))
    fits = np.arange(len(image)) < len(pool.image)
    score = cosines(pool.images, pool.texts, image, text)
    low, high = metrics.compute_auc_interval(score, fits, pool.group[image], params.bootstrap_samples, params.seed)
    return {
        "unfit_pairs": len(pool.unfit[0]),
        "auc": metrics.compute_auc(score, fits),
        "auc_low": float(low),
        "auc_high": float(high),
    }


def cosines(images: Vectors, texts: Vectors, image: Rows, text: Rows) -> npt.NDArray[np.float64]:
    """The float64 cosine [P] of picture image[p] and text text[p]; images [I, D] and texts [T, D] are unit."""
    cosine = np.empty(len(image))
    for start in range(0, len(image), PAIRS_AT_ONCE):
        p = slice(start, start + PAIRS_AT_ONCE)
        cosine[p] = (images[image[p]].astype(np.float64) * texts[text[p]]).sum(axis=1)
    return cosine
