"""The stage that makes the model for the tasks: a copy, or a training with an MLflow run of its own."""

import json
import shutil
from pathlib import Path

import pytest

from stages import refit
from tests.support.training import settings, write_set
from tuwen.core.params import Params
from tuwen.data.augment.stored_views import augment
from tuwen.tracking import lineage, runs
from tuwen.training import recipes


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project up to the fine-tuned model."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        make_project()
    return root


def make_project() -> None:
    for name, numbers in (("train", range(8)), ("valid", range(20, 24)), ("test", range(30, 34))):
        write_set(Path("data"), name, {"": numbers})
    write_set(Path("data"), "corpus", {"art": range(100, 108)})
    params = read_params(refit_all=False)
    augment(Path("data/clean"), Path("data/augmented"), params.augment, params.image)
    clean, augmented, baseline = Path("data/clean"), Path("data/augmented"), Path("models/baseline")
    recipes.make_baseline(clean, baseline, params, Path(".cache/b"), lambda *_: None)
    recipes.make_finetuned(
        clean, augmented, baseline, Path("models/finetuned"), params, Path(".cache/f"), lambda *_: None
    )


@pytest.fixture
def root(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Path) -> Path:
    """A copy of it for one test, which runs in it."""
    shutil.copytree(project, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read_params(refit_all: bool) -> Params:
    return settings(augment={"views": 2, "splits": ["train", "valid", "test"]}, finetune={"refit_all": refit_all})


def write_params(root: Path, refit_all: bool) -> None:
    values = read_params(refit_all).model_dump(by_alias=True)
    (root / "params.yaml").write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")


def list_runs() -> dict[str, tuple[str, dict[str, float]]]:
    client, experiment = runs.connect()
    return {
        Path(run.data.tags["tuwen.out"]).name: (run.info.status, client.get_run(run.info.run_id).data.metrics)
        for run in client.search_runs([experiment])
    }


def test_without_a_refit_the_final_model_is_the_fine_tuned_one_and_has_no_run(root: Path) -> None:
    write_params(root, refit_all=False)
    refit.main()
    tuned, final = root / "models/finetuned", root / "models/final"
    assert {path.name: path.read_bytes() for path in final.iterdir()} == {
        path.name: path.read_bytes() for path in tuned.iterdir()
    }
    assert list_runs() == {}
    assert set(lineage.sync()) == {"models/baseline", "models/finetuned"}


def test_a_refit_is_a_training_over_all_splits_with_a_run_of_its_own(root: Path) -> None:
    write_params(root, refit_all=True)
    refit.main()
    training = json.loads((root / "models/final/training.json").read_text())
    assert training["refit"] == ["train", "valid", "test"]
    assert training["pairs"] == 32
    assert not [key for record in training["epochs"] for key in record if key.startswith("valid")]
    status, metrics = list_runs()["final"]
    assert status == "FINISHED"
    assert metrics["loss"] == pytest.approx(training["epochs"][-1]["loss"])
    assert not (root / ".cache/train").exists() or not list((root / ".cache/train").iterdir())
    assert set(lineage.sync()) == {"models/baseline", "models/finetuned", "models/final"}
