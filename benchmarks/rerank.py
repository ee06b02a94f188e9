"""Pairs a second of re-ranking, against the article's way: the features of both sides anew for every pair.

    .venv/bin/python benchmarks/rerank.py [--queries 1000] [--k 32] [SHAPE …]

Run it alone on the machine. Both ways in one run, in fp32, with all cores: six layers of a cross encoder over a
ViT-B/16 (197 tokens of 768) and a BERT of twelve layers, random weights, texts of about 25 tokens, each query with
the 32 images that exact search finds. Ours is timed whole: search, tokens of both sides, files, pairs. The other
way is timed on the pairs of `--apart` queries, a batch a query, since a pair costs the same whatever their number;
its scores are compared with ours. A gallery has as many images as there are queries, so that fewer queries (1,000
take a quarter of an hour on two cores) change neither rate: 32 queries on the mean want an image either way. A
smaller k is measured sooner, and flatters the other way: its images serve fewer queries.
Beside other work, the rates by seconds of the processor say more than those by the clock; both are printed.
The target is at least five times the pairs a second.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from tuwen.core.executor import count_workers
from tuwen.data.formats.images import make_pixel_tensor
from tuwen.data.formats.text import build_vocabulary, make_tokenizer, tokenize
from tuwen.model.architectures import make_chinese_clip_config
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.reranker import ReRanker, make_cross_encoder
from tuwen.retrieval.match_pairs import PairSides
from tuwen.retrieval.rerank import find_matches

Result = TypeVar("Result")

TARGET = 5.0
COMPRESSED = {"count": 64, "width": 384}
SHAPES: dict[str, dict[str, Any]] = {
    "text_image": {"fusion": "text_image", "image_tokens": None},
    "both-64x384": {"fusion": "both", "image_tokens": COMPRESSED},
    "joint-64x384": {"fusion": "joint", "image_tokens": COMPRESSED},
    "both": {"fusion": "both", "image_tokens": None},
    "co_attention": {"fusion": "co_attention", "image_tokens": None},
    "joint": {"fusion": "joint", "image_tokens": None},
}
CAPTION = "雨后的街道上,一只橘猫趴在书店门口看着第{}辆自行车"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shapes", nargs="*", default=["text_image", "both-64x384"], help=", ".join(SHAPES))
    parser.add_argument("--queries", type=int, default=1000, help="and images; at least k")
    parser.add_argument("--k", type=int, default=32, help="images that are found for each query")
    parser.add_argument("--apart", type=int, default=1, help="queries whose pairs are timed the article's way")
    options = parser.parse_args()
    assert options.queries >= options.k, "--queries: at least k"
    for name in options.shapes:
        with tempfile.TemporaryDirectory() as folder:
            measure(name, options.queries, options.k, options.apart, Path(folder))


def measure(name: str, queries: int, k: int, apart: int, work: Path) -> None:
    """Measure one shape both ways."""
    captions = [CAPTION.format(number) for number in range(queries)]
    vocabulary = build_vocabulary(captions)
    tokenizer = make_tokenizer(vocabulary)
    draw = np.random.default_rng(0)
    squares = draw.integers(0, 256, (queries, 224, 224, 3), dtype=np.uint8)
    sides = PairSides(range(queries), squares.__getitem__, captions)
    vectors = {name: draw.normal(size=(queries, 512)).astype(np.float32) for name in ("images", "texts")}
    vectors = {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in vectors.items()}
    config = make_chinese_clip_config("ViT-B-16", 52) | {"vocabulary": len(vocabulary)}
    reranker = make_reranker(name, config)

    found, ours = watch(lambda: find_matches(reranker, tokenizer, sides, vectors, k, ["t2i"], work)["t2i"])
    scores, theirs = watch(
        lambda: np.stack([score_anew(reranker, tokenizer, sides, row, found.rows[row]) for row in range(apart)])
    )
    print(
        f"{name}, {queries} queries x {k}; {count_workers()} workers, {torch.get_num_threads()} threads of torch"
    )
    for number, clock in enumerate(("second", "second of the processor")):
        rates = found.rows.size / ours[number], scores.size / theirs[number]
        print(
            f"  {rates[0]:.2f} pairs a {clock} over {found.rows.size} pairs; features anew for every pair",
            f"{rates[1]:.2f} over {scores.size}; {rates[0] / rates[1]:.1f} times, target {TARGET:g}",
        )
    print(f"  scores differ by {np.abs(scores - found.match[:apart]).max():.1e} at most", flush=True)


def watch(work: Callable[[], Result]) -> tuple[Result, tuple[float, float]]:
    """Return what `work` returns, and its seconds: by the clock, and of all threads together."""
    start = time.perf_counter(), time.process_time()
    result = work()
    return result, (time.perf_counter() - start[0], time.process_time() - start[1])


def make_reranker(name: str, config: dict[str, Any]) -> ReRanker:
    """Make one with random weights over the towers of `config`, whose streams read each other."""
    torch.manual_seed(0)
    dual, width = DualEncoder(config), config["text"]["width"]
    inside = {"layers": 6, "width": width, "heads": width // 64, "mlp": 4 * width, "dropout": 0.1}
    cross = make_cross_encoder(dual, inside | SHAPES[name])
    with torch.no_grad():
        for part, tensor in cross.named_parameters():
            if part.endswith("other.out.weight"):
                tensor.normal_(std=tensor.shape[1] ** -0.5)
    return ReRanker(dual.eval(), cross.eval())


@torch.inference_mode()
def score_anew(reranker: ReRanker, tokenizer: Any, sides: PairSides, text: int, images: np.ndarray) -> np.ndarray:
    """Score one query's images as the article does: every pair is an image and a text of its own, [k]."""
    _, tokens = reranker.dual.encode_image_tokens(make_pixel_tensor([sides.decode(row) for row in images]))
    ids, mask = tokenize(tokenizer, [sides.captions[text]] * len(images), 52)
    _, states = reranker.dual.encode_text_tokens(ids, mask)
    output = reranker.cross(reranker.cross.compress_image(tokens), states, mask)
    return reranker.cross.score_matches(output).numpy()


if __name__ == "__main__":
    main()
