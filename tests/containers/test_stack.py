"""docker/compose.yaml in a real engine: a worker stopped in the middle, Prefect recreated; pages in a browser.

One run goes on from one test to the next, and what does not need its end is looked at meanwhile.
"""

import base64
import json
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium.common.exceptions import TimeoutException
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.containers.conftest import CARDS, STRANGER, Stack, find_environment
from tests.support import server_logs, smoke
from tests.support.browser import browser as browser

REBUILD_SECONDS, PAGE_SECONDS = 20, 30
IMAGE_BYTES = 2_300_000_000
SMOKE = ".worktrees/smoke"
PASSWORD = "input[type=password]"
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def api(stack: Stack, path: str, ask: dict[str, Any] | None = None) -> Any:
    """What Prefect's server answers, outside of the engine; `ask`: the body of a POST."""
    known = base64.b64encode(stack.values["PREFECT_AUTH_STRING"].encode()).decode()
    answer = httpx.request(
        "GET" if ask is None else "POST",
        f"http://127.0.0.1:{stack.values['PREFECT_PORT']}/api/{path}",
        json=ask,
        headers={"Authorization": f"Basic {known}"},
        timeout=60,
    )
    answer.raise_for_status()
    return answer.json()


def start_run(stack: Stack) -> str:
    """Start the smoke preset from its deployment, as its page does, and return the run's id."""
    deployment = api(stack, "deployments/name/pipeline/pipeline")["id"]
    ask = {"parameters": {"preset": "smoke"}, "state": {"type": "SCHEDULED"}}
    return str(api(stack, f"deployments/{deployment}/create_flow_run", ask)["id"])


def read_state(stack: Stack, run: str) -> str:
    return str(api(stack, f"flow_runs/{run}")["state_type"])


def is_training(stack: Stack, run: str) -> bool:
    """Whether the run's stage `baseline` is under way; fail where the run has ended."""
    assert (state := read_state(stack, run)) not in FINAL, f"{state}\n{stack.log('worker-cpu')}"
    wanted = {"name": {"any_": ["baseline"]}, "state": {"type": {"any_": ["RUNNING"]}}}
    return bool(api(stack, "task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}, "task_runs": wanted}))


def find_checkpoint(stack: Stack) -> list[Path]:
    return list(stack.checkout.glob(f"{SMOKE}/.cache/train/baseline-*/state.pt"))


def test_every_service_is_healthy_and_none_is_root(stack: Stack) -> None:
    for service in ("postgres", "s3", "mlflow", "prefect", "worker-cpu"):
        known = stack.inspect(service)
        assert known["State"]["Health"]["Status"] == "healthy", service
        user = stack.run("exec", "--no-TTY", service, "id", "-u").strip()
        assert user != "0", service
        assert (user == str(STRANGER)) == (service == "worker-cpu")
        assert known["HostConfig"]["LogConfig"]["Type"] == "local", service
    assert stack.inspect("s3-owner")["State"]["ExitCode"] == 0


@pytest.fixture(scope="module")
def stopped(stack: Stack) -> str:
    """A run whose worker's container was stopped in its first training."""
    stack.execute("python", "-m", "flows.deploy")
    run = start_run(stack)
    stack.wait_until(lambda: is_training(stack, run) and find_checkpoint(stack), "the first training")
    stack.run("stop", "worker-cpu")
    return run


def test_a_stopped_worker_leaves_a_crashed_run_and_a_checkpoint(stack: Stack, stopped: str) -> None:
    assert read_state(stack, stopped) == "CRASHED"
    assert find_checkpoint(stack)
    assert "baseline" not in smoke.outs(stack.checkout / SMOKE)
    assert stack.inspect("worker-cpu")["State"]["ExitCode"] == 128 + 15


@pytest.fixture(scope="module")
def resumed(stack: Stack, stopped: str) -> str:
    """The next run, after a restart of the worker; while it holds the card, Prefect's container is made anew."""
    stack.run("up", "--detach", "--wait", "--no-build", "worker-cpu")
    run = start_run(stack)
    stack.wait_until(lambda: is_training(stack, run), "the training goes on")
    before = stack.inspect("prefect")["Id"]
    stack.run("up", "--detach", "--wait", "--no-build", "--no-deps", "--force-recreate", "prefect")
    assert stack.inspect("prefect")["Id"] != before
    return run


def read_page(browser: Chrome) -> str:
    return str(browser.execute_script("return document.body.innerText"))


def test_prefects_page_asks_for_the_password_and_shows_the_run(
    stack: Stack, browser: Chrome, resumed: str
) -> None:
    # Not the run's page at once: Prefect may say that there is none, instead of asking for the password.
    address = f"http://127.0.0.1:{stack.values['PREFECT_PORT']}"

    def find_password_fields() -> list[WebElement]:
        browser.get(f"{address}/deployments")  # anew: a page asks once whether the server, just made anew, answers
        with suppress(TimeoutException):
            wait = WebDriverWait(browser, PAGE_SECONDS)
            return wait.until(lambda page: page.find_elements(By.CSS_SELECTOR, PASSWORD))
        print(f"no password is asked for: {read_page(browser)!r}", *browser.get_log("browser"), sep="\n")
        return []

    fields = stack.wait_until(find_password_fields, "it asks")
    assert "smoke" not in read_page(browser)
    fields[0].send_keys(stack.values["PREFECT_AUTH_STRING"], Keys.ENTER)
    stack.wait_until(lambda: not browser.find_elements(By.CSS_SELECTOR, PASSWORD), "it lets in")
    browser.get(f"{address}/runs/flow-run/{resumed}")
    stack.wait_until(lambda: "smoke" in read_page(browser), "the run's page")


def test_mlflow_asks_for_its_password_and_its_page_shows_the_experiment(
    stack: Stack, browser: Chrome, resumed: str
) -> None:
    place = f"127.0.0.1:{stack.values['MLFLOW_PORT']}"
    assert httpx.get(f"http://{place}/").status_code == 401
    browser.get(f"http://{place}/")
    assert "tuwen" not in read_page(browser)
    browser.get(f"http://tuwen:{stack.values['MLFLOW_PASSWORD']}@{place}/")  # as typed into the browser's own form
    browser.get(f"http://{place}/#/experiments")
    stack.wait_until(lambda: browser.find_elements(By.LINK_TEXT, "tuwen"), "the list of experiments")


def test_a_missing_folder_is_refused_and_not_made(stack: Stack) -> None:
    missing = stack.checkout.parent / "missing"
    refused = stack.attempt("run", "--rm", "--no-deps", "worker-cpu", "true", HOST_INPUTS=str(missing))
    assert refused.returncode != 0
    assert str(missing) in refused.stderr
    assert not missing.exists()


@pytest.fixture(scope="module")
def finished(stack: Stack, resumed: str) -> str:
    """The resumed run, at its end."""
    state = stack.wait_until(lambda: (state := read_state(stack, resumed)) in FINAL and state, "the run ends")
    assert state == "COMPLETED", stack.log("worker-cpu")
    return resumed


def test_the_next_run_goes_on_from_the_checkpoint_and_a_recreated_prefect_locks_no_card(
    stack: Stack, finished: str
) -> None:
    before, *after = stack.run("logs", "worker-cpu").split("resumed after step")
    assert len(after) == 1
    assert f"baseline computes on {CARDS[0]}" in before
    assert all(re.search(rf"computes on {card}\b(?!-)", after[0]) for card in CARDS)
    assert sorted(stack.execute("ls", "/tmp/tuwen-gpus").split()) == sorted(CARDS)
    assert json.loads((stack.checkout / SMOKE / "results/finetuned/metrics.json").read_text())
    assert all(path.lstat().st_uid == STRANGER for path in stack.checkout.rglob("*"))


def test_the_link_to_mlflow_opens_outside_of_the_engine(stack: Stack, browser: Chrome, finished: str) -> None:
    page = api(stack, "artifacts/mlflow-smoke/latest")["data"]
    (link,) = re.findall(r"\((http\S+)\)", page)
    browser.get(link)  # the browser still knows the password
    stack.wait_until(lambda: "smoke" in read_page(browser), "the runs of the experiment")


def test_a_user_whom_the_image_does_not_know_pushes_outs_to_the_s3_of_the_stack(
    stack: Stack, finished: str
) -> None:
    def dvc(*arguments: str) -> str:
        folder = f"/project/{SMOKE}"
        return stack.run("exec", "--no-TTY", "--workdir", folder, "worker-cpu", "dvc", *arguments)

    dvc("remote", "add", "--local", "--default", "store", "s3://dvc/tuwen")
    dvc("push")
    assert "in sync" in dvc("status", "--cloud")
    assert len(stack.run("exec", "--no-TTY", "s3", "ls", "/data/dvc/tuwen/files/md5").split()) > 1


def test_the_image_that_pip_fills_is_small(stack: Stack) -> None:
    if find_environment():
        pytest.skip("the image holds an environment's packages; TUWEN_TEST_VENV= builds it by pip")
    assert int(stack.inspect_image("{{.Size}}")) < IMAGE_BYTES


def test_a_change_of_code_is_built_quickly(stack: Stack, finished: str) -> None:
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


def test_no_service_reported_an_error(stack: Stack, finished: str, tmp_path: Path) -> None:
    logs = []
    for service in ("postgres", "s3", "mlflow", "prefect", "worker-cpu"):
        logs.append(tmp_path / service)
        logs[-1].write_text(stack.run("logs", "--no-color", "--no-log-prefix", service))
    assert all(log.stat().st_size for log in logs)
    assert server_logs.find_errors(logs) == []
