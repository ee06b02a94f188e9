"""The search service as a process: what it does with any body, under load, with a new model, when killed."""

import asyncio
import base64
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.broken import encode, landscape
from tests.support.ports import free_ports
from tests.support.search_process import SearchService, serving_searches
from tests.support.search_project import EMBED, build_index, build_search_project
from tuwen.data.formats import manifest
from tuwen.model.dual_encoder import load_model, read_vocabulary, save_model
from tuwen.retrieval.embed import embed_set

TOKEN = "geheim, und lang genug"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
CLIENTS, SEARCHES = 8, 400  # under load, while models are swapped
QUERY = "一个红色的圆形"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = build_search_project(tmp_path_factory.mktemp("search"), reranked=False)
    build_index(root)
    return root


@pytest.fixture(scope="module")
def service(project: Path) -> Any:
    with serving_searches(project) as service:
        yield service


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
WORDS = st.text(st.characters(), max_size=30) | st.sampled_from(["图01.png", "海边的日落", "\ud83d", "\0", ""])
FILTERS = st.fixed_dictionaries(
    {},
    optional={
        "source": st.lists(WORDS, max_size=2) | JSON,
        "width_px": st.lists(st.integers(), max_size=3) | JSON,
        "caption_chars": st.lists(st.integers(0, 100), min_size=2, max_size=2),
        "colour": JSON,
    },
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "text": WORDS | JSON,
        "image": WORDS | st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode()),
        "image_id": WORDS,
        "text_id": WORDS,
        "more": st.lists(WORDS, max_size=3) | JSON,
        "less": st.lists(WORDS, max_size=25) | JSON,
        "of": st.sampled_from(["images", "texts", "videos", None]),
        "k": st.integers() | JSON,
        "offset": st.integers(),
        "filter": FILTERS | JSON,
        "rerank": st.booleans() | JSON,
        "simplify": st.booleans(),
    },
)
ANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@ANY
@given(
    body=BODIES | JSON, path=st.sampled_from(["/search", "/search", "/search", "/embed", "/attention", "/session"])
)
def test_no_body_brings_it_down(service: SearchService, body: Any, path: str) -> None:
    answer = httpx.post(
        f"{service.address}{path}",
        content=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
        timeout=60,
    )
    assert answer.status_code in (200, 204, 404, 422), answer.text
    assert answer.status_code < 400 or set(answer.json()["error"]) == {"code", "message"}


@ANY
@given(
    content=st.binary(max_size=200),
    kind=st.sampled_from(
        ["application/json", "multipart/form-data; boundary=x", "multipart/form-data", "text/plain"]
    ),
    path=st.sampled_from(["/search", "/embed"]),
)
def test_no_bytes_bring_it_down(service: SearchService, content: bytes, kind: str, path: str) -> None:
    answer = httpx.post(f"{service.address}{path}", content=content, headers={"content-type": kind}, timeout=60)
    assert answer.status_code in (415, 422), answer.text


@ANY
@given(name=st.text(min_size=1, max_size=40), size=st.integers() | st.text(max_size=5))
def test_no_name_of_a_picture_opens_a_file(service: SearchService, name: str, size: Any) -> None:
    try:
        answer = httpx.get(f"{service.address}/image/{name}", params={"size": size}, timeout=60)
    except (httpx.InvalidURL, UnicodeEncodeError):
        return
    assert answer.status_code in (404, 422), answer.text


def test_many_at_once_are_answered_as_one_is(service: SearchService) -> None:
    texts = [QUERY, "海边的日落", "画里的东西是绿色的", "一个蓝色的方形"] * 8
    alone = {text: service.search(text=text, k=5).json()["answers"] for text in set(texts)}

    async def ask() -> list[Any]:
        async with httpx.AsyncClient(timeout=60) as client:
            asked = [client.post(f"{service.address}/search", json={"text": text, "k": 5}) for text in texts]
            return [answer.json()["answers"] for answer in await asyncio.gather(*asked)]

    for text, answers in zip(texts, asyncio.run(ask()), strict=True):
        assert [one["id"] for one in answers] == [one["id"] for one in alone[text]]
    counted = httpx.get(f"{service.address}/metrics").text
    sizes = {
        line.split()[0]: float(line.split()[1])
        for line in counted.splitlines()
        if "batch_queries_" in line and line[0] != "#"
    }
    assert sizes["tuwen_search_batch_queries_sum"] > sizes["tuwen_search_batch_queries_count"]


def test_it_ends_in_order_with_what_is_under_way(project: Path) -> None:
    with serving_searches(project, batch_wait_ms=900) as service:

        async def ask_and_stop() -> tuple[int, int]:
            async with httpx.AsyncClient(timeout=60) as client:
                picture = base64.b64encode(encode(landscape(), "PNG")).decode()
                asking = asyncio.create_task(client.post(f"{service.address}/search", json={"image": picture}))
                while not await is_in_window(client, service):
                    await asyncio.sleep(0.05)
                ended = await asyncio.to_thread(service.stop)
                return (await asking).status_code, ended

        status, ended = asyncio.run(ask_and_stop())
    assert status == 200
    assert ended in (0, -signal.SIGTERM)
    assert "Traceback" not in service.read_log()


async def is_in_window(client: httpx.AsyncClient, service: SearchService) -> bool:
    """Whether the one query, by a picture, is decoded, and so waits for others to be computed with."""
    counted = (await client.get(f"{service.address}/metrics")).text
    return 'tuwen_search_stage_seconds_count{stage="decode"} 1.0' in counted


def test_killed_it_comes_again_with_the_index_whole(project: Path) -> None:
    before = manifest.hash_path(project / "index")
    files = {path.name: manifest.hash_file(path) for path in (project / "index").iterdir()}
    with serving_searches(project) as service:
        first = service.search(text=QUERY).json()
        assert service.stop(signal.SIGKILL) == -signal.SIGKILL
    assert {path.name: manifest.hash_file(path) for path in (project / "index").iterdir()} == files
    with serving_searches(project) as service:
        again = service.search(text=QUERY).json()
    assert again["answers"] == first["answers"]
    assert again["index"]["digest"] == before


def retrain(root: Path, step: float) -> None:
    """Give the project another model, as a training does, and its vectors; the index is left as it is."""
    model = root / "models/finetuned"
    dual = load_model(model)
    torch.manual_seed(int(1000 * step))
    with torch.no_grad():
        for parameter in dual.parameters():
            parameter += step * torch.randn_like(parameter)
    save_model(dual, model, read_vocabulary(model))
    manifest.write_manifest(model, {}, {"step": step})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in ("valid", "test", "bank"):
            out = Path("embeddings/finetuned") / name
            shutil.rmtree(out)
            embed_set(Path("models/finetuned"), Path("data/clean") / name, out, EMBED)


def test_a_new_model_takes_over_without_a_failed_request(project: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(project, tmp_path / "project"))
    with serving_searches(root, token=TOKEN) as service:
        assert httpx.post(f"{service.address}/reload").status_code == 401
        seen: list[tuple[int, str]] = []

        async def search(client: httpx.AsyncClient) -> None:
            for _ in range(SEARCHES // CLIENTS):
                answer = await client.post(f"{service.address}/search", json={"text": QUERY, "k": 3})
                seen.append((answer.status_code, answer.json()["model"]["digest"]))

        async def swap(client: httpx.AsyncClient) -> list[int]:
            statuses = []
            for step in (0.05, 0.1):
                await asyncio.to_thread(retrain, root, step)
                refused = await client.post(f"{service.address}/reload")  # the index is of the model before
                await asyncio.to_thread(build_index, root)
                taken = await client.post(f"{service.address}/reload")
                statuses += [refused.status_code, taken.status_code]
            return statuses

        async def run() -> list[int]:
            async with httpx.AsyncClient(timeout=120, headers=BEARER) as client:
                swapping = asyncio.create_task(swap(client))
                while not swapping.done():
                    await asyncio.gather(*(search(client) for _ in range(CLIENTS)))
                await search(client)  # a round may end in the very moment of the last swap
                return await swapping

        assert asyncio.run(run()) == [409, 200, 409, 200]
        assert {status for status, _ in seen} == {200}
        assert len({digest for _, digest in seen}) == 3
        counted = httpx.get(f"{service.address}/metrics", headers=BEARER).text
        assert 'tuwen_search_swaps_total{outcome="taken"} 3.0' in counted
        assert 'tuwen_search_swaps_total{outcome="refused"} 2.0' in counted


def test_an_index_whose_vectors_are_not_the_models_is_refused(project: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(project, tmp_path / "project"))
    vectors = np.load(root / "index/texts.npy")
    np.save(root / "index/texts.npy", np.roll(vectors, 1, axis=0))  # whole by its manifest, and wrong all the same
    body = json.loads((root / "index/manifest.json").read_text())
    body["files"]["texts.npy"] = manifest.hash_file(root / "index/texts.npy")
    (root / "index/manifest.json").write_text(json.dumps(body))
    service = SearchService(root, free_ports(1)[0])
    assert service.wait(120) == 1
    assert "another vector than the index has" in service.read_log()


def test_a_picture_is_searched_by_a_form(service: SearchService) -> None:
    files = {"image": ("日落.jpg", encode(landscape(), "JPEG"), "image/jpeg")}
    answer = httpx.post(f"{service.address}/search", files=files, data={"k": "2"}, timeout=60)
    assert [len(answer.json()["answers"]), answer.json()["of"]] == [2, "texts"]


def test_entries_of_the_log_have_a_level_and_an_error_among_them_fails_a_test(project: Path) -> None:
    def report_an_error() -> None:
        with serving_searches(project) as service:
            entry = service.read_log().splitlines()[-1]
            assert " INFO tuwen." in entry, entry
            with service.log.open("a") as log:
                log.write(entry.partition(" INFO ")[0] + " ERROR tuwen.service.gatekeeper the disk is gone\n")

    with pytest.raises(AssertionError, match="the disk is gone"):
        report_an_error()
