"""The gate on a real git and DVC repository: a regression, an improvement, and what it refuses to compare."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.artifacts import Artifact
from prefect.settings import PREFECT_API_URL, temporary_settings
from ruamel.yaml import YAML

from flows.reevaluate import main
from tests.support import gate as gate_world
from tests.support.checkout import ROOT
from tests.support.gate import commit, ran, run
from tests.support.ports import free_ports

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # dvc's, mlflow's and prefect's own
    pytest.mark.usefixtures("server"),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`main` with the tag `base`, and two other models, all three evaluated: `worse` and `better`."""
    folder = gate_world.build(tmp_path_factory.mktemp("gate") / "repository", noise=2.0)
    for branch, noise in (("worse", "50"), ("better", "0.1")):
        change(folder, branch, "noise.txt", noise, "dvc", "repro", "--quiet")
        check_out(folder, "main")
    ran(folder)
    return folder


@pytest.fixture
def project(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that repository on `main`, where all is up to date; the test's current directory."""
    folder = tmp_path / "repository"
    shutil.copytree(built, folder)
    enter(folder, monkeypatch)
    return folder


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def change(folder: Path, branch: str, file: str, text: str, *command: str) -> None:
    """Commit on `branch` a change of one file, and what `command` makes of it."""
    run(folder, "git", "checkout", "--quiet", "-B", branch)
    (folder / file).write_text(text, encoding="utf-8")
    if command:
        run(folder, *command)
    commit(folder, branch)


def check_out(folder: Path, branch: str) -> None:
    run(folder, "git", "checkout", "--quiet", branch)
    run(folder, "dvc", "checkout", "--quiet")


def gate(base: str = "base", preset: str = "sample") -> tuple[int, str]:
    """The exit code of `python -m flows.reevaluate`, and the page for the pull request."""
    with pytest.raises(SystemExit) as ended:
        main(base, preset)
    assert isinstance(ended.value.code, int)
    return ended.value.code, Path("runs/reevaluate.md").read_text(encoding="utf-8")


def differences(page: str) -> dict[tuple[str, str], float]:
    """(direction, R@k) -> head less base in points, from the page's table."""
    row = re.compile(r"^\| (.+?) \| \d+ \| (R@\d+) \| [\d.]+ \| [\d.]+ \| \**([+−][\d.]+)\** \[", re.MULTILINE)
    return {(way, k): float(points.replace("−", "-")) for way, k, points in row.findall(page)}


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


def test_an_evaluation_that_fails_is_neither_worse_nor_not_worse(project: Path) -> None:
    params = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(params.replace("ks: [1, 5, 10]", "ks: [1, 5, 50]"), encoding="utf-8")
    code, page = gate()
    assert code == 4
    assert page.startswith("## Re-evaluation: failed\n\nstage evaluate@finetuned: ")
    assert "k = 50 is over the gallery of 12" in page


def test_a_preset_is_compared_in_its_own_worktree(project: Path) -> None:
    Path("presets").mkdir()
    shutil.copy("params.yaml", "presets/other.yaml")
    commit(project, "a preset")
    code, page = gate(preset="other")
    assert code == 0, page
    assert Path(".worktrees/other/results/finetuned/ranks.parquet").is_file()
    assert ran(project) == []
