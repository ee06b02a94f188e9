"""Requests made from the service's own OpenAPI schema, such as it allows and such as it forbids (schemathesis)."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from tests.support.search_process import serving_searches
from tests.support.search_project import build_index, build_search_project

EXPECTED = {200, 204, 304, 400, 403, 404, 405, 413, 415, 422}  # 403: POST /reload of a service without a token


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[GenerationMode, Any]]:
    """Strategies of requests to a running service: right ones and wrong ones."""
    root = build_search_project(tmp_path_factory.mktemp("search"), reranked=False)
    build_index(root)
    with serving_searches(root) as service:
        schema = schemathesis.openapi.from_url(f"{service.address}/openapi.json")
        yield {mode: schema.as_strategy(generation_mode=mode) for mode in GenerationMode}


# Not by schemathesis' own decorator: that of 4.32 writes to what pytest 9.2 does not have.
@pytest.mark.parametrize("mode", GenerationMode)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_what_the_schema_allows_and_what_it_forbids_gets_an_answer(
    requests: dict[GenerationMode, Any], mode: GenerationMode, data: st.DataObject
) -> None:
    answer = data.draw(requests[mode]).call(timeout=60)
    assert answer.status_code in EXPECTED, answer.text
    if answer.status_code >= 400:
        assert set(answer.json()["error"]) == {"code", "message"}
