"""The exact store answers as a plain sort of all cosines does, under any filter, in any batch."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.support.vectors import unit
from tuwen.retrieval.quantised.codes import Dtype, decode_vectors, encode_vectors
from tuwen.retrieval.quantised.search import find_candidates
from tuwen.retrieval.search import top_k
from tuwen.service.index import exact, first_pass
from tuwen.service.index.exact import ExactStore
from tuwen.service.index.item_index import ItemIndex
from tuwen.service.index.items import ITEM_SCHEMA
from tuwen.service.index.store import ItemFilter, Store

ALL = ItemFilter()


class MadeIndex:
    """Vectors with near-copies and ties, and items of two sources and many widths."""

    def __init__(self, count: int, dtype: Dtype = "float32") -> None:
        draw = np.random.default_rng(0)
        vectors = unit(draw.normal(size=(count, 64)))
        vectors[1::3] = vectors[::3][: len(vectors[1::3])]  # equal ones
        near = unit(vectors[::3] + 1e-7 * draw.normal(size=vectors[::3].shape))
        vectors[2::3] = near[: len(vectors[2::3])]
        self.vectors = {"images": vectors, "texts": vectors[:5]}
        self.codes = {side: encode_vectors(own, dtype) for side, own in self.vectors.items()}
        rows = [
            {"id": str(n), "source": "网图" if n % 50 == 0 else "art", "width_px": None if n == 7 else n % 40}
            for n in range(count)
        ]
        self.tables = {
            "images": pa.Table.from_pylist(rows, ITEM_SCHEMA),
            "texts": pa.Table.from_pylist(rows[:5], ITEM_SCHEMA),
        }


@pytest.fixture(scope="module")
def made() -> MadeIndex:
    return MadeIndex(900)


@pytest.fixture(params=["avx512_vnni", "avx2", "none"])
def first(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of the first pass as a processor has them that knows these instructions alone."""
    has = torch.cpu.get_capabilities().get(request.param, False)
    if not has and request.param != "none":
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {request.param: has})


@pytest.fixture
def store(made: MadeIndex, first: None) -> Store:
    return ExactStore(cast(ItemIndex, made))


def sort_plainly(vectors: Any, query: Any, rows: Any, k: int) -> list[int]:
    score = (query.astype(np.float64) * vectors[rows]).sum(axis=1)
    return [int(rows[place]) for place in np.lexsort((rows, -score))[:k]]


@pytest.mark.parametrize(
    ("keep", "is_kept"),
    [
        (ALL, lambda n: True),
        (ItemFilter(values=(("source", ("网图",)),)), lambda n: n % 50 == 0),
        (ItemFilter(values=(("source", ("网图", "art")),)), lambda n: True),
        (ItemFilter(ranges=(("width_px", 0, 30),)), lambda n: n % 40 <= 30 and n != 7),
        (
            ItemFilter((("source", ("art",)),), (("width_px", 5, 9),)),
            lambda n: n % 50 and 5 <= n % 40 <= 9 and n != 7,
        ),
        (ItemFilter(values=(("category", ("动物",)),)), lambda n: False),
    ],
)
@pytest.mark.parametrize("k", [1, 7, 2000])
def test_hits_are_those_of_a_plain_sort(
    made: MadeIndex, store: Store, keep: ItemFilter, is_kept: Any, k: int
) -> None:
    vectors = made.vectors["images"]
    queries = np.concatenate([vectors[[0, 4]], unit(np.random.default_rng(1).normal(size=(3, 64)))])
    rows = np.array([n for n in range(900) if is_kept(n)], np.int64)
    assert store.count("images", keep) == len(rows)
    for query, hits in zip(queries, store.search("images", queries, k, keep), strict=True):
        assert hits.rows.tolist() == sort_plainly(vectors, query, rows, k)
        assert np.allclose(hits.cosines, vectors[hits.rows] @ query, atol=1e-6)


def test_a_query_has_the_same_answers_in_every_batch(
    made: MadeIndex, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = unit(np.random.default_rng(2).normal(size=(33, 64)))
    together = store.search("images", queries, 10, ALL)
    monkeypatch.setattr(first_pass, "BLOCK_ROWS", 64)
    monkeypatch.setattr(exact, "PASS_SCORES", 900 * 4)
    for number, hits in enumerate(store.search("images", queries, 10, ALL)):
        (alone,) = store.search("images", queries[number : number + 1], 10, ALL)
        for one in (alone, together[number]):
            assert one.rows.tolist() == hits.rows.tolist()
            assert one.cosines.tobytes() == hits.cosines.tobytes()
    rows, cosines = top_k(queries, made.vectors["images"], 10)
    assert [hits.rows.tolist() for hits in together] == rows.tolist()
    assert np.array_equal(np.stack([hits.cosines for hits in together]), cosines)


@pytest.mark.parametrize("dtype", ["float16", "int8", "binary"])
@pytest.mark.usefixtures("first")
def test_fewer_bytes_are_searched_exactly_over_what_is_kept(dtype: Dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    made, draw = MadeIndex(900, dtype), np.random.default_rng(1)
    codes, queries = made.codes["images"], unit(draw.normal(size=(3, 64)))
    monkeypatch.setattr(first_pass, "BLOCK_ROWS", 64)
    monkeypatch.setattr(exact, "LEAST_CANDIDATES", 50)
    store = ExactStore(cast(ItemIndex, made))
    for keep, rows in (
        (ALL, np.arange(900)),
        (ItemFilter(values=(("source", ("网图",)),)), np.arange(0, 900, 50)),
        (ItemFilter(values=(("source", ("art",)),)), np.array([n for n in range(900) if n % 50])),
    ):
        for query, hits in zip(queries, store.search("images", queries, 7, keep), strict=True):
            near = rows
            if codes.signs is not None:
                near = rows[find_candidates(query[None], codes.signs[:, rows], min(50, len(rows)))[0]]
            assert hits.rows.tolist() == sort_plainly(decode_vectors(codes), query, np.sort(near), 7)
            assert np.allclose(hits.cosines, decode_vectors(codes, hits.rows) @ query, atol=1e-6)
    none = ItemFilter(values=(("category", ("动物",)),))
    assert [len(hits.rows) for hits in store.search("images", queries, 7, none)] == [0, 0, 0]


def test_an_index_on_disk_is_searched_where_it_lies(built: Path) -> None:
    index = ItemIndex(built / "index")
    store = ExactStore(index)
    (hits,) = store.search("images", np.asarray(index.codes["texts"].values[:1]), 3, ALL)
    rows, _ = top_k(np.asarray(index.codes["texts"].values[:1]), np.asarray(index.codes["images"].values), 3)
    assert hits.rows.tolist() == rows[0].tolist()
    only = ItemFilter(values=(("source", ("art",)),))
    assert store.count("texts", only) == 28
    store.drop()
