"""An engine answers queries that came together as if each had come alone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.support.search_project import CHOICES
from tests.unit.service.test_packed_text import needs_units
from tuwen.core.errors import UserError
from tuwen.data.formats import shards
from tuwen.retrieval.lookup import find_answers
from tuwen.retrieval.retriever import load_retriever, read_square
from tuwen.service.engine import Engine, Query
from tuwen.service.index.item_index import ItemIndex
from tuwen.service.index.store import Hits, ItemFilter

ALL = ItemFilter()
ART = ItemFilter(values=(("source", ("art",)),))


@pytest.fixture(scope="module")
def engine(built: Path) -> Engine:
    return Engine(built / "models/reranked", "reranked", "7", ItemIndex(built / "index"), built / "data")


def ids(engine: Engine, side: str, hits: Hits) -> list[str]:
    return [engine.index.read_row(side, int(row))["id"] for row in hits.rows]


def read_picture(engine: Engine, image_id: str) -> np.ndarray:
    row = engine.index.find_row("images", image_id)
    assert row is not None
    place = shards.Place.of(engine.index.read_row("images", row))
    return read_square((image_id, shards.read_member(engine.data, place)), engine.picture_rule)


def test_a_mixed_batch_is_answered_as_its_queries_alone(engine: Engine) -> None:
    square, vector = read_picture(engine, "图03.png"), engine.index.read_vectors("texts", np.array([5]))[0]
    queries = [
        Query("一个红色的圆形", "images", 5, ALL),
        Query(square, "texts", 3, ALL),
        Query("海边的日落", "images", 2, ART),
        Query(vector, "images", 0, ALL),
        Query("画里的东西是绿色的", "texts", 40, ALL),
    ]
    together = engine.answer(queries)
    assert [len(answer.hits.rows) for answer in together] == [5, 3, 2, 0, 40]
    for query, answer in zip(queries, together, strict=True):
        (alone,) = engine.answer([query])
        assert ids(engine, query.of, answer.hits) == ids(engine, query.of, alone.hits)
        assert answer.vector == pytest.approx(alone.vector, abs=1e-5)
    assert all(one.startswith("corpus/") for one in ids(engine, "images", together[2].hits))
    assert np.array_equal(together[3].vector, vector)


def test_it_finds_what_the_library_finds(engine: Engine, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built)
    bank = ItemFilter(values=(("split", ("train",)),))
    (answer,) = engine.answer([Query("一个蓝色的方形", "images", 12, bank)])
    found = find_answers("一个蓝色的方形", Path("models/reranked"), "bank", 12, rerank=True)
    depth = CHOICES["t2i"][0]
    first = Hits(answer.hits.rows[:depth], answer.hits.cosines[:depth])
    order, match, _ = engine.reorder("t2i", "一个蓝色的方形", first)
    names = ids(engine, "images", answer.hits)
    moved = [*(names[place] for place in order), *names[depth:]]
    assert [name.removeprefix("bank/") for name in moved] == [one.id for one in found]
    assert match[order] == pytest.approx([one.match for one in found[:depth]], abs=1e-4)


@pytest.mark.parametrize("make_query", [read_picture, lambda engine, name: engine.index.read_row("images", 3)])
def test_texts_are_reordered_for_a_picture_however_it_is_given(
    engine: Engine, make_query: Callable[[Engine, str], object]
) -> None:
    (answer,) = engine.answer([Query(read_picture(engine, "图03.png"), "texts", 4, ALL)])
    order, match, score = engine.reorder("i2t", make_query(engine, "图03.png"), answer.hits)
    assert score == pytest.approx(match[order])
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    assert (np.diff(match[order]) <= 0).all()  # the weight of the cosine is 0 in this direction


def test_an_index_of_another_model_is_refused(built: Path) -> None:
    with pytest.raises(UserError, match="an index of another model"):
        Engine(built / "models/finetuned", "finetuned", None, ItemIndex(built / "index"), built / "data")


def test_texts_become_the_vectors_of_the_library(engine: Engine, built: Path) -> None:
    texts = ["一个红色的圆形", "海边的日落"]
    expected = load_retriever(built / "models/reranked").encode_texts(texts)
    assert engine.encode(texts) == pytest.approx(expected, abs=1e-6)
    assert engine.fold("蘋果樹下的貓") == "苹果树下的猫"


def test_several_threads_are_answered_at_once_as_each_alone(engine: Engine) -> None:
    batches = [[Query("红" * length, "images", 3, ALL), Query("圆", "texts", 2, ART)] for length in (1, 3, 9, 20)]
    alone = [engine.answer(batch) for batch in batches]
    with ThreadPoolExecutor(len(batches)) as threads:
        for _ in range(25):
            for answers, expected in zip(threads.map(engine.answer, batches), alone, strict=True):
                for one, other in zip(answers, expected, strict=True):
                    assert np.array_equal(one.vector, other.vector)
                    assert np.array_equal(one.hits.rows, other.hits.rows)


@needs_units
def test_in_bf16_a_search_is_nearly_as_in_float32_and_a_vector_alone_is_the_librarys(built: Path) -> None:
    index = ItemIndex(built / "index")
    quick = Engine(built / "models/reranked", "reranked", "7", index, built / "data", "bf16")
    texts = ["一个红色的圆形", "海边的日落"]
    expected = load_retriever(built / "models/reranked").encode_texts(texts)
    embedded = quick.answer([Query(text, "images", 0, ALL) for text in texts])
    assert np.stack([answer.vector for answer in embedded]) == pytest.approx(expected, abs=1e-6)
    searched = np.stack(
        [answer.vector for answer in quick.answer([Query(text, "images", 3, ALL) for text in texts])]
    )
    assert ((searched * expected).sum(axis=1) > 0.999).all()
    assert not np.allclose(searched, expected, atol=1e-6)
