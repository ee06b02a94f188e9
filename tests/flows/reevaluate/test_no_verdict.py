"""The gate where there is no verdict: what fails, what it refuses to compare, and a model that is not rebuilt."""

import re
import shutil
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.reevaluate import main
from tests.support.gate import commit, ran, run
from tests.support.gate_calls import change, check_out, enter, gate
from tests.support.ports import free_ports

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # dvc's, mlflow's and prefect's own
    pytest.mark.usefixtures("server"),
]


def test_a_crash_ends_with_4_and_leaves_no_older_page(project: Path) -> None:
    Path("runs").mkdir(exist_ok=True)
    Path("runs/reevaluate.md").write_text("## Re-evaluation: not worse\n")
    Path("dvc.yaml").write_text("stages: {finetune: {outs: [models/finetuned]}}\n")
    with pytest.raises(SystemExit) as ended:
        main("base", "sample")
    assert ended.value.code == 4
    assert not Path("runs/reevaluate.md").exists()


def test_a_server_that_does_not_answer_is_a_failure_and_no_verdict(project: Path) -> None:
    Path("runs").mkdir(exist_ok=True)
    Path("runs/reevaluate.md").write_text("## Re-evaluation: not worse\n")
    address = f"http://127.0.0.1:{free_ports(1)[0]}/api"
    with temporary_settings({PREFECT_API_URL: address}):
        code, page = gate()
    assert code == 4
    assert page.startswith(f"## Re-evaluation: failed\n\nPREFECT_API_URL: no Prefect server answers at {address} ")


def test_an_evaluation_that_fails_is_neither_worse_nor_not_worse(project: Path) -> None:
    params = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(params.replace("ks: [1, 5, 10]", "ks: [1, 5, 50]"), encoding="utf-8")
    code, page = gate()
    assert code == 4
    assert page.startswith("## Re-evaluation: failed\n\nstage evaluate@finetuned: ")
    assert "k = 50 is over the gallery of 12" in page


def test_a_stale_training_is_refused_and_nothing_runs(project: Path) -> None:
    change(project, "unbuilt", "noise.txt", "0.1")
    code, page = gate()
    assert code == 3
    assert page.startswith("## Re-evaluation: model not rebuilt\n")
    assert "| finetune | changed deps: noise.txt: modified |" in page
    change(project, "unbuilt", "captions.txt", "一个大红色的圆形")
    run(project, "git", "checkout", "--quiet", "base", "noise.txt")
    code, page = gate()
    assert code == 3
    assert "| finetune | after validate, augment |" in page
    assert ran(project) == []


def test_a_training_that_the_recorded_hashes_call_stale_is_refused_and_nothing_is_fetched(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other views were recorded than those that the model saw."""
    lock = Path("dvc.lock").read_text(encoding="utf-8")
    views = re.search(r"path: data/more/views\n\s+hash: md5\n\s+md5: (\w+)", lock)
    assert views
    old, new = f"{views[1]}.dir", f"{'0' * 32}.dir"
    Path("dvc.lock").write_text(lock.replace(old, new), encoding="utf-8")
    commit(project, "other views")
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", str(project), str(clone))
    shutil.copytree(".dvc/cache", tmp_path / "remote")
    run(clone, "dvc", "remote", "add", "--local", "--default", "away", str(tmp_path / "remote"))
    enter(clone, monkeypatch)
    code, page = gate("base")
    assert code == 3
    assert "| finetune | changed deps: data/more: deleted |" in page
    assert not Path("models").exists()


def test_another_test_split_is_not_comparable(project: Path) -> None:
    change(project, "recaptioned", "captions.txt", "一个大红色的圆形", "dvc", "repro", "--quiet", "finetune")
    ran(project)
    code, page = gate()
    assert code == 2
    assert page.startswith("## Re-evaluation: not comparable\n")
    assert "texts.parquet: these test texts (28 rows) are not the base's (28 rows)" in page
    assert ran(project) == []  # refused before the evaluation


def test_a_base_without_ranks_is_not_comparable(project: Path) -> None:
    code, page = gate("nowhere")
    assert code == 2
    assert "base nowhere: " in page
    assert "nowhere" in page.split("cannot be had")[1]
    check_out(project, "worse")
    listed = run(project, "git", "show", "base:dvc.lock")
    md5 = re.search(r"ranks\.parquet\n\s+hash: md5\n\s+md5: (\w+)", listed)
    assert md5
    cached = project / ".dvc/cache/files/md5" / md5[1][:2] / md5[1][2:]
    cached.unlink()
    code, page = gate()
    assert code == 2
    assert "base base: results/finetuned/ranks.parquet cannot be had" in page
