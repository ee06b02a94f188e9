"""Marked pictures move the question by Rocchio's sum, and what is unwanted is no answer."""

import json
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.support.broken import encode, landscape
from tests.support.search_client import list_ids, search
from tuwen.service.feedback import LESS_WEIGHT, MORE_WEIGHT, QUERY_WEIGHT, move_query, remove_rows
from tuwen.service.index.item_index import ItemIndex
from tuwen.service.index.store import Hits, ItemFilter

TEXT = "一个红色的圆形"
ALIKE, OTHER, CORPUS = "图03.png", "图07.png", "corpus/图05.png"
NONE = np.empty((0, 3), np.float32)


def test_a_query_goes_towards_the_mean_of_more_and_away_from_that_of_less() -> None:
    query, one, two, far = np.eye(4, dtype=np.float32)
    moved = move_query(query, np.stack([one, two]), far[None])
    due = np.array([QUERY_WEIGHT, MORE_WEIGHT / 2, MORE_WEIGHT / 2, -LESS_WEIGHT])
    assert moved == pytest.approx(due / np.linalg.norm(due), abs=1e-6)
    assert moved.dtype == np.float32


def test_marks_alone_ask_as_their_mean_and_opposites_that_cancel_out_as_the_first() -> None:
    query, one = np.zeros(3, np.float32), np.eye(3, dtype=np.float32)[:1]
    assert move_query(query, one, NONE) == pytest.approx(one[0])
    assert move_query(one[0], NONE, NONE) == pytest.approx(one[0])
    assert move_query(query, np.concatenate([one, -one]), NONE) == pytest.approx(one[0])


def test_what_is_left_out_counts_only_where_the_filter_keeps_it(built: Path) -> None:
    index = ItemIndex(built / "index")
    rows = [index.find_row("images", one) for one in (ALIKE, CORPUS)]
    assert None not in rows
    unwanted = [row for row in rows if row is not None]
    hits = Hits(np.array([unwanted[1], 1, unwanted[0]]), np.array([0.9, 0.5, 0.1], np.float32))
    for keep, gone in (
        (ItemFilter(), 2),
        (ItemFilter(values=(("source", ("art",)),)), 1),
        (ItemFilter(ranges=(("width_px", 1, 2),)), 0),
    ):
        left, total = remove_rows(index, "images", unwanted, keep, hits, 9)
        assert (left.rows.tolist(), left.cosines.tolist(), total) == ([1], [0.5], 9 - gone)


def read_vectors(built: Path, *ids: str) -> np.ndarray:
    index = ItemIndex(built / "index")
    return index.read_vectors("images", np.array([index.find_row("images", one) for one in ids]))


def test_the_service_asks_by_the_moved_vector(client: TestClient, built: Path) -> None:
    vector = np.array(client.post("/embed", json={"texts": [TEXT]}).json()["vectors"][0], np.float32)
    moved = move_query(vector, read_vectors(built, ALIKE, CORPUS), read_vectors(built, OTHER))
    cosines = np.load(built / "index/images.npy") @ moved
    found = search(client, text=TEXT, more=[ALIKE, CORPUS, ALIKE], less=[OTHER], k=36)
    scores = {answer["id"]: answer["score"] for answer in found["answers"]}
    index = ItemIndex(built / "index")
    for image_id, score in scores.items():
        assert score == pytest.approx(cosines[index.find_row("images", image_id)], abs=1e-5)
    assert {ALIKE, CORPUS} < set(scores)
    assert found["probability"] is None
    by_text = search(client, text=TEXT, more=[ALIKE], of="texts", k=3)
    due = np.sort(np.load(built / "index/texts.npy") @ move_query(vector, read_vectors(built, ALIKE), NONE))
    assert [answer["score"] for answer in by_text["answers"]] == pytest.approx(due[::-1][:3], abs=1e-5)


@pytest.mark.parametrize("asked", [{"text": TEXT}, {"image_id": "图01.png", "of": "images"}])
def test_less_does_not_come_back_on_any_page_nor_through_a_filter(
    client: TestClient, asked: dict[str, object]
) -> None:
    first, second, *_ = list_ids(search(client, **asked))
    own = len({"image_id"} & set(asked))
    whole = search(client, **asked, less=[first, second], k=36)
    assert len(whole["answers"]) == whole["total"] == 34 - own
    assert not {first, second} & set(list_ids(whole))
    pages = [search(client, **asked, less=[first, second], k=7, offset=offset) for offset in range(0, 36, 7)]
    assert [one for page in pages for one in list_ids(page)] == list_ids(whole)
    assert {page["total"] for page in pages} == {34 - own}
    art = search(client, **asked, less=[OTHER, CORPUS], filter={"source": ["art"]}, k=36)
    assert len(art["answers"]) == art["total"] == 11
    texts = search(client, **asked | {"of": "texts"}, less=[first], k=200)
    assert len(texts["answers"]) == texts["total"]


def test_marks_alone_ask_for_pictures(client: TestClient) -> None:
    found = search(client, more=[ALIKE], k=5)
    assert (found["of"], found["total"], found["probability"]) == ("images", 36, None)
    assert ALIKE in list_ids(found)[:3]  # beside the same picture in the other sets
    assert found["answers"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert search(client, more=[ALIKE], of="texts", k=5)["of"] == "texts"


def test_a_picture_of_ones_own_is_moved_as_well(client: TestClient) -> None:
    form, files = {"of": "images", "k": "36"}, {"image": ("日落.jpg", encode(landscape(), "JPEG"))}
    plain = client.post("/search", data=form, files=files).json()
    first, *_, last = list_ids(plain)
    marks = {"more": json.dumps([last]), "less": json.dumps([first])}
    moved = client.post("/search", data=form | marks, files=files).json()
    before, after = ({one["id"]: one["score"] for one in found["answers"]} for found in (plain, moved))
    assert after[last] > before[last] + 0.1
    assert set(before) - set(after) == {first}


@pytest.mark.parametrize(
    ("marks", "status", "words"),
    [
        ({"more": ["没有.png"]}, 404, "no image of this id"),
        ({"less": ["name-03"]}, 404, "no image of this id"),  # a text's
        ({"more": [ALIKE], "rerank": True}, 422, "not a vector or marks"),
        ({"less": [OTHER], "rerank": True}, 422, "not a vector or marks"),
        ({"more": [f"{n}" for n in range(21)]}, 422, "more: list should have at most 20 items"),
    ],
)
def test_what_cannot_be_marked_is_told(
    client: TestClient, marks: dict[str, object], status: int, words: str
) -> None:
    refused = client.post("/search", json={"text": TEXT} | marks)
    assert refused.status_code == status
    assert words in refused.json()["error"]["message"]
