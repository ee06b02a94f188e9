"""details.json: what the report draws of the test set besides its metrics. Its writer and its reader."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from pydantic import model_validator

from tuwen.core.errors import UserError
from tuwen.core.params import Evaluate
from tuwen.data.formats.checked_json import CheckedJson, read_checked
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.evaluation.answers import Answers
from tuwen.evaluation.embedded_set import EmbeddedSet, score_pairs
from tuwen.evaluation.figures import DIGITS
from tuwen.evaluation.hubness import count_occurrences, find_hubs
from tuwen.retrieval import metrics
from tuwen.retrieval.quantised.recall import list_forms, measure_form
from tuwen.retrieval.vectors import Rows

HUBS_NAMED = 10
SCORE_EDGES = np.linspace(-1, 1, 201).round(2)  # the same for every model, so that histograms compare
FALSE_PAIRS = 1 << 18  # scored for the histogram; all of them where there are no more

Part = TypeVar("Part")


class ByDirection(CheckedJson, Generic[Part]):
    """A part of the file for each direction."""

    t2i: Part
    i2t: Part

    def __getitem__(self, direction: str) -> Part:
        part: Part = getattr(self, direction)
        return part


class Scores(CheckedJson):
    """Cosines of true and of false pairs, counted between n + 1 edges."""

    edges: list[float]
    true: list[int]
    false: list[int]

    @model_validator(mode="after")
    def _require_a_count_between_two_edges(self) -> "Scores":
        if not len(self.true) == len(self.false) == len(self.edges) - 1:
            raise ValueError(
                f"{len(self.edges)} edges for {len(self.true)} true and {len(self.false)} false counts"
            )
        if not sum(self.true):
            raise ValueError("no true pair is counted")
        return self


class Hub(CheckedJson):
    """An item of the gallery, and of how many queries it is among the first k answers."""

    id: str
    times: int


class Hubs(CheckedJson):
    """The items that answer most often, the most frequent first."""

    k: int
    top: list[Hub]


class Reranking(CheckedJson):
    """How the first answers are reordered, as chosen on valid, and what other depths would give on test."""

    k: int
    weight: float  # of the cosine beside the probability of a match
    sure_on_valid: bool  # whether the interval of its gain in the mean of R@k lies above 0 there
    curve: list[dict[str, float]]  # points: k, hit_at_1, hit_at_5, …; k = 1 is the order of the cosine


class Bin(CheckedJson):
    """Queries of test of about one probability."""

    queries: int
    said: float  # their mean probability that the first answer is right
    seen: float  # the share of them of which it is


class Reliability(CheckedJson):
    """What was said of the first answers of test against what came true (retrieval/calibration.py)."""

    queries: int
    right: float  # share of first answers
    brier: float
    ece: float
    bins: list[Bin]


class Calibrated(Reliability):
    """The probability that a first answer is right: fitted on valid, judged on test."""

    slope: float
    intercept: float
    fitted_on: int  # queries of valid


class Orders(CheckedJson):
    """By what the first answer is first."""

    cosine: Calibrated
    reranked: Calibrated | None = None  # None: valid was for no other order than that of the cosine


class KeptForm(CheckedJson):
    """What a gallery's vectors could be kept as, and hit@k by it (retrieval/quantised/recall.py)."""

    dtype: str
    dims: int
    searched: int  # bytes of a vector that a search reads
    kept: int  # bytes of a vector
    hits: dict[str, float]  # hit_at_1, hit_at_5, …


class Details(CheckedJson):
    """The file; all of it is about the test set."""

    gallery_curve: ByDirection[list[dict[str, float]]]  # points: gallery, hit_at_1, hit_at_5, …
    score_histogram: Scores | None  # None of a model without vectors of its own
    hubs: ByDirection[Hubs]
    reranking: ByDirection[Reranking] | None = None
    calibration: ByDirection[Orders] | None = None  # None: measured by older code
    # float32 first; None: measured by older code, or of a model without vectors of its own
    small_vectors: ByDirection[list[KeptForm]] | None = None


def read_details(path: Path, ks: Sequence[int]) -> Details:
    """Read the file. Raises UserError when it is missing, of another form, or measured at other ks."""
    details = read_checked(path, Details)
    names = ("gallery", *(f"hit_at_{k}" for k in ks))
    for direction in DIRECTIONS:
        if any(name not in point for point in details.gallery_curve[direction] for name in names):
            raise UserError(
                f"{path}: gallery_curve.{direction} lacks a figure at one of k = {list(ks)} "
                "(params.yaml: evaluate.ks); run `dvc repro`"
            )
    return details


def make_details(
    embedded: EmbeddedSet,
    answers: Mapping[str, Answers],
    betas: Mapping[str, float],
    params: Evaluate,
    exact: Sequence[str],
) -> dict[str, Any]:
    """Return what becomes details.json; betas: QB-Norm's temperature by direction; exact: as in `Figures`."""
    curves, hubs = {}, {}
    for name, direction in DIRECTIONS.items():
        own = answers[name]
        sizes = metrics.choose_gallery_sizes(own.gallery, max(params.ks))
        curve_SK = metrics.compute_gallery_curve(own.judged, own.gallery, sizes, params.ks)
        curves[name] = [
            {"gallery": size, **{f"hit_at_{k}": hit for k, hit in zip(params.ks, hit_K, strict=True)}}
            for size, hit_K in zip(sizes, curve_SK.round(DIGITS).tolist(), strict=True)
        ]
        times, ids = count_occurrences(own.first, own.gallery), embedded.ids[direction.gallery]
        top = [{"id": ids[row], "times": int(times[row])} for row in find_hubs(times, HUBS_NAMED).tolist()]
        hubs[name] = {"k": own.first.shape[1], "top": top}
    return {
        "gallery_curve": curves,
        "score_histogram": count_scores(embedded, params.seed),
        "hubs": hubs,
        "qbnorm": {direction: {"beta": beta} for direction, beta in betas.items()},
        "exact_intervals": list(exact),
    }


def measure_small_vectors(embedded: EmbeddedSet, params: Evaluate, prefixes: Sequence[int]) -> dict[str, Any]:
    """Return direction -> forms of its gallery, as KeptForm; prefixes: dimensions that can be used alone."""
    names = [f"hit_at_{k}" for k in params.ks]
    measured = {}
    for name, direction in DIRECTIONS.items():
        task = embedded.make_task(direction)
        hits = {form: measure_form(task, form, params.ks) for form in list_forms(task.gallery.shape[1], prefixes)}
        measured[name] = [
            form._asdict() | {"hits": dict(zip(names, [round(hit, DIGITS) for hit in hit_K], strict=True))}
            for form, hit_K in hits.items()
        ]
    return measured


def count_scores(embedded: EmbeddedSet, seed: int) -> dict[str, list[Any]]:
    """Count the cosines of all true pairs and of false ones, at most FALSE_PAIRS of these, drawn by `seed`.

    False: not a true pair. Edges in equal steps over [-1, 1]; a cosine beyond by rounding stands in the last bin.
    """
    rows = {"true": (embedded.image, embedded.text), "false": _draw_false_pairs(embedded, seed)}
    counts = {"edges": SCORE_EDGES.tolist()}
    for name, (image, text) in rows.items():
        cosines = score_pairs(embedded.images, embedded.texts, image, text)
        counts[name] = np.histogram(cosines.clip(-1, 1), SCORE_EDGES)[0].tolist()
    return counts


def _draw_false_pairs(embedded: EmbeddedSet, seed: int) -> tuple[Rows, Rows]:
    """Return (image row, text row) of each."""
    texts = len(embedded.texts)
    every = len(embedded.images) * texts
    if every <= FALSE_PAIRS:
        pair = np.arange(every)
    else:
        pair = np.unique(np.random.default_rng(seed).integers(every, size=FALSE_PAIRS))
    pair = pair[~np.isin(pair, embedded.image * texts + embedded.text)]
    return pair // texts, pair % texts
