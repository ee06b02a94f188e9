"""What a run page shows, read back from a real server."""

import json
import os
import re
import time
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from prefect import flow, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
)
from prefect.client.schemas.objects import Artifact
from prefect.settings import PREFECT_API_URL

from flows.pipeline import pipeline
from flows.show import plain, show_mlflow, show_results
from tests.flows.conftest import Start
from tests.support import report_inputs
from tests.support.flows import ran, read_when_written, write_stages
from tests.support.refusing_proxy import refuse
from tuwen.core.errors import UserError
from tuwen.data.formats import pairs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dvc's, mlflow's and prefect's own


def newest(key: str, flow_run: UUID | None = None) -> Artifact | None:
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    if flow_run:
        wanted.flow_run_id = ArtifactFilterFlowRunId(any_=[flow_run])
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=wanted)
    return max(found, key=lambda one: one.created, default=None)


def rows_of(key: str, flow_run: UUID | None = None) -> dict[str, list[str]]:
    """A Markdown table: the first cell of a row -> the others."""
    found = newest(key, flow_run)
    assert found is not None, key
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in str(found.data).splitlines()]
    return {first: rest for first, *rest in lines}


def test_the_plan_names_every_stage_and_why_it_runs_or_not(server: None, finished: Path) -> None:
    Path("params.yaml").write_text("words: 一只|白猫\nunused: 0\n", encoding="utf-8")
    state = pipeline(stages=["measure@left"], return_state=True)
    plan = rows_of("plan-sample", state.state_details.flow_run_id)
    assert plan["words"][0] == "**runs**"
    assert plain("params.yaml: words: modified") in plan["words"][1]
    assert plan["measure@left"] == ["**runs**", plain("after baseline")]
    assert plan["measure@right"] == plan["other"] == ["—", plain("not asked for")]
    again = pipeline(stages=["measure@left"], return_state=True)
    assert rows_of("plan-sample", again.state_details.flow_run_id)["words"] == ["—", plain("up to date")]


def test_the_plan_is_there_before_the_first_stage_ends_and_progress_while_it_runs(
    server: None, project: Path, start: Start
) -> None:
    os.mkfifo("started")
    os.mkfifo("gate")
    says = r"print('epoch 2/4\x3a 5/10'); open('started', 'w').write('here\n'); open('gate').read()"
    write_stages(f'python -c "{says}" && cp words.txt model.txt')
    running = start("flows.pipeline", "baseline")
    assert read_when_written("started") == "here\n"
    assert rows_of("plan-sample")["baseline"][0] == "**runs**"
    deadline = time.monotonic() + 60
    while (shown := newest("progress-baseline")) is None and time.monotonic() < deadline:
        time.sleep(0.2)  # the flow is another process: only by asking the server is it known
    assert shown is not None
    assert (shown.data, shown.description) == (37.5, "baseline: epoch 2/4")
    Path("gate").write_text("权重")
    assert running.wait(240) == 0
    ended = newest("progress-baseline")
    assert ended is not None
    assert (ended.id, ended.data) == (shown.id, 100.0)


def test_a_server_that_takes_no_artifact_ends_no_flow(server: None, project: Path, start: Start) -> None:
    """With no retry of Prefect's client, one answer that stays away is enough."""
    address = urlsplit(PREFECT_API_URL.value())
    with refuse(address.port, b"POST /api/artifacts/") as port:
        proxy = address._replace(netloc=f"127.0.0.1:{port}").geturl()
        flow = start("flows.pipeline", "words", PREFECT_API_URL=proxy, PREFECT_CLIENT_MAX_RETRIES="0")
        output, _ = flow.communicate(timeout=300)
    assert flow.returncode == 0, output
    assert "503 Service Unavailable" in output
    assert ran() == ["words"]


def test_recall_and_gallery_are_those_of_the_results(
    server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(report_inputs.make(tmp_path))
    flow(show_results)("contest-24gb")
    recall = rows_of("recall-contest-24gb")
    for model, column in (("baseline", 0), ("finetuned", 1)):
        figures = json.loads(Path("results", model, "metrics.json").read_text())["test"]
        for way, title in (("t2i", "text → image"), ("i2t", "image → text")):
            low, high = (f"{100 * figures[f'{way}_hit_at_5_{end}']:.1f}" for end in ("low", "high"))
            value = f"{100 * figures[f'{way}_hit_at_5']:.1f} %"
            assert recall[f"{title} R@5"][column] == f"{value} [{low}, {high}]"
    gallery = newest("gallery-contest-24gb")
    assert gallery is not None
    texts, tables = str(gallery.data).split("\n\n")[::2], str(gallery.data).split("\n\n")[1::2]
    assert len(texts) == 6
    assert [len(re.findall(r"!\[\d\]\(data:image/jpeg;base64,[\w+/=]+\)", one)) for one in tables] == [5] * 6
    ranks = pairs.read_table(Path("results/finetuned/ranks.parquet")).to_pandas()
    best = ranks[ranks.direction == "t2i"].set_index("query_id").best_rank
    rows = pairs.read_pair_set(Path("data/clean/test")).texts.select(["text_id", "caption"]).to_pylist()
    first: dict[str, set[int]] = {}  # rank of a true picture by caption, which several texts may share
    for row in rows:
        if row["text_id"] in best.index:
            first.setdefault(f"**{plain(row['caption'])}**", set()).add(min(int(best[row["text_id"]]), 6))
    for text, one in zip(texts, tables, strict=True):
        assert int(next(iter(re.findall(r"(\d) ✔", one)), 6)) in first[text]


def test_missing_results_are_a_message(server: None, project: Path) -> None:
    with pytest.raises(UserError, match="model is missing"):
        show_results("sample")


def test_without_an_mlflow_server_the_command_is_named(server: None, store: Path) -> None:
    flow(show_mlflow)("sample")
    found = newest("mlflow-sample")
    assert found is not None
    assert "make mlflow" in str(found.data)


def test_a_caption_is_shown_as_it_is() -> None:
    assert plain("<img src=x>|*猫*\n[狗]") == r"\<img src=x\>\|\*猫\* \[狗\]"
