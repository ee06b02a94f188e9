"""What a batch will hold: how many siblings each row meets, and how far the loss can fall at all.

Said before the first step, from the names of all views of an epoch: a batch is a draw of B of them without
replacement, so how many siblings a row meets is hypergeometric, and nothing is drawn or estimated here.
Shapes: P views of an epoch, B rows of a batch.
"""

import math
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from tuwen.core.progress import say
from tuwen.data.formats import text

if TYPE_CHECKING:
    from tuwen.core.params import Fit

Ids = npt.NDArray[np.int64]
Facts = dict[str, float]
STANDSTILL_SHARE = 0.25  # of the loss of a model that tells nothing apart; at a floor above it a warning is due


class Names(NamedTuple):
    """Integers by which views of one picture, and equal captions, are found, [P] each."""

    positive_id: Ids
    caption_id: Ids


class Met(NamedTuple):
    """How many of its own kind a row meets in a batch: the mean, the share that meets any, E[log(1 + met)]."""

    mean: float
    share: float
    log: float


def number_names(names: pa.Table, simplify: bool) -> Names:
    """Return integers for the columns positive_id and caption; captions that the model reads alike have one.

    simplify: as in `text.normalise_captions`.
    """
    captions = names["caption"].unique()
    forms = text.normalise_captions(captions.to_pylist(), simplify)
    numbers = {form: number for number, form in enumerate(dict.fromkeys(forms))}
    of_caption = np.array([numbers[form] for form in forms], np.int64)
    positive = pc.index_in(names["positive_id"], value_set=names["positive_id"].unique())
    spelt = pc.index_in(names["caption"], value_set=captions).to_numpy()
    return Names(positive.to_numpy().astype(np.int64), of_caption[spelt])


def measure_batch(names: Names, batch_size: int, siblings: object) -> Facts:
    """Return what a batch of `batch_size` rows is expected to hold; siblings: as `params.Fit.siblings` says.

    equal_captions: the share of rows whose caption another row has. siblings_per_row: other rows of the same
    picture or caption. false_negatives_per_row: those of them that the loss takes for negatives. lowest_loss: what
    the contrastive loss cannot fall below (nats), whatever the model. distinct_captions: of the epoch.
    """
    facts = {"distinct_captions": float(len(np.unique(names.caption_id)))}
    if siblings == "apart":
        return facts | dict.fromkeys(
            ("equal_captions", "siblings_per_row", "false_negatives_per_row", "lowest_loss"), 0.0
        )
    caption, picture = _count_others(names.caption_id), _count_others(names.positive_id)
    both = _count_others(names.positive_id * (names.caption_id.max() + 1) + names.caption_id)
    equal = compute_met(caption, batch_size)
    sibling = compute_met(caption + picture - both, batch_size)
    apart = siblings == "negatives"
    # equal texts have equal logits, so k of them share the right answer: log k. Targets shared among k siblings
    # have an entropy of log k
    facts |= {"equal_captions": equal.share, "siblings_per_row": sibling.mean}
    facts |= {"false_negatives_per_row": sibling.mean if apart else 0.0}
    return facts | {"lowest_loss": equal.log if apart else sibling.log}


def compute_met(others_P: Ids, batch_size: int) -> Met:
    """Return what a row meets of its `others_P` in a batch, in the mean over all rows.

    others_P: how many other rows of the epoch are of its kind, [P]. Hypergeometric: exact but for rounding.
    """
    rest, drawn = len(others_P) - 1, batch_size - 1
    if drawn < 1:
        return Met(0.0, 0.0, 0.0)
    mean = share = log = 0.0
    for others, rows in zip(*np.unique(others_P, return_counts=True), strict=True):
        met = np.arange(max(0, drawn - (rest - others)), min(others, drawn) + 1)
        chance = np.exp(
            _log_choose(others, met) + _log_choose(rest - others, drawn - met) - _log_choose(rest, drawn)
        )
        mean += rows * others * drawn / rest
        share += rows * float(chance[met > 0].sum())
        log += rows * float(chance @ np.log1p(met))
    return Met(mean / len(others_P), share / len(others_P), log / len(others_P))


def report_batch(
    names: Names | None, fit: "Fit", log: Callable[[Facts, int], None], *, softmax: bool = True
) -> Facts:
    """Print what a batch will hold, log it as of step 0 and return it; {} where the names are not known.

    softmax: the loss is the contrastive one; else its floor is another, and is left out.
    """
    if names is None:
        say("what a batch holds of equal captions is not known: shards that are streamed are not read beforehand")
        return {}
    if len(names.caption_id) < fit.batch_size:
        return {}  # the training will say so
    facts = measure_batch(names, fit.batch_size, fit.siblings)
    if not softmax:
        del facts["lowest_loss"]
    facts = {name: round(value, 6) for name, value in facts.items()}
    say(_format_facts(facts, fit))
    if warning := find_standstill(facts, len(names.caption_id), fit):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    log({f"batch_{name}": value for name, value in facts.items()}, 0)
    return facts


def find_standstill(facts: Facts, rows: int, fit: "Fit") -> str:
    """Return why the loss will seem to stand still, and what to do; "" where it will not. rows: of the epoch."""
    start, lowest = math.log(fit.batch_size), facts.get("lowest_loss", 0.0)
    if lowest <= STANDSTILL_SHARE * start:
        return ""
    few = f"{rows} rows have {facts['distinct_captions']:.0f} different captions"
    floor = f"a batch of {fit.batch_size} cannot bring the loss below {lowest:.2f} of {start:.2f} nats"
    if fit.siblings == "negatives":
        remedy = "take siblings: positives, or equal captions are pushed apart"
    else:
        remedy = "no learning rate changes that: judge by hit@5 on valid; a smaller batch or richer captions do"
    return f"{few}: {floor}; {remedy} (docs/training.md)"


def _format_facts(facts: Facts, fit: "Fit") -> str:
    equal, siblings, rivals = facts["equal_captions"], facts["siblings_per_row"], facts["false_negatives_per_row"]
    line = f"a batch of {fit.batch_size}: {100 * equal:.3g} % of its rows meet an equal caption; {siblings:.3g} "
    line += f"siblings a row, {rivals:.3g} of them taken for negatives"
    return line + (f"; the loss stays above {facts['lowest_loss']:.3g}" if "lowest_loss" in facts else "")


def _count_others(ids_P: Ids) -> Ids:
    """Return how many other rows have the same id, [P]."""
    _, inverse, counts = np.unique(ids_P, return_inverse=True, return_counts=True)
    return counts[inverse].astype(np.int64) - 1


def _log_choose(things: int | Ids, chosen: int | Ids) -> npt.NDArray[np.float64]:
    """Return the logarithm of how many ways there are to choose some of the things."""
    factorials = (torch.lgamma(torch.as_tensor(np.asarray(n) + 1.0)) for n in (things, chosen, things - chosen))
    whole, one, other = (value.numpy() for value in factorials)
    return np.asarray(whole - one - other)
