import numpy as np
import pandas as pd
import pytest

from tuwen.data.quality.duplicates import components
from tuwen.data.quality.duplicates.components import (
    Edges,
    join_within,
    label_by_keys,
    label_components,
    number_keys,
)


def make_edges(*edges: tuple[int, int]) -> Edges:
    ends = np.array(edges, np.int64).reshape(-1, 2)
    return ends[:, 0], ends[:, 1]


def test_chains_of_edges_make_one_component_and_lone_nodes_their_own() -> None:
    labels = label_components(7, [make_edges((4, 2), (2, 6)), make_edges((6, 1))])
    assert labels.tolist() == [0, 1, 1, 2, 1, 3, 1]


def test_no_edges_and_no_nodes() -> None:
    assert label_components(3, []).tolist() == [0, 1, 2]
    assert label_components(0, []).tolist() == []


@pytest.mark.parametrize("limit", [0, 1, 7, 1000])
def test_how_many_edges_are_held_decides_nothing(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    draw = np.random.default_rng(0)
    parts = [(draw.integers(0, 300, 20), draw.integers(0, 300, 20)) for _ in range(12)]
    expected = label_components(300, parts)
    assert 20 < expected.max() < 200
    monkeypatch.setattr(components, "MAX_KEPT_EDGES", limit)
    assert label_components(300, iter(parts)).tolist() == expected.tolist()


def test_equal_keys_of_any_kind_join_rows() -> None:
    groups = pd.Series(["猫", None, "狗", "猫", None, None])
    digests = pd.Series(["a", "b", "b", "c", "c", None])
    labels = label_by_keys(6, [number_keys(groups), number_keys(digests)])
    assert labels.tolist() == [0, 1, 1, 0, 0, 2]


def test_rows_without_a_key_have_no_number() -> None:
    rows, numbers = number_keys(pd.Series(["猫", None, "狗", "猫"]))
    assert rows.tolist() == [0, 2, 3]
    assert numbers.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("largest", "firsts"), [(6, [0, 0, 0, 0, 0, 0]), (5, [0, 0, 0, 0, 4, 5]), (3, [0, 0, 2, 2, 4, 5])]
)
def test_keys_of_low_numbers_join_first_and_none_beyond_the_largest_size(largest: int, firsts: list[int]) -> None:
    keys = np.array([0, 2, 3, 4, 5]), np.array([0, 0, 1, 1, 1])
    labels = join_within(np.array([0, 0, 2, 2, 4, 5]), keys, largest).tolist()
    assert [labels.index(label) for label in labels] == firsts
