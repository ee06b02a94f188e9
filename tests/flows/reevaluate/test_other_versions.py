"""The gate where packages have other versions than those that made the base's outs."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.support import gate as gate_world
from tests.support.gate import commit, ran, run
from tests.support.gate_calls import change, check_out, gate

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # dvc's, mlflow's and prefect's own
    pytest.mark.usefixtures("server"),
]


def test_another_version_of_what_decides_figures_embeds_and_evaluates_anew_and_is_named(project: Path) -> None:
    change(project, "bumped", "versions.yaml", gate_world.VERSIONS.format(version="2.1"))
    code, page = gate()
    assert code == 0, page
    changed = "Other versions of packages than the base's made these figures: tuwen-test-encoder 2.0 → 2.1."
    assert f"{changed} Run anew here: embed, evaluate@finetuned.\n" in page
    assert "For other versions of packages `dvc repro` would make anew: finetune.\n" in page
    assert ran(project) == ["embed"]
    evaluated = YAML(typ="safe").load(Path("dvc.lock"))["stages"]["evaluate@finetuned"]["params"]["versions.yaml"]
    assert evaluated == {"model": {"tuwen-test-encoder": "2.1"}}
    code, page = gate()  # nothing is left to run, and still the two sides differ
    assert f"{changed}\n" in page
    assert ran(project) == []


def test_another_version_of_what_decides_no_figure_runs_nothing(project: Path) -> None:
    pins = Path("constraints.txt").read_text(encoding="utf-8")
    assert "\nprefect==" in pins
    change(project, "scheduled", "constraints.txt", re.sub(r"(?m)^prefect==.+$", "prefect==99.0", pins))
    code, page = gate()
    assert code == 0, page
    assert "versions of packages" not in page
    assert ran(project) == []


def test_packages_that_are_installed_in_other_versions_than_the_listed_are_refused(project: Path) -> None:
    """As where constraints.txt alone was changed: nothing is stale, and the base would be compared with itself."""
    listed = gate_world.VERSIONS.format(version="2.0") + 'other: {pytest: "1.0"}\n'
    change(project, "pinned", "versions.yaml", listed)
    code, page = gate()
    assert code == 4, page
    assert f"versions.yaml: pytest {pytest.__version__} is installed, 1.0 is listed." in page
    assert ran(project) == []


def test_a_training_that_is_stale_by_more_than_versions_is_refused(project: Path) -> None:
    change(project, "both", "versions.yaml", gate_world.VERSIONS.format(version="2.1"))
    change(project, "both", "noise.txt", "0.1")
    code, page = gate()
    assert code == 3
    assert "| finetune | changed deps: noise.txt: modified |" in page
    assert ran(project) == []


def test_a_base_that_records_no_versions_is_named_so(project: Path) -> None:
    run(project, "git", "checkout", "--quiet", "-B", "unrecorded")
    lock = YAML(typ="safe").load(Path("dvc.lock"))
    for stage in lock["stages"].values():
        stage.get("params", {}).pop("versions.yaml", None)
    YAML(typ="safe").dump(lock, Path("dvc.lock"))
    commit(project, "a lock of earlier days")
    check_out(project, "main")
    code, page = gate("unrecorded")
    assert code == 0, page
    assert "The base does not record which versions of packages made its figures.\n" in page
