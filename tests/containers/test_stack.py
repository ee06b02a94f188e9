"""docker/compose.yaml in a real engine: built, stopped in the middle, Prefect recreated; pages in a browser."""

import base64
import json
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from tests.browser.conftest import browser as browser
from tests.containers.conftest import CARD, STEP_SECONDS, STRANGER, Stack

REBUILD_SECONDS = 20
TRAIN = ".worktrees/smoke/.cache/train"
START = (
    "from prefect.deployments import run_deployment as run; "
    "print(run('pipeline/pipeline', parameters={'preset': 'smoke'}, timeout=0).id)"
)


def api(stack: Stack, path: str) -> Any:
    values = read_env(stack)
    credentials = base64.b64encode(values["PREFECT_AUTH_STRING"].encode()).decode()
    address = f"http://127.0.0.1:{values['PREFECT_PORT']}/api/{path}"
    request = urllib.request.Request(address, headers={"Authorization": f"Basic {credentials}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def read_env(stack: Stack) -> dict[str, str]:
    lines = (stack.checkout / "docker/.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def start_run(stack: Stack) -> str:
    """Start the smoke preset from its deployment and return the run's id."""
    return stack.execute("python", "-c", START).split()[-1]


def wait_for_end(stack: Stack, run: str) -> str:
    final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
    state = stack.wait_until(
        lambda: (state := api(stack, f"flow_runs/{run}")["state_type"]) in final and state, "the run ends"
    )
    return str(state)


@pytest.fixture(scope="module")
def stopped(stack: Stack) -> str:
    """A run whose worker's container was stopped in its first training."""
    stack.execute("python", "-m", "flows.deploy")
    run = start_run(stack)
    stack.wait_until(lambda: list(stack.checkout.glob(f"{TRAIN}/baseline-*/state.pt")), "the first training")
    stack.run("stop", "worker-cpu")
    return run


def test_every_service_is_healthy_and_none_is_root(stack: Stack) -> None:
    for service in ("postgres", "s3", "mlflow", "prefect", "worker-cpu"):
        known = stack.inspect(service)
        assert known["State"]["Health"]["Status"] == "healthy", service
        user = stack.run("exec", "--no-TTY", service, "id", "-u").strip()
        assert user != "0", service
        assert (user == str(STRANGER)) == (service == "worker-cpu")
        assert known["HostConfig"]["LogConfig"]["Type"] == "local", service
    assert stack.inspect("s3-owner")["State"]["ExitCode"] == 0


def test_a_stopped_worker_leaves_a_crashed_run_and_a_checkpoint(stack: Stack, stopped: str) -> None:
    assert api(stack, f"flow_runs/{stopped}")["state_type"] == "CRASHED"
    assert list(stack.checkout.glob(f"{TRAIN}/baseline-*/state.pt"))
    assert stack.inspect("worker-cpu")["State"]["ExitCode"] == 128 + 15


@pytest.fixture(scope="module")
def finished(stack: Stack, stopped: str) -> str:
    """The run that follows: its worker is killed in a training, Prefect is recreated, and a third one ends."""
    stack.run("start", "worker-cpu")
    stack.run("up", "--detach", "--wait", "--no-build", "worker-cpu")
    command = ["docker", "compose", *stack.options, "exec", "--no-TTY", "worker-cpu"]
    command += ["python", "-m", "flows.pipeline", "--preset", "smoke"]
    with subprocess.Popen(command, cwd=stack.checkout, env=stack.environment) as second:
        stack.wait_until(lambda: list(stack.checkout.glob(f"{TRAIN}/finetuned-*/state.pt")), "the second training")
        stack.run("kill", "worker-cpu")
        second.wait(STEP_SECONDS)
    stack.run("up", "--detach", "--wait", "--no-build", "--no-deps", "--force-recreate", "prefect")
    stack.run("up", "--detach", "--wait", "--no-build", "worker-cpu")
    return start_run(stack)


def test_after_a_kill_and_a_recreated_prefect_the_card_is_free_and_a_run_ends(stack: Stack, finished: str) -> None:
    assert wait_for_end(stack, finished) == "COMPLETED"
    assert stack.execute("ls", "/tmp/tuwen-gpus").split() == [CARD]
    outs = json.loads((stack.checkout / ".worktrees/smoke/results/finetuned/metrics.json").read_text())
    assert outs
    assert all(path.stat().st_uid == STRANGER for path in stack.checkout.rglob("*"))


@pytest.mark.parametrize(
    ("port", "title", "text"), [("PREFECT_PORT", "Prefect", "Runs"), ("MLFLOW_PORT", "MLflow", "")]
)
def test_pages_work_in_a_browser(stack: Stack, browser: Chrome, port: str, title: str, text: str) -> None:
    values = read_env(stack)
    browser.get(f"http://127.0.0.1:{values[port]}/")
    if title == "Prefect":
        field = stack.wait_until(lambda: browser.find_elements(By.CSS_SELECTOR, "input[type=password]"), "it asks")
        field[0].send_keys(values["PREFECT_AUTH_STRING"], Keys.ENTER)

    def shown() -> str:
        return str(browser.execute_script("return document.body.innerText"))

    stack.wait_until(lambda: title in browser.title and text in shown() and len(shown()) > 50, "the page")


def test_the_link_to_mlflow_leads_where_a_browser_can_follow(stack: Stack, finished: str) -> None:
    assert wait_for_end(stack, finished) == "COMPLETED"
    page = api(stack, "artifacts/mlflow-smoke/latest")["data"]
    assert f"http://127.0.0.1:{read_env(stack)['MLFLOW_PORT']}" in page


def test_outs_go_to_s3(stack: Stack, finished: str) -> None:
    assert wait_for_end(stack, finished) == "COMPLETED"
    stack.execute("dvc", "remote", "add", "--local", "--default", "store", "s3://dvc/tuwen")
    stack.run(
        "exec",
        "--no-TTY",
        "--workdir",
        "/project/.worktrees/smoke",
        "worker-cpu",
        "dvc",
        "push",
        "--remote",
        "store",
    )
    assert stack.run("exec", "--no-TTY", "s3", "ls", "/data/dvc/tuwen/files/md5").split()


def test_a_change_of_code_is_built_quickly(stack: Stack) -> None:
    changed = Path("tuwen/core/errors.py")
    with (stack.checkout / changed).open("a") as file:
        file.write("# changed\n")
    (stack.checkout / "README.md").write_text("changed\n")
    start = time.monotonic()
    stack.run("build", "prefect")
    seconds = time.monotonic() - start
    last = stack.run("run", "--rm", "--no-deps", "--no-TTY", "mlflow", "tail", "-n", "1", f"/project/{changed}")
    assert last.strip() == "# changed"
    assert seconds < REBUILD_SECONDS


def test_a_missing_folder_is_refused_and_not_made(stack: Stack) -> None:
    missing = stack.checkout.parent / "missing"
    refused = stack.attempt("run", "--rm", "--no-deps", "worker-cpu", "true", HOST_INPUTS=str(missing))
    assert refused.returncode != 0
    assert str(missing) in refused.stderr
    assert not missing.exists()
