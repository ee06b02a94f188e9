"""The Milvus store against a real server: where it is exact the same answers as ours, elsewhere nearly all."""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from tests.support.vectors import unit
from tuwen.core.errors import UserError
from tuwen.retrieval.quantised.codes import Codes
from tuwen.service.index import milvus
from tuwen.service.index.exact import ExactStore
from tuwen.service.index.item_index import ItemIndex
from tuwen.service.index.items import ITEM_SCHEMA
from tuwen.service.index.milvus import MilvusStore, write_expression
from tuwen.service.index.store import ItemFilter

ALL = ItemFilter()
QUOTED = '引号"和\\反斜杠'  # a source whose name would end a string of an expression
FILTERS = [
    ALL,
    ItemFilter(values=(("source", ("网图",)),)),
    ItemFilter(values=(("source", (QUOTED, "网图")), ("split", ("test",)))),
    ItemFilter(ranges=(("width_px", 0, 9),)),  # a width that is unknown lies in no range
    ItemFilter(values=(("source", ("无",)),)),
]


class MadeIndex:
    """Independent vectors, and items of three sources."""

    def __init__(self, count: int, digest: str, **store: Any) -> None:
        draw = np.random.default_rng(3)
        vectors = unit(draw.normal(size=(count, 32)))
        self.codes = {"images": Codes(vectors), "texts": Codes(vectors[: count // 2])}
        rows = [
            {
                **{"id": str(n), "source": ("art", "网图", QUOTED)[n % 3], "split": ("test", "train")[n % 2]},
                **{"width_px": None if n == 6 else n % 40, "height_px": 3, "caption_chars": n % 9},
            }
            for n in range(count)
        ]
        self.tables = {
            side: pa.Table.from_pylist(rows[: len(own.values)], ITEM_SCHEMA) for side, own in self.codes.items()
        }
        self.digest, self.params = digest, {"store": {"kind": "milvus", "shards": 1, "partitions": 1, **store}}


def open_milvus(made: MadeIndex) -> MilvusStore:
    return MilvusStore(cast(ItemIndex, made))


@pytest.fixture(scope="module")
def queries() -> Any:
    return unit(np.random.default_rng(9).normal(size=(20, 32)))


@pytest.mark.parametrize("layout", [{"shards": 1, "partitions": 1}, {"shards": 2, "partitions": 8}])
def test_flat_answers_as_our_own_exact_search(queries: Any, layout: dict[str, int]) -> None:
    made = MadeIndex(2500, f"f1a7{layout['shards']}" * 4, index="FLAT", **layout)
    store, exact = open_milvus(made), ExactStore(cast(ItemIndex, made))
    for side in ("images", "texts"):
        for keep in FILTERS:
            assert store.count(side, keep) == exact.count(side, keep), keep
            for mine, due in zip(
                store.search(side, queries, 10, keep), exact.search(side, queries, 10, keep), strict=True
            ):
                assert mine.rows.tolist() == due.rows.tolist(), keep
                assert mine.cosines.tolist() == due.cosines.tolist()


@pytest.mark.parametrize("kind", ["HNSW", "IVF_FLAT"])
def test_approximate_indexes_find_nearly_all(queries: Any, kind: str) -> None:
    made = MadeIndex(5000, f"{kind.lower().replace('_', '')}00000000000000", index=kind)
    store, exact = open_milvus(made), ExactStore(cast(ItemIndex, made))
    found, due = (one.search("images", queries, 10, ALL) for one in (store, exact))
    recall = np.mean([np.isin(own.rows, hits.rows).mean() for hits, own in zip(found, due, strict=True)])
    assert recall > (0.95 if kind == "HNSW" else 0.8)


def test_what_was_killed_goes_on_and_what_is_there_is_not_brought_again(
    queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = MadeIndex(2300, "deadbeef00000000", index="FLAT")
    brought: list[slice] = []
    whole = MilvusStore._list_rows

    def list_rows(self: MilvusStore, side: str, rows: slice) -> Iterator[dict[str, Any]]:
        if side == "images":
            brought.append(rows)
            if len(brought) == 2:
                yield from list(whole(self, side, rows))[:300]
                return
            if len(brought) == 3:
                raise KeyboardInterrupt
        yield from whole(self, side, rows)

    monkeypatch.setattr(MilvusStore, "_list_rows", list_rows)
    with pytest.raises(KeyboardInterrupt):
        open_milvus(made)  # a batch and a part of the next are there
    store = open_milvus(made)
    assert [rows.start for rows in brought] == [0, 1000, 2000, 1000, 2000]
    exact = ExactStore(cast(ItemIndex, made))
    due = [hits.rows.tolist() for hits in exact.search("images", queries, 10, ALL)]
    assert [hits.rows.tolist() for hits in store.search("images", queries, 10, ALL)] == due
    open_milvus(made)
    assert len(brought) == 5


def test_the_alias_leads_to_the_newest_index_and_what_it_left_is_dropped(server: str) -> None:
    from pymilvus import MilvusClient

    client = MilvusClient(uri=server)
    old = open_milvus(MadeIndex(200, "01d0000000000000", index="FLAT"))
    old.take_over()
    assert client.describe_alias("tuwen_images")["collection_name"] == "tuwen_images_01d0000000000000"
    new = open_milvus(MadeIndex(300, "2ee0000000000000", index="FLAT"))
    assert client.describe_alias("tuwen_images")["collection_name"] == "tuwen_images_01d0000000000000"
    new.take_over()
    assert client.describe_alias("tuwen_images")["collection_name"] == "tuwen_images_2ee0000000000000"
    old.drop()
    assert not client.has_collection("tuwen_images_01d0000000000000")
    new.drop()  # the service stops: its index stays for the next start
    assert client.has_collection("tuwen_images_2ee0000000000000")


def test_a_collection_with_too_many_rows_is_made_anew(server: str, queries: Any) -> None:
    from pymilvus import MilvusClient

    made = MadeIndex(200, "2a2a000000000000", index="FLAT")
    store = open_milvus(made)
    store.take_over()
    client, name = MilvusClient(uri=server), "tuwen_images_2a2a000000000000"
    client.insert(name, list(store._list_rows("images", slice(0, 50))))
    client.flush(name)
    again = open_milvus(made)
    again.take_over()
    due = ExactStore(cast(ItemIndex, made)).search("images", queries, 10, ALL)
    assert [hits.rows.tolist() for hits in again.search("images", queries, 10, ALL)] == [
        hits.rows.tolist() for hits in due
    ]
    assert client.describe_alias("tuwen_images")["collection_name"] == name


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    made = MadeIndex(10, "0123456789abcdef", index="FLAT")
    monkeypatch.delenv("TUWEN_MILVUS_URI")
    with pytest.raises(UserError, match=r"index\.store\.kind is milvus: set TUWEN_MILVUS_URI"):
        open_milvus(made)
    monkeypatch.setenv("TUWEN_MILVUS_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(milvus, "CONNECT_SECONDS", 1)
    with pytest.raises(UserError, match=r"TUWEN_MILVUS_URI: Milvus at http://127\.0\.0\.1:9 says"):
        open_milvus(made)


def test_an_expression_names_every_value_as_a_string_of_its_own() -> None:
    keep = ItemFilter(values=(("source", ('"] or row >= 0 or source in ["',)),), ranges=(("width_px", 2, 5),))
    assert write_expression(keep) == (
        'source in ["\\"] or row >= 0 or source in [\\""] and (width_px >= 2 and width_px <= 5)'
    )
    assert write_expression(ALL) == ""
