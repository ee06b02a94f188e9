"""What a kill leaves of a flow: nothing, and the next flow goes on."""

import os
import signal
import subprocess
import uuid
from pathlib import Path

import psutil
import pytest

from tests.flows.conftest import Start
from tests.support.flows import (
    END_SECONDS,
    is_free,
    ran,
    read_when_written,
    wait_for_ever_in_a_stage,
    write_stages,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dvc's, mlflow's and prefect's own


@pytest.mark.parametrize("gpu", [True, False])
def test_a_stage_holds_the_gpu_where_dvc_yaml_gives_it_one(
    server: None, project: Path, start: Start, gpu: bool
) -> None:
    os.mkfifo("started")
    os.mkfifo("gate")
    write_stages("echo here > started && cat gate > model.txt", gpu=gpu)
    card = f"GPU-test-{uuid.uuid4()}"
    flow = start("flows.pipeline", "baseline", CUDA_VISIBLE_DEVICES=card)
    assert read_when_written("started") == "here\n"
    assert is_free(card) != gpu
    Path("gate").write_text("权重")
    assert flow.wait(240) == 0
    assert is_free(card)


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_flow_leaves_no_process_of_its_stage(
    server: None, project: Path, start: Start, by: signal.Signals
) -> None:
    wait_for_ever_in_a_stage("words")
    flow = start("flows.pipeline", "baseline")
    started = descendants(flow)
    flow.send_signal(by)
    assert flow.wait(END_SECONDS) == (-by if by == signal.SIGKILL else 128 + by)
    assert psutil.wait_procs(started, timeout=END_SECONDS)[1] == []


def test_a_killed_flow_leaves_no_server_and_the_next_one_gets_the_gpu(
    project: Path, tmp_path: Path, start: Start
) -> None:
    card = f"GPU-test-{uuid.uuid4()}"
    own_server = {"PREFECT_API_URL": "", "PREFECT_HOME": str(tmp_path / "prefect"), "CUDA_VISIBLE_DEVICES": card}
    wait_for_ever_in_a_stage("baseline")
    guard = start("flows.pipeline", "baseline", **own_server)
    started = descendants(guard)
    assert not is_free(card)
    psutil.Process(guard.pid).children()[0].kill()  # what `python -m` started is the guard; this is the flow
    assert guard.wait(END_SECONDS) == 128 + signal.SIGKILL
    assert psutil.wait_procs(started, timeout=END_SECONDS)[1] == []
    assert is_free(card)  # at once, and not after a lease
    Path("go").touch()
    output, _ = start("flows.pipeline", "baseline", **own_server).communicate(timeout=400)
    assert Path("model.txt").exists(), output
    assert ran() == ["words", "baseline"]


def descendants(flow: subprocess.Popen[str]) -> list[psutil.Process]:
    """All that `flow` has started once its stage runs, those in sessions of their own included."""
    own = read_when_written("started").split()
    return [*psutil.Process(flow.pid).children(recursive=True), *(psutil.Process(int(pid)) for pid in own)]
