"""What the service answers, with a real model and index: to texts, pictures and items, and about pictures."""

import base64
import io
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.support.broken import encode, landscape
from tests.support.reranker_world import LAYERS, write_rerank_manifest
from tests.support.search_client import build_client, list_ids, search, wait_until_ready
from tests.support.search_project import CHOICES, CURVES, build_index, read_manifest
from tuwen.model.dual_encoder import load_model
from tuwen.model.reranker import make_cross_encoder, save_reranker
from tuwen.retrieval.retriever import load_retriever


def test_a_text_finds_pictures_of_this_model_and_index(client: TestClient, built: Path) -> None:
    found = search(client, text="一个红色的圆形", k=5)
    about = client.get("/about").json()
    assert (found["of"], found["total"]) == ("images", 36)
    assert found["model"] == about["model"]
    assert found["index"]["digest"] == about["index"]["digest"]
    (query,) = load_retriever(built / "models/reranked").encode_texts(["一个红色的圆形"])
    cosines = np.sort(np.load(built / "index/images.npy") @ query)[::-1]
    assert [answer["score"] for answer in found["answers"]] == pytest.approx(cosines[:5], abs=1e-5)
    assert set(found["answers"][0]) == {
        *("id", "score", "match", "rank_before", "caption", "image", "source", "category", "split"),
        *("width_px", "height_px"),
    }
    assert {"encode", "search", "total"} <= set(found["milliseconds"])


def test_it_says_how_likely_the_first_answer_is_right(client: TestClient, built: Path) -> None:
    def squash(order: str, score: float, way: str, items: int) -> float:
        curve, growth = CURVES["reranked"][order], grown[way]
        shift = growth["exponent"] * math.log(max(items, growth["gallery"]) / growth["gallery"])
        return 1 / (1 + math.exp(-(curve["slope"] * score + curve["intercept"] + shift)))

    grown = read_manifest(built / "index")["params"]["growth"]
    plain = search(client, text="一个蓝色的方形", k=1)
    due = squash("cosine", plain["answers"][0]["score"], "t2i", 36)
    assert plain["probability"] == pytest.approx(due, abs=1e-5)
    few = search(client, text="一个蓝色的方形", k=1, filter={"source": ["art"]})
    due = squash("cosine", few["answers"][0]["score"], "t2i", 12)
    assert few["probability"] == pytest.approx(due, abs=1e-5)
    for query in ({"text": "一个蓝色的方形"}, {"image_id": "图03.png"}):
        found = search(client, **query, rerank=True, k=1, offset=0)
        (first,) = found["answers"]
        weight = CHOICES["t2i" if "text" in query else "i2t"][1]
        way, items = ("t2i", 36) if "text" in query else ("i2t", 84)
        due = squash("reranked", first["match"] + weight * first["score"], way, items)
        assert found["probability"] == pytest.approx(due, abs=1e-5)
        assert search(client, **query, rerank=True, k=1, offset=3)["probability"] == found["probability"]
    assert search(client, image_id="图03.png", of="images")["probability"] is None
    assert search(client, text="猫", filter={"width_px": [1, 2]})["probability"] is None


def test_pages_follow_each_other(client: TestClient) -> None:
    whole = list_ids(search(client, text="海边的日落", k=36))
    assert len(set(whole)) == 36
    pages = [list_ids(search(client, text="海边的日落", k=10, offset=offset)) for offset in (0, 10, 20, 30, 40)]
    assert [one for page in pages for one in page] == whole


def test_a_picture_finds_texts_however_it_is_sent(client: TestClient) -> None:
    data = encode(landscape(), "JPEG")
    sent = search(client, image=base64.b64encode(data).decode(), k=3)
    assert sent["of"] == "texts"
    form = {"k": "3", "filter": '{"source": ["labelled", "art"]}', "rerank": "false"}
    uploaded = client.post("/search", data=form, files={"image": ("日落.jpg", data)})
    assert uploaded.json()["answers"] == sent["answers"]
    alike = client.post("/search", data={"of": "images"}, files={"image": ("日落.jpg", data)}).json()
    assert (alike["of"], len(alike["answers"])) == ("images", 20)


def test_an_item_of_the_index_asks_and_does_not_find_itself(client: TestClient) -> None:
    found = search(client, image_id="bank/图03.png", of="images", k=36)
    assert len(found["answers"]) == found["total"] == 35
    assert "bank/图03.png" not in list_ids(found)
    assert set(list_ids(found)[:2]) == {"图03.png", "corpus/图03.png"}  # the same picture in the other sets
    only = {"split": ["test"]}
    assert search(client, image_id="bank/图03.png", of="images", filter=only)["total"] == 12
    assert search(client, image_id="图03.png", of="images", filter=only)["total"] == 11
    texts = search(client, text_id="name-03", k=2)
    assert texts["of"] == "images"


def test_filters_leave_what_they_say(client: TestClient) -> None:
    found = search(client, text="一个红色的圆形", filter={"source": ["art"], "width_px": [100, 200]}, k=36)
    assert found["total"] == 12
    assert {answer["source"] for answer in found["answers"]} == {"art"}
    none = search(client, text="一个红色的圆形", filter={"width_px": [1, 2]})
    assert (none["total"], none["answers"]) == (0, [])


def test_re_ranking_says_what_moved(client: TestClient) -> None:
    plain = list_ids(search(client, text="一个蓝色的方形", k=36))
    found = search(client, text="一个蓝色的方形", k=36, rerank=True)
    depth, weight = CHOICES["t2i"]
    first, rest = found["answers"][:depth], found["answers"][depth:]
    assert [plain[answer["rank_before"] - 1] for answer in found["answers"]] == list_ids(found)
    scores = [answer["match"] + weight * answer["score"] for answer in first]
    assert scores == sorted(scores, reverse=True)
    assert {answer["match"] for answer in rest} == {None}
    assert list_ids(search(client, text="一个蓝色的方形", k=2, offset=1, rerank=True)) == list_ids(found)[1:3]
    picture = search(client, image_id="图03.png", rerank=True, k=4)
    assert picture["of"] == "texts"
    assert all(answer["match"] is not None for answer in picture["answers"])


def test_traditional_characters_are_folded_unless_asked_not_to(client: TestClient) -> None:
    simple = search(client, text="一个红色的圆形")["answers"]
    assert search(client, text="一個紅色的圓形")["answers"] == simple
    assert search(client, text="一個紅色的圓形", simplify=False)["answers"] != simple


def test_thumbnails_are_had_by_id_alone(client: TestClient) -> None:
    path = search(client, image_id="图01.png", of="images", k=1)["answers"][0]["image"]
    answer = client.get(path, params={"size": 160})
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(answer.content)) as picture:
        assert picture.size == (144, 144)
    again = client.get(path, params={"size": 160}, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    for outside in ("../data/clean/quality.json", "/etc/passwd", "%2e%2e/params.yaml", "没有.png"):
        assert client.get(f"/image/{outside}").status_code == 404
    # not sent on to an address made of the host that the client named
    assert client.get("/image/", follow_redirects=False).status_code == 404
    assert client.get(path, params={"size": 9999}).status_code == 422
    assert client.get(path, params={"size": "大"}).json()["error"]["code"] == "invalid"


def test_texts_and_pictures_are_embedded(client: TestClient, built: Path) -> None:
    texts = ["一个红色的圆形", "海边的日落"]
    answer = client.post("/embed", json={"texts": texts}).json()
    expected = load_retriever(built / "models/reranked").encode_texts(texts)
    assert np.array(answer["vectors"]) == pytest.approx(expected, abs=1e-5)
    image = base64.b64encode(encode(landscape(), "PNG")).decode()
    assert len(client.post("/embed", json={"images": [image]}).json()["vectors"][0]) == 16

    by_words, by_vector = {"text": texts[0]}, {"text_vector": answer["vectors"][0]}
    due, found = (list_ids(search(client, **query, k=5)) for query in (by_words, by_vector))
    assert found == due
    refused = client.post("/search", json=by_vector | {"rerank": True})
    assert (refused.status_code, "not a vector" in refused.text) == (422, True)


def test_what_is_read_in_a_picture_is_drawn_over_it(built: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(built, tmp_path / "deep"))
    model, tuned = root / "models/reranked", root / "models/finetuned"
    cross = make_cross_encoder(load_model(tuned), LAYERS | {"layers": 2})
    save_reranker(cross, tuned, model)
    write_rerank_manifest(model, tuned, "frozen")
    build_index(root)
    with build_client(root) as client:
        wait_until_ready(client)
        assert client.get("/about").json()["attention"] is True
        read = client.post("/attention", json={"image_id": "图01.png", "text": "红色的圆形和蓝色的自行车"}).json()
        assert 0 <= read["match"] <= 1
        assert "自行车" in [one["word"] for one in read["maps"]]
        kind, _, data = read["maps"][0]["image"].partition(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as drawn:
            assert drawn.size == (144, 144)
        assert client.post("/attention", json={"image_id": "没有", "text": "猫"}).status_code == 404


def test_without_maps_the_reason_is_told(client: TestClient) -> None:
    assert client.get("/about").json()["attention"] is False
    refused = client.post("/attention", json={"image_id": "图01.png", "text": "红色的圆形"})
    assert refused.status_code == 404
    assert "a map needs a re-ranker of two layers or more" in refused.json()["error"]["message"]


def test_pictures_that_moved_are_told(built: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(built / "data", tmp_path / "data"))
    with build_client(built, data=data) as client:
        wait_until_ready(client)
        for shard in data.rglob("*.tar"):
            shard.unlink()
        answer = client.get("/image/图01.png")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "picture_gone")
