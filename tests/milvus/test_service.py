"""`python -m tuwen.service` over an index whose store is Milvus answers as over ours, and stops in order."""

import signal
from pathlib import Path
from typing import Any

import httpx

from tests.support.search_process import SearchService, serving_searches
from tests.support.search_project import INDEX, build_index, build_search_project
from tuwen.core.params.index import Milvus

TOKEN = "geheim, und lang genug"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
IN_MILVUS = INDEX.model_copy(update={"store": Milvus(kind="milvus", index="FLAT", shards=1, partitions=4)})
QUESTIONS: list[dict[str, Any]] = [
    {"text": "一个红色的圆形", "k": 10},
    {"text": "一个红色的圆形", "of": "texts", "k": 10},
    {"text": "蓝色的方块", "filter": {"source": ["art"]}, "k": 10},
    {"text": "蓝色的方块", "filter": {"split": ["test"], "caption_chars": [1, 9]}, "k": 10, "offset": 1},
    {"text": "海边的日落", "filter": {"source": ["无"]}},
]


def ask(service: SearchService, question: dict[str, Any]) -> tuple[int, list[tuple[str, float]]]:
    """Return how many items the filter keeps, and id and score of each answer."""
    body = (
        httpx.post(f"{service.address}/search", json=question, headers=BEARER, timeout=60)
        .raise_for_status()
        .json()
    )
    return body["total"], [(one["id"], one["score"]) for one in body["answers"]]


def test_a_service_goes_over_to_milvus_and_answers_as_before(tmp_path: Path, server: str) -> None:
    from pymilvus import MilvusClient

    root = build_search_project(tmp_path, reranked=False)
    build_index(root)
    with serving_searches(root, token=TOKEN) as service:
        due = [ask(service, question) for question in QUESTIONS]
        assert [len(answers) for _, answers in due[:2]] == [10, 10]
        build_index(root, IN_MILVUS)
        swapped = httpx.post(f"{service.address}/reload", headers=BEARER, timeout=300).raise_for_status().json()
        digest = swapped["index"]["digest"]
        client, name = MilvusClient(uri=server), f"tuwen_images_{digest[:16]}"
        assert client.describe_alias("tuwen_images")["collection_name"] == name
        assert [ask(service, question) for question in QUESTIONS] == due
        assert service.stop() == -signal.SIGTERM
        assert "not closed in order" not in service.read_log()
    with serving_searches(root, token=TOKEN) as again:  # brings nothing there: all rows stand
        assert [ask(again, question) for question in QUESTIONS] == due
    assert client.describe_alias("tuwen_images")["collection_name"] == name
