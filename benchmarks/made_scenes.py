"""Made pictures of a few coloured shapes, and captions that tell which of two stands on the left: 红圆在蓝方左边.

A caption and its mirror (蓝方在红圆左边) hold the same words, and a picture and its mirror the same objects: to tell
them apart, both words must be found in the picture. Which pairs of objects a caption names is split between what is
trained on and what is judged; every object is seen in training.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from tuwen.data.formats.images import make_pixel_tensor
from tuwen.data.formats.text import tokenize
from tuwen.training.loader import Batch
from tuwen.training.trainer import Batches

COLOURS = {"红": "red", "绿": "green", "蓝": "blue", "黄": "gold", "紫": "purple", "灰": "gray"}
SHAPES = "圆方角叉"  # disc, square, triangle, cross
CELL_PX, SIDE_PX, TOKENS = 8, 24, 8
CELLS = (SIDE_PX // CELL_PX) ** 2
Pair = tuple[str, str]  # objects, each a colour and a shape
Scene = tuple[Pair, tuple[str, ...]]  # the pair that the caption names, and all objects


def draw_scene(objects: Sequence[str], draw: np.random.Generator) -> np.ndarray:
    """Return uint8 [S, S, 3]: each object in a cell of its own, drawn at random."""
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), "white")
    pen = ImageDraw.Draw(image)
    for (colour, shape), cell in zip(objects, draw.permutation(CELLS)[: len(objects)], strict=True):
        x, y = CELL_PX * int(cell % (SIDE_PX // CELL_PX)), CELL_PX * int(cell // (SIDE_PX // CELL_PX))
        box, fill = (x, y, x + CELL_PX - 1, y + CELL_PX - 1), COLOURS[colour]
        if shape == "圆":
            pen.ellipse(box, fill=fill)
        elif shape == "方":
            pen.rectangle(box, fill=fill)
        elif shape == "角":
            pen.polygon([(x, y), (x, y + CELL_PX - 1), (x + CELL_PX - 1, y + CELL_PX - 1)], fill=fill)
        else:
            pen.line(box, fill=fill, width=2)
            pen.line((box[0], box[3], box[2], box[1]), fill=fill, width=2)
    return np.asarray(image)


def swap_shapes(pair: Pair) -> Pair:
    """Return the pair whose colours have each other's shape."""
    (first, second), (third, fourth) = pair
    return first + fourth, third + second


def write_caption(pair: Pair) -> str:
    """Name both objects."""
    return "和".join(pair)


def split_pairs(seed: int) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs of objects that are trained on, and a quarter of them that is judged; both with the swapped."""
    found: dict[frozenset[str], Pair] = {}
    for one, other in itertools.permutations(itertools.product(COLOURS, SHAPES), 2):
        if one[0] != other[0] and one[1] != other[1]:
            found.setdefault(frozenset((one[0] + other[0], *sorted((one[1], other[1])))), ("".join(one), "".join(other)))
    some = {}
    for pair in found.values():
        some.setdefault((frozenset(pair[0][0] + pair[1][0]), frozenset(pair[0][1] + pair[1][1])), pair)
    pairs = list(some.values())
    order = np.random.default_rng(seed).permutation(len(pairs))
    return [pairs[n] for n in order[len(order) // 4 :]], [pairs[n] for n in order[: len(order) // 4]]


def make_scene(pair: Pair, count: int, draw: np.random.Generator) -> Scene:
    """Return a scene of `count` objects, the pair among them and neither of the swapped pair."""
    kept = {*pair, *swap_shapes(pair)}
    others = [c + s for c in COLOURS for s in SHAPES if c + s not in kept]
    return pair, (*pair, *(others[n] for n in draw.permutation(len(others))[: count - 2]))


def make_batches(pairs: Sequence[Pair], tokenizer: Any, size: int, steps: int, count: int, seed: int) -> Batches:
    """Return what yields the batches of an epoch: new scenes, each beside one with the swapped pair in its place."""

    def load(epoch: int, first_step: int) -> Iterator[Batch]:
        draw = np.random.default_rng([seed, epoch])
        for _ in range(steps):
            scenes = []
            for number in draw.integers(0, len(pairs), size // 2):
                pair = pairs[number] if draw.random() < 0.5 else swap_shapes(pairs[number])
                pair = pair if draw.random() < 0.5 else pair[::-1]
                scene = make_scene(pair, count, draw)
                swapped = swap_shapes(pair)
                scenes += [scene, (swapped, (*swapped, *scene[1][2:]))]
            pixels = make_pixel_tensor([draw_scene(objects, draw) for _, objects in scenes])
            captions = [write_caption(pair) for pair, _ in scenes]
            ids, mask = tokenize(tokenizer, captions, TOKENS)
            same = {frozenset(pair): number for number, (pair, _) in enumerate(scenes)}
            equal = torch.tensor([same[frozenset(pair)] for pair, _ in scenes])
            yield Batch(pixels, ids, mask, torch.arange(size), equal)

    return load


@torch.inference_mode()
def judge(dual: Any, cross: Any, tokenizer: Any, scenes: Sequence[Scene]) -> tuple[float, float]:
    """Return how often each gives a picture's own caption more than the swapped one: by cosine, and by match."""
    draw, cosines, matches = np.random.default_rng(99), [], []
    image, tokens = dual.eval().encode_image_tokens(make_pixel_tensor([draw_scene(o, draw) for _, o in scenes]))
    for captions in ([write_caption(p) for p, _ in scenes], [write_caption(swap_shapes(p)) for p, _ in scenes]):
        ids, mask = tokenize(tokenizer, captions, TOKENS)
        vector, states = dual.encode_text_tokens(ids, mask)
        cosines.append((image * vector).sum(1))
        if cross is not None:
            matches.append(cross.eval().score_pairs(cross.compress_image(tokens), states, mask))
    own, swapped = cosines
    by_match = (matches[0] > matches[1]).float().mean().item() if matches else float("nan")
    return (own > swapped).float().mean().item(), by_match
