from typing import Any

import numpy as np
import pandas as pd
import pytest

from tuwen.data.quality.duplicates.components import label_components
from tuwen.data.quality.duplicates.near_duplicates import (
    NEAR_BITS,
    NEAR_COLOUR,
    find_near_images,
    number_near_clusters,
)

Array = np.ndarray[Any, Any]


def make_frame(hashes: Array, colours: Array) -> pd.DataFrame:
    rows = pd.DataFrame(colours, columns=["red", "green", "blue"])
    return rows.assign(dhash=[f"{value:016x}" for value in hashes.tolist()], blank=False)


def draw_looks(kind: str, count: int, seed: int) -> tuple[Array, Array]:
    """Return hashes and colours, a third of them changed copies; photos vary, drawings are mostly plain white."""
    draw = np.random.default_rng(seed)
    share = 0.5 if kind == "photos" else np.pad(np.full((4, 6), 0.3), [(2, 2), (1, 1)], constant_values=0.02)
    bits = draw.random((count, 8, 8)) < share
    colours = 255 - np.abs(draw.normal(0, 60 if kind == "photos" else 20, (count, 3)))
    copied = draw.integers(0, 50, count // 3)
    bits[: len(copied)], colours[: len(copied)] = bits[copied], colours[copied]
    for _ in range(4):
        flipped = draw.integers(0, 64, len(copied))
        bits.reshape(count, 64)[np.arange(len(copied)), flipped] ^= True
    colours[: len(copied)] += draw.integers(-6, 7, (len(copied), 3))
    hashes = np.packbits(bits.reshape(count, 64), axis=1).view(">u8").ravel().astype(np.uint64)
    return hashes, colours.clip(0, 255).astype(np.int64)


def compare_all(one: tuple[Array, Array], other: tuple[Array, Array]) -> Array:
    """Return whether each pair is near [N, M], by the definition."""
    bits = np.bitwise_count(one[0][:, None] ^ other[0][None])
    colour = np.abs(one[1][:, None] - other[1][None]).max(axis=2)
    near: Array = (bits <= NEAR_BITS) & (colour <= NEAR_COLOUR)
    return near


@pytest.mark.parametrize("kind", ["photos", "drawings"])
def test_the_index_finds_what_comparing_all_pairs_finds(kind: str) -> None:
    one, other = draw_looks(kind, 1500, 1), draw_looks(kind, 400, 2)
    other[0][:50], other[1][:50] = one[0][600:650] ^ np.uint64(0b10000010001), one[1][600:650]
    numbers = number_near_clusters(make_frame(*one))
    expected = label_components(1500, [np.nonzero(compare_all(one, one))])
    assert 50 < numbers.nunique() < 1500
    assert len(set(zip(numbers, expected, strict=True))) == numbers.nunique() == len(set(expected))
    near = find_near_images(make_frame(*one), make_frame(*other))
    assert near.tolist() == compare_all(one, other).any(axis=1).tolist()
    assert 50 <= near.sum() < 1500


@pytest.mark.parametrize(
    ("changes", "near"),
    [
        ({"dhash": "0123456789abcde8"}, True),  # three bits
        ({"dhash": "0123456789abcd10"}, False),  # eight
        ({"dhash": "8123456789abcd6c"}, False),  # four, far from each other
        ({"green": 42, "blue": 22}, True),
        ({"green": 43}, False),
        ({"red": 1}, False),
        ({"dhash": None}, False),
        ({"blank": True}, False),
    ],
)
def test_near_is_three_bits_and_eight_levels(changes: dict[str, Any], near: bool) -> None:
    look = {"dhash": "0123456789abcdef", "red": 10, "green": 34, "blue": 30, "blank": False}
    first, second = look, look | changes
    numbers = number_near_clusters(pd.DataFrame([first, second])).tolist()
    assert (numbers[0] == numbers[1]) is near
    assert find_near_images(pd.DataFrame([first]), pd.DataFrame([second])).tolist() == [near]


def test_near_colours_chain_and_the_order_of_rows_does_not_matter() -> None:
    rows = pd.DataFrame([{"dhash": "0f", "red": 0, "green": 0, "blue": b, "blank": False} for b in (16, 0, 8, 25)])
    numbers = number_near_clusters(rows)
    assert numbers[0] == numbers[1] == numbers[2] != numbers[3]
    turned = number_near_clusters(rows[::-1])
    assert turned[0] == turned[1] == turned[2] != turned[3]


def test_many_copies_of_one_image_are_one_cluster_and_no_images_none() -> None:
    rows = pd.DataFrame([{"dhash": "ff00", "red": 9, "green": 9, "blue": 9, "blank": False}] * 100_000)
    assert number_near_clusters(rows).nunique() == 1
    assert number_near_clusters(rows[:0]).tolist() == []
    assert find_near_images(rows[:2], rows[:0]).tolist() == [False, False]
