"""How long `tuwen evaluate` takes on 50,000 x 50,000 x 512, with intervals, and what QB-Norm adds to it.

    .venv/bin/python benchmarks/evaluate.py [ROWS [DIMENSIONS]]

Images are random directions, each text is its image plus noise, and all lean to one side as a model's vectors
do. The bank is as large. Prints the seconds of each part, the share of the two minutes that are allowed, and peak
memory. Run it alone on the machine.
"""

import argparse
import resource
import time

import numpy as np

from tuwen.core.params import Evaluate
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.evaluation.answers import answer_set, compute_corrections
from tuwen.evaluation.details import make_details
from tuwen.evaluation.embedded_set import EmbeddedSet
from tuwen.evaluation.figures import measure_figures
from tuwen.retrieval import qb_norm

ALLOWED_SECONDS = 120
NOISE = 5.0  # deviation of what tells a text from its image, whose own is 1: about half are found


def make_set(rows: int, dimensions: int, seed: int) -> EmbeddedSet:
    """Return pairs of an image and a text each, [rows, dimensions]."""
    random = np.random.default_rng(seed)
    images = random.standard_normal((rows, dimensions), np.float32)
    images[:, 0] += np.sqrt(dimensions)
    texts = images + NOISE * random.standard_normal((rows, dimensions), np.float32)
    row, none = np.arange(rows), np.empty(0, np.int64)
    images, texts = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (images, texts))
    names = [str(number) for number in range(rows)]
    return EmbeddedSet(images, texts, row, row, row, (none, none), {"images": names, "texts": names})


def main() -> None:
    """Time the parts of an evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="?", type=int, default=50_000)
    parser.add_argument("dimensions", nargs="?", type=int, default=512)
    options = parser.parse_args()
    embedded, bank = (make_set(options.rows, options.dimensions, seed) for seed in (0, 1))
    params = Evaluate(ks=[1, 5, 10], bootstrap_samples=2000, seed=0)
    clock = [time.perf_counter()]

    def lap(what: str) -> None:
        clock.append(time.perf_counter())
        print(f"{what:<44}{clock[-1] - clock[-2]:8.1f} s")

    answers = answer_set(embedded, params)
    lap("ranks and first answers, both directions")
    figures = measure_figures(embedded, answers, params)
    lap("metrics and their intervals")
    make_details(embedded, answers, {}, params, figures.exact)
    lap("curves, score histogram, hubs")
    seconds = clock[-1] - clock[0]
    print(f"{'in all':<44}{seconds:8.1f} s = {seconds / ALLOWED_SECONDS:.2f} of {ALLOWED_SECONDS} s")
    first = {direction: answers[direction].first for direction in DIRECTIONS}
    corrections = compute_corrections(embedded, bank, dict.fromkeys(DIRECTIONS, 20.0))
    lap("QB-Norm: biases by the bank, both directions")
    qb_norm.answer_both_corrected(embedded.images, embedded.texts, first, corrections)
    lap("QB-Norm: corrected answers")
    print(f"{'with QB-Norm':<44}{clock[-1] - clock[0]:8.1f} s")
    print(f"R@5 {100 * figures.values['t2i_hit_at_5']:.1f} %, {100 * figures.values['i2t_hit_at_5']:.1f} %")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
