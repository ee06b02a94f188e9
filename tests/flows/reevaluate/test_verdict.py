"""The gate on a real git and DVC repository: a regression, an improvement, and what it compares."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.artifacts import Artifact
from prefect.settings import PREFECT_API_URL

from tests.support import gate as gate_world
from tests.support.gate import commit, ran, run
from tests.support.gate_calls import change, check_out, differences, enter, gate

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # dvc's, mlflow's and prefect's own
    pytest.mark.usefixtures("server"),
]


def test_an_unchanged_model_passes_and_nothing_runs(project: Path) -> None:
    code, page = gate()
    assert code == 0
    assert page.startswith("## Re-evaluation: not worse\n")
    points = differences(page)
    assert len(points) == 6
    assert set(points.values()) == {0.0}
    assert ran(project) == []


def test_a_regression_ends_the_command_line_with_its_figures(project: Path) -> None:
    check_out(project, "worse")
    command = [sys.executable, "-m", "flows.reevaluate", "--base", "base"]
    environment = os.environ | {"PREFECT_API_URL": PREFECT_API_URL.value() or ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 1, done.stderr
    page = Path("runs/reevaluate.md").read_text(encoding="utf-8")
    assert page in done.stdout
    assert page.startswith("## Re-evaluation: worse\n\n- text → image R@5 fell by ")
    points = differences(page)
    assert points["text → image", "R@5"] < -20
    assert points["image → text", "R@5"] < -20
    head, base = (run(project, "git", "rev-parse", "--short", name).strip() for name in ("worse", "base"))
    assert f"Head {head}, base {base} (base)" in page
    artifact = Artifact.get("reevaluate-sample")
    assert artifact is not None
    assert artifact.data == page
    assert ran(project) == []


def test_what_is_fetched_is_the_base_s_own_copy(project: Path) -> None:
    """No file of another revision, and no link: who writes to it must not reach into DVC's cache."""
    for base in ("worse", "better", "better"):
        gate(base)
    listed = run(project, "git", "show", "better:dvc.lock")
    md5 = re.search(r"ranks\.parquet\n\s+hash: md5\n\s+md5: (\w+)", listed)
    assert md5
    ranks = project / "runs/base/results/finetuned/ranks.parquet"
    assert hashlib.md5(ranks.read_bytes()).hexdigest() == md5[1]
    fetched = list(Path("runs/base").rglob("*.parquet"))
    assert sorted(path.name for path in fetched) == [f"{n}.parquet" for n in ("images", "pairs", "ranks", "texts")]
    assert {path.stat().st_nlink for path in fetched} == {1}


def test_an_improvement_is_evaluated_in_a_fresh_clone_without_training(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the new model was committed and pushed; its embeddings and figures are still the old one's."""
    change(project, "retrained", "noise.txt", "0.2", "dvc", "repro", "--quiet", "finetune")
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "--quiet", "--branch", "retrained", str(project), str(clone))
    shutil.copytree(".dvc/cache", tmp_path / "remote")
    run(clone, "dvc", "remote", "add", "--local", "--default", "away", str(tmp_path / "remote"))
    enter(clone, monkeypatch)
    code, page = gate("origin/main")
    assert code == 0, page
    assert differences(page)["text → image", "R@5"] > 0
    assert ran(clone) == ["embed"]
    assert gate("origin/worse")[0] == 0
    assert ran(clone) == []
    views = [Path("data/augmented"), Path("data/more")]
    assert [path for path in views if path.exists()] == []  # nor in the cache: a list of files tells their hash
    fetched = [path for path in Path(".dvc/cache/files/md5").rglob("*") if path.is_file()]
    assert not [path for path in fetched if path.read_bytes().endswith("视图".encode())]


def test_a_re_ranked_model_is_compared_too_where_the_base_has_one(project: Path) -> None:
    gate_world.add_reranker(project, noise=0.1)
    commit(project, "re-ranked")
    ran(project)
    code, page = gate("base")
    assert code == 0, page
    assert "The base has no re-ranked model, so this one is not compared." in page
    assert len(differences(page)) == 6

    (project / "reranked.txt").write_text("50")
    code, page = gate("HEAD")
    assert code == 3
    assert "| rerank | changed deps: reranked.txt: modified |" in page
    run(project, "dvc", "repro", "--quiet", "rerank")
    ran(project)
    code, page = gate("HEAD")
    assert code == 1, page
    assert page.startswith("## Re-evaluation: worse\n\n- re-ranked: text → image R@5 fell by ")
    plain, _, reranked = page.partition("The re-ranked model:")
    assert set(differences(plain).values()) == {0.0}
    assert differences(reranked)["text → image", "R@5"] < -20
    assert "the finetuned and the reranked model on the test split" in page
    assert ran(project) == ["measure"]


def test_a_limit_decides_where_chance_does_not(project: Path) -> None:
    """Against the better model there is a drop, which may be chance."""
    for limit, code in (("100.0", 0), ("0.0", 1)):
        params = Path("params.yaml").read_text(encoding="utf-8")
        params = re.sub(r"max_drop_points: [\d.]+", f"max_drop_points: {limit}", params)
        Path("params.yaml").write_text(params, encoding="utf-8")
        exit_code, page = gate("better")
        assert exit_code == code, page
        assert differences(page)["text → image", "R@5"] < 0


def test_a_preset_is_compared_in_its_own_worktree(project: Path) -> None:
    Path("presets").mkdir()
    shutil.copy("params.yaml", "presets/other.yaml")
    commit(project, "a preset")
    code, page = gate(preset="other")
    assert code == 0, page
    assert Path(".worktrees/other/results/finetuned/ranks.parquet").is_file()
    assert ran(project) == []
