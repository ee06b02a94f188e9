"""Two workers of one Prefect server, each with a checkout and cards of its own, as two machines have."""

import os
import shutil
import time
import uuid
from pathlib import Path

import pytest
from prefect import get_client
from prefect.settings import PREFECT_API_URL

from flows.deploy import CHECKOUT_VARIABLE, POOL, deploy
from tests.flows.conftest import Start
from tests.support.checkout import ROOT
from tests.support.flows import make_repository

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dvc's, mlflow's and prefect's own
RUN_SECONDS = 900
# It ends well only while the other machine's stage of this name runs too.
TRAIN = """\
stages:
  train:
    cmd: >-
      timeout 600 sh -c 'echo here > {own}' & timeout 600 cat {other} && echo $CUDA_VISIBLE_DEVICES > seen.txt
    meta: {{gpu: true}}
"""


def make_machine(folder: Path, own: Path, other: Path) -> Path:
    make_repository(folder)
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "dvc.yaml").write_text(TRAIN.format(own=own, other=other))
    os.mkfifo(own)
    return folder


def test_two_gpu_machines_work_side_by_side(
    server: None, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    fifos, names = [tmp_path / "one", tmp_path / "two"], [f"GPU-test-{uuid.uuid4()}" for _ in range(2)]
    machines = [
        make_machine(tmp_path / "left", *fifos),
        make_machine(tmp_path / "right", *reversed(fifos)),
    ]
    shutil.copy(ROOT / "prefect.yaml", machines[0])
    monkeypatch.chdir(machines[0])
    deploy(PREFECT_API_URL.value(), os.environ)
    worker = ["prefect", "worker", "start", "--pool", POOL, "--limit", "1"]
    for machine, card in zip(machines, names, strict=True):
        own = {CHECKOUT_VARIABLE: str(machine), "TMPDIR": str(machine)}  # in /tmp its folder may be another user's
        start(*worker, cwd=machine, CUDA_VISIBLE_DEVICES=card, PREFECT_WORKER_QUERY_SECONDS="1", **own)
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name("pipeline/pipeline")
        runs = [client.create_flow_run_from_deployment(deployment.id).id for _ in range(2)]
        deadline = time.monotonic() + RUN_SECONDS
        while not all(client.read_flow_run(run).state.is_final() for run in runs):
            assert time.monotonic() < deadline, [client.read_flow_run(run).state for run in runs]
            time.sleep(1)  # Prefect's API has nothing that waits
        assert [client.read_flow_run(run).state.name for run in runs] == ["Completed"] * 2
    assert [(machine / "seen.txt").read_text().strip() for machine in machines] == names
