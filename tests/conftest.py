"""For every test: tools send no telemetry and keep their files in folders of the tests; GPUs are hidden."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("PREFECT_HOME", str(Path(__file__).parents[1] / ".prefect"))
os.environ |= {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPUs of this machine, in processes that tests start too, from all but `pytest -m gpu`.

    Tests compare figures to the last digit, and run on one core what they would else send to the card.
    """
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without runs; making its tables takes seconds, so tests copy it."""
    from tuwen.tracking import runs

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUWEN_TRACKING_URI", f"sqlite:///{path}")
        runs.connect()
    return path


@pytest.fixture(autouse=True, scope="session")
def _no_traces_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUWEN_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/tests.db")
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("dvc")))
        yield


@pytest.fixture(autouse=True)
def _no_variables_of_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """mlflow leaves these in the process; a command would say that it does not take them over."""
    for name in ("MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _with_a_gpu(request: pytest.FixtureRequest) -> None:
    """A test marked `gpu` is skipped, and said to be, where there is none."""
    if request.node.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU that torch can use")


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty MLflow database of this test's own, which TUWEN_TRACKING_URI names."""
    path = tmp_path / "mlflow.db"
    shutil.copyfile(empty_store, path)
    monkeypatch.setenv("TUWEN_TRACKING_URI", f"sqlite:///{path}")
    return path
