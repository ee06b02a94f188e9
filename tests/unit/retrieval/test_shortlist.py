"""The proof of exact search: its bounds hold, are not idle, and a smaller one would give wrong answers."""

from unittest.mock import patch

import numpy as np
import pytest
import torch

from tuwen.retrieval import search, shortlist

BELOW_HALF = np.float32(1 + 2**-8 * 0.9999)  # bf16 takes it for 1


def both_sides(queries, gallery, low=torch.bfloat16):
    return shortlist.round_vectors(torch.from_numpy(queries), low), shortlist.round_vectors(
        torch.from_numpy(gallery), low
    )


def answer(queries, gallery, **sizes):
    with patch.multiple(shortlist, **{"GROUP": 1} | sizes), patch.object(search, "has_bf16", lambda where: True):
        return search.top_k(queries, gallery, 1)[0][:, 0].tolist()


def spoilt_answer(*given, **sizes):
    """None where the search itself sees that its bound was too small."""
    try:
        return answer(*given, **sizes)
    except AssertionError:
        return None


def rows(*of):
    return np.array(of, np.float32)


@pytest.mark.parametrize("dimensions", [1, 3, 64, 512, 1000])
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float32])
def test_no_product_errs_by_more_than_the_slack(dimensions, low):
    noise = np.random.default_rng(dimensions)
    lengths = 10.0 ** noise.integers(-12, 4, size=(200, 1))
    queries = (noise.normal(size=(200, dimensions)) * lengths).astype(np.float32)
    gallery = np.concatenate([noise.normal(size=(100, dimensions)), np.abs(noise.normal(size=(100, dimensions)))])
    asked, searched = both_sides(queries, gallery.astype(np.float32), low)
    exact = asked.full.double() @ searched.full.double().T
    product = (asked.low @ searched.low.T).double()
    stored = shortlist.STORED if low == torch.bfloat16 else 0
    allowed = shortlist.compute_low_slack(asked, searched).double()[:, None] + stored * product.abs()
    assert ((exact - product).abs() <= allowed).all()
    single = (asked.full @ searched.full.T).double()
    assert ((exact - single).abs() <= shortlist.compute_single_slack(asked, searched).double()[:, None]).all()


def test_the_slack_is_no_larger_than_rounding_can_be():
    # every coordinate loses as much as it can, all in one direction: a bound of nine tenths would be wrong
    row = np.full((1, 64), BELOW_HALF)
    asked, searched = both_sides(row, row)
    exact = (asked.full.double() @ searched.full.double().T).item()
    assert (
        abs(exact - (asked.low @ searched.low.T).item())
        > 0.9 * shortlist.compute_low_slack(asked, searched).item()
    )


def test_independent_vectors_need_few_items():
    noise = np.random.default_rng(0)
    queries, gallery = (noise.normal(size=(rows, 64)).astype(np.float32) for rows in (100, 20_000))
    queries, gallery = (n / np.linalg.norm(n, axis=1, keepdims=True) for n in (queries, gallery))
    asked, searched = both_sides(queries, gallery)
    found = list(shortlist.find_shortlists(asked, searched, 10, both=False)[0])
    assert sum(part.groups for part in found) < 100 * 40
    assert 100 * 10 <= sum(len(part.item) for part in found) < 100 * 30


def test_residuals_left_out_would_be_seen():
    # The query and item 0 lose on 257 coordinates what item 1 loses nowhere: 259.01 is taken for 257, and stored
    # as 256; 259 is stored as 260.
    own, other = np.zeros(516, np.float32), np.zeros(516, np.float32)
    own[:257], other[257:] = BELOW_HALF, 1
    query, gallery = own + other, np.stack([own, other])
    assert answer(query[None], gallery) == [0]
    whole = shortlist.round_vectors

    def without(vectors, low):
        found = whole(vectors, low)
        return found._replace(lost=torch.zeros_like(found.lost))

    with patch.object(search, "round_vectors", without):
        assert spoilt_answer(query[None], gallery) != [0]


def test_storing_left_out_would_be_seen():
    # 257.0028 is taken for 256.999 and stored as 256; 257.0020 is stored as 258, which neither score reaches
    query, gallery = rows([1, 1, 1, 1]), rows([256, 0, -0.001, BELOW_HALF], [256, 1, 2**-9, 0])
    assert answer(query, gallery) == [0]
    assert spoilt_answer(query, gallery, STORED=0.0) is None


def test_a_slack_of_the_low_pass_that_is_too_small_would_be_seen():
    noise = np.random.default_rng(1)
    original = noise.normal(size=64)
    gallery = (original * (1 + 1e-3 * noise.normal(size=(300, 64)))).astype(np.float32)
    queries = noise.normal(size=(50, 64)).astype(np.float32)
    expected = (queries.astype(np.float64) @ gallery.astype(np.float64).T).argmax(axis=1).tolist()
    assert answer(queries, gallery) == expected
    whole = shortlist.compute_low_slack
    small = {
        "compute_low_slack": lambda asked, searched: whole(asked, searched) / 16,
        "STORED": shortlist.STORED / 16,
    }
    assert spoilt_answer(queries, gallery, **small) != expected


def test_a_slack_of_the_float32_products_that_is_too_small_would_be_seen():
    noise = np.random.default_rng(2)
    original = noise.normal(size=256)
    gallery = (original * (1 + 1e-7 * noise.normal(size=(300, 256)))).astype(np.float32)
    queries = noise.normal(size=(50, 256)).astype(np.float32)
    exact = (queries[:, None].astype(np.float64) * gallery).sum(axis=-1)
    expected = exact.argmax(axis=1)
    first = np.arange(50), expected, np.ones(50, np.int64)
    assert answer(queries, gallery) == expected.tolist()
    np.testing.assert_array_equal(search.rank_items(queries, gallery, *first[:2]), first[2])
    with patch.object(search, "compute_single_slack", lambda asked, searched: torch.zeros(len(asked.full))):
        assert spoilt_answer(queries, gallery) != expected.tolist()
        assert (search.rank_items(queries, gallery, *first[:2]) != first[2]).any()
