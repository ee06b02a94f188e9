"""How long `tuwen evaluate` takes on 50,000 x 50,000 x 512, with intervals, and what QB-Norm adds to it.

    .venv/bin/python benchmarks/evaluate.py [ROWS [DIMENSIONS]]

Pictures are random directions, each text is its picture plus noise, and all lean to one side as a model's vectors
do. The bank is as large. Prints the seconds of each part, the share of the two minutes that are allowed, and peak
memory. Run it alone on the machine.
"""

import argparse
import resource
import time

import numpy as np

from tuwen.core.params import Evaluate
from tuwen.evaluation import figures as measure
from tuwen.evaluation.details import make_details
from tuwen.evaluation.figures import DIRECTIONS, Pool, side
from tuwen.retrieval import qb_norm

ALLOWED_SECONDS = 120
NOISE = 5.0  # deviation of what tells a text from its picture, whose own is 1: about half are found


def make_pool(rows: int, dimensions: int, seed: int) -> Pool:
    """Pairs of a picture and a text each, [rows, dimensions]."""
    random = np.random.default_rng(seed)
    images = random.standard_normal((rows, dimensions), np.float32)
    images[:, 0] += np.sqrt(dimensions)
    texts = images + NOISE * random.standard_normal((rows, dimensions), np.float32)
    row, none = np.arange(rows), np.empty(0, np.int64)
    images, texts = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (images, texts))
    return Pool(images, texts, row, row, row, (none, none))


def main() -> None:
    """Time the parts of an evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="?", type=int, default=50_000)
    parser.add_argument("dimensions", nargs="?", type=int, default=512)
    asked = parser.parse_args()
    rows, dimensions = asked.rows, asked.dimensions
    pool, bank = make_pool(rows, dimensions, 0), make_pool(rows, dimensions, 1)
    params = Evaluate(ks=[1, 5, 10], bootstrap_samples=2000, seed=0)
    names = [str(row) for row in range(rows)]
    clock = [time.perf_counter()]

    def lap(what: str) -> None:
        clock.append(time.perf_counter())
        print(f"{what:<44}{clock[-1] - clock[-2]:8.1f} s")

    answers = measure.ask(pool, params)
    lap("ranks and first answers, both directions")
    figures = measure.measure_figures(pool, answers, params)
    lap("figures and their intervals")
    make_details(pool, answers, {"t2i": names, "i2t": names}, {}, params)
    lap("curves, score histogram, hubs")
    seconds = clock[-1] - clock[0]
    print(f"{'in all':<44}{seconds:8.1f} s = {seconds / ALLOWED_SECONDS:.2f} of {ALLOWED_SECONDS} s")
    first = {direction: answers[direction].first for direction in DIRECTIONS}
    known = {
        direction: qb_norm.compute_correction(side(bank, direction).queries, side(pool, direction).gallery, 20.0)
        for direction in DIRECTIONS
    }
    lap("QB-Norm: what the bank says, both directions")
    qb_norm.answer_both_corrected(pool.images, pool.texts, first, known)
    lap("QB-Norm: corrected answers")
    print(f"{'with QB-Norm':<44}{clock[-1] - clock[0]:8.1f} s")
    print(f"R@5 {100 * figures['t2i_hit_at_5']:.1f} %, {100 * figures['i2t_hit_at_5']:.1f} %")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
