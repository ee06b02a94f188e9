"""Made pictures of a few coloured shapes, and captions that name two of them: 红圆和蓝方.

The swapped caption (红方和蓝圆) holds the same words, and the swapped picture the same colours and shapes: to
tell them apart, a colour and a shape must be found in one place. What is trained on and what is judged are other
pairs; every object is seen in training.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from tuwen.data.formats.images import make_pixel_tensor
from tuwen.data.formats.text import tokenize
from tuwen.model.attention_map import map_attention
from tuwen.model.cross_encoder import CrossEncoder
from tuwen.model.dual_encoder import DualEncoder
from tuwen.training.loader import Batch
from tuwen.training.trainer import Batches

COLOURS = {"红": "red", "绿": "green", "蓝": "blue", "黄": "gold", "紫": "purple", "灰": "gray"}
SHAPES = "圆方角叉"  # disc, square, triangle, cross
CELL_PX, SIDE_PX, TOKENS, OBJECTS = 8, 24, 8, 4
CELLS_A_ROW = SIDE_PX // CELL_PX
Pair = tuple[str, str]  # objects, each a colour and a shape
Scene = tuple[Pair, tuple[str, ...]]  # the pair that the caption names, and all objects


def place_objects(draw: np.random.Generator) -> list[tuple[int, int]]:
    """Return a cell for each object of a scene, by row and column."""
    return [divmod(int(cell), CELLS_A_ROW) for cell in draw.permutation(CELLS_A_ROW**2)[:OBJECTS]]


def draw_scene(objects: Sequence[str], cells: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return uint8 [S, S, 3]: each object fills its cell."""
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), "white")
    pen = ImageDraw.Draw(image)
    for (colour, shape), (row, column) in zip(objects, cells, strict=True):
        left, top = CELL_PX * column, CELL_PX * row
        right, bottom, fill = left + CELL_PX - 1, top + CELL_PX - 1, COLOURS[colour]
        if shape == "圆":
            pen.ellipse((left, top, right, bottom), fill=fill)
        elif shape == "方":
            pen.rectangle((left, top, right, bottom), fill=fill)
        elif shape == "角":
            pen.polygon([(left, top), (left, bottom), (right, bottom)], fill=fill)
        else:
            pen.line((left, top, right, bottom), fill=fill, width=2)
            pen.line((left, bottom, right, top), fill=fill, width=2)
    return np.asarray(image)


def write_caption(pair: Pair) -> str:
    """Name both objects."""
    return "和".join(pair)


def swap_shapes(pair: Pair) -> Pair:
    """Return the pair in which each colour has the other one's shape."""
    (colour, shape), (other_colour, other_shape) = pair
    return colour + other_shape, other_colour + shape


def split_pairs(seed: int) -> tuple[list[Pair], list[Pair]]:
    """Return what is trained on, and a quarter that is judged; a pair stands for its swapped one too."""
    twos = itertools.product(itertools.combinations(COLOURS, 2), itertools.combinations(SHAPES, 2))
    pairs = [(one + shape, other + other_shape) for (one, other), (shape, other_shape) in twos]
    order = np.random.default_rng(seed).permutation(len(pairs))
    first = len(pairs) // 4
    return [pairs[n] for n in order[first:]], [pairs[n] for n in order[:first]]


def make_scene(pair: Pair, draw: np.random.Generator) -> Scene:
    """Return a scene that holds the pair, and neither object of the swapped one."""
    kept = {*pair, *swap_shapes(pair)}
    others = [name for name in map("".join, itertools.product(COLOURS, SHAPES)) if name not in kept]
    return pair, (*pair, *(others[n] for n in draw.permutation(len(others))[: OBJECTS - 2]))


def make_test(pairs: Sequence[Pair], times: int) -> list[Scene]:
    """Return scenes of every pair and of its swapped one, `times` of each."""
    draw = np.random.default_rng(7)
    return [make_scene(shown, draw) for pair in pairs for shown in (pair, swap_shapes(pair)) for _ in range(times)]


def make_batches(pairs: Sequence[Pair], tokenizer: Any, size: int, steps: int, seed: int) -> Batches:
    """Return what yields the batches of an epoch: new scenes, each beside one with the swapped pair."""

    def load(epoch: int, first_step: int) -> Iterator[Batch]:
        draw = np.random.default_rng([seed, epoch])
        for _ in range(steps):
            scenes: list[Scene] = []
            for number in draw.integers(0, len(pairs), size // 2):
                pair = pairs[number] if draw.random() < 0.5 else swap_shapes(pairs[number])
                scene = make_scene(pair if draw.random() < 0.5 else pair[::-1], draw)
                swapped = swap_shapes(scene[0])
                scenes += [scene, (swapped, (*swapped, *scene[1][2:]))]
            pixels = make_pixel_tensor([draw_scene(objects, place_objects(draw)) for _, objects in scenes])
            ids, mask = tokenize(tokenizer, [write_caption(pair) for pair, _ in scenes], TOKENS)
            equal = {frozenset(pair): number for number, (pair, _) in enumerate(scenes)}
            same = torch.tensor([equal[frozenset(pair)] for pair, _ in scenes])
            yield Batch(pixels, ids, mask, torch.arange(size), same)

    return load


@torch.inference_mode()
def judge(
    dual: DualEncoder, cross: CrossEncoder | None, tokenizer: Any, scenes: Sequence[Scene]
) -> tuple[float, float | None]:
    """Return how often each gives a picture's own caption more than the swapped one: by cosine, and by match."""
    draw, cosines, matches = np.random.default_rng(99), [], []
    pixels = make_pixel_tensor([draw_scene(objects, place_objects(draw)) for _, objects in scenes])
    image, tokens = dual.eval().encode_image_tokens(pixels)
    for captions in ([write_caption(p) for p, _ in scenes], [write_caption(swap_shapes(p)) for p, _ in scenes]):
        ids, mask = tokenize(tokenizer, captions, TOKENS)
        vector, states = dual.encode_text_tokens(ids, mask)
        cosines.append((image * vector).sum(1))
        if cross is not None:
            matches.append(cross.eval().score_pairs(cross.compress_image(tokens), states, mask))
    by_cosine = (cosines[0] > cosines[1]).float().mean().item()
    return by_cosine, (matches[0] > matches[1]).float().mean().item() if matches else None


def judge_maps(
    dual: DualEncoder, cross: CrossEncoder, tokenizer: Any, scenes: Sequence[Scene]
) -> tuple[float, float]:
    """Return what share of the map of an object's name lies on it, and how often the map is highest there."""
    draw, shares, highest = np.random.default_rng(99), [], []
    for pair, objects in scenes:
        cells = place_objects(draw)
        ids, mask = tokenize(tokenizer, [write_caption(pair)], TOKENS)
        with torch.inference_mode():
            image = dual.eval().encode_image_tokens(make_pixel_tensor([draw_scene(objects, cells)]))[1]
            text = dual.encode_text_tokens(ids, mask)[1]
        map_LSS = map_attention(cross.eval(), image[0].clone(), text[0].clone())
        for number, (row, column) in enumerate(cells[:2]):
            first = 1 + 3 * number  # [CLS] 红 圆 和 蓝 方
            map_SS = map_LSS[first : first + 2].mean(0)
            shares.append((map_SS[row, column] / map_SS.sum().clamp(min=1e-30)).item())
            highest.append(int(map_SS.argmax()) == row * CELLS_A_ROW + column)
    return float(np.mean(shares)), float(np.mean(highest))
