"""The command line as its user meets it: real processes, and real git worktrees with DVC."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from tests.support.training import REPOSITORY, TINY
from tests.support.weights import SIZE_PX, TOKENS, VOCABULARY, cn_clip_model, sha256
from tuwen.core.params import CnClip, HuggingFace
from tuwen.data.formats import pairs
from tuwen.data.formats.shards import ShardWriter
from tuwen.model import dual_encoder
from tuwen.model.weights import load

SCRIPTS = Path(sys.executable).parent
PIPELINE = """\
stages:
  greet:
    cmd: mkdir -p out && cp params.yaml out/greeting.txt
    params: [greeting]
    outs: [out]
"""


def call(*command: str, cwd: Path, fails: bool = False) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{SCRIPTS}:{os.environ['PATH']}", "COLUMNS": "100"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done


def commit(root: Path, message: str) -> str:
    call("git", "add", "--all", cwd=root)
    call("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", message, cwd=root)
    return call("git", "rev-parse", "HEAD", cwd=root).stdout.strip()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git and DVC repository with two presets, committed."""
    root = tmp_path / "repository"
    files = {
        ".dvc/config": "[core]\n    analytics = false\n    autostage = true\n",
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
        ".gitignore": ".worktrees/\n/out/\n",
        ".dvcignore": ".worktrees/\n",
        "params.yaml": "greeting: 你好\n",
        "presets/sample.yaml": "greeting: 你好\n",
        "presets/contest.yaml": "greeting: 您好\n",
        "dvc.yaml": PIPELINE,
        "code.py": "first = 1\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    call("git", "init", "-q", cwd=root)
    commit(root, "first")
    return root


def test_help_names_the_commands_and_imports_nothing_heavy(tmp_path: Path) -> None:
    program = "import sys; sys.argv[1:] = ['--help']; import atexit; from tuwen.cli import main\n"
    program += (
        "atexit.register(lambda: print(sorted({'torch', 'mlflow', 'pandas', 'pyarrow'} & set(sys.modules))))\n"
    )
    printed = call(sys.executable, "-c", program + "main()", cwd=tmp_path).stdout
    assert all(command in printed for command in ("export", "results", "shards", "track", "worktree"))
    assert printed.rstrip().endswith("[]")


def test_results_before_the_pipeline_ran_is_one_message(tmp_path: Path) -> None:
    done = call("tuwen", "results", cwd=tmp_path, fails=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_results_of_a_clone_say_which_files_are_not_there(tmp_path: Path) -> None:
    measured = ["report.md", *(f"{dual_encoder}/metrics.json" for dual_encoder in ("baseline", "finetuned"))]
    for name in measured:
        (tmp_path / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / "results" / name, tmp_path / "results" / name)
    (tmp_path / "results/result1.csv").touch()
    here, *missing = call("tuwen", "results", cwd=tmp_path).stdout.splitlines()[-3:]
    assert here == str(tmp_path / "results/result1.csv")
    assert [line.partition(": not here; ")[0] for line in missing] == [
        str(tmp_path / "results" / name) for name in ("result2.csv", "report.html")
    ]


def test_track_sync_makes_runs_for_what_stands(tmp_path: Path, store: Path) -> None:
    metrics = tmp_path / "results/baseline/metrics.json"
    metrics.parent.mkdir(parents=True)
    metrics.write_text('{"test": {"t2i_hit_at_5": 0.4}}')
    assert "1 outs" in call("tuwen", "track", "sync", cwd=tmp_path).stdout
    assert (tmp_path / "runs/lineage.json").is_file()


def test_sets_are_exported_and_their_shards_listed(tmp_path: Path) -> None:
    row = {"image_id": "熊猫.jpg", "positive_id": "熊猫.jpg"}
    with ShardWriter(tmp_path / "data", "clean/train/shards") as writer:
        row |= writer.add("熊猫.jpg", b"\xff\xd8")._asdict()
    texts = [{"text_id": "t1", "caption": "一只大熊猫坐在竹林里吃竹子"}]
    linked = [{"pair_id": "p1", "image_id": "熊猫.jpg", "text_id": "t1"}]
    tables = zip(([row], texts, linked), (pairs.IMAGES, pairs.TEXTS, pairs.PAIRS), strict=True)
    found = pairs.PairSet(*(pa.Table.from_pylist(rows, schema) for rows, schema in tables))
    for name in ("train", "valid"):
        pairs.write_pair_set(tmp_path / "data/clean" / name, found)
    sets = ("data/clean/train", "data/clean/valid")
    call("tuwen", "export", "chinese_clip", *sets, "muge", cwd=tmp_path)
    names = [f"{split}_{kind}" for split in ("train", "valid") for kind in ("imgs.tsv", "texts.jsonl")]
    assert sorted(path.name for path in (tmp_path / "muge").iterdir()) == ["ids.csv", *names]
    assert "1 pairs written" in call("tuwen", "export", "webdataset", *sets, "tars", cwd=tmp_path).stderr
    listed = call("tuwen", "shards", "tars/train", "tars/valid/000000.tar", cwd=tmp_path).stdout
    assert listed == (tmp_path / "tars/shards.csv").read_text()
    again = call("tuwen", "export", "webdataset", *sets, "tars", cwd=tmp_path, fails=True)
    assert again.stderr == "error: tars: exists and is not an empty folder; name another, or remove it\n"


def test_a_model_is_exported_in_both_forms_and_one_without_a_place_there_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": cn_clip_model().state_dict()}, tmp_path / "clip.pt")
    published = {"file": str(tmp_path / "clip.pt"), "sha256": sha256(tmp_path / "clip.pt")}
    start = CnClip(kind="cn_clip", vocabulary=str(VOCABULARY), **published)
    encoder, tokens = load.load_weights(start, SIZE_PX, TOKENS)
    dual_encoder.save_model(encoder, tmp_path / "ours", tokens)
    call("tuwen", "export", "model", "hugging_face", "ours", "hf", cwd=tmp_path)
    call("tuwen", "export", "model", "cn_clip", "ours", "again.pt", cwd=tmp_path)
    file = tmp_path / "hf/model.safetensors"
    folder = HuggingFace(kind="hugging_face", model=str(tmp_path / "hf"), revision=sha256(file))
    again = start.model_copy(update={"file": str(tmp_path / "again.pt"), "sha256": sha256(tmp_path / "again.pt")})
    for form in (folder, again):
        state = load.load_weights(form, SIZE_PX, TOKENS)[0].state_dict()
        assert state.keys() == encoder.state_dict().keys()
        assert all(torch.equal(state[name], tensor) for name, tensor in encoder.state_dict().items())

    dual_encoder.save_model(dual_encoder.DualEncoder(TINY), tmp_path / "tiny", ["[PAD]"])
    for form, kinds in (("hugging_face", "vit"), ("cn_clip", "vit or resnet")):
        refused = call("tuwen", "export", "model", form, "tiny", "none", cwd=tmp_path, fails=True)
        said = f"error: tiny: cannot be written as {form}: its picture tower is no {kinds} of CLIP's form\n"
        assert (refused.returncode, refused.stderr) == (1, said)
        assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("preset", ["", "sample"])
def test_the_active_preset_runs_here(project: Path, preset: str) -> None:
    assert call("tuwen", "worktree", preset, cwd=project).stdout == ".\n"
    assert not (project / ".worktrees").exists()


def test_an_unknown_preset_lists_the_known_ones(project: Path) -> None:
    done = call("tuwen", "worktree", "muge", cwd=project, fails=True)
    assert done.stderr == "error: presets/muge.yaml: no such preset; presets/ has contest, sample\n"


def test_a_preset_before_the_first_commit_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets/contest.yaml").write_text("greeting: 您好\n", encoding="utf-8")
    call("git", "init", "-q", cwd=tmp_path)
    done = call("tuwen", "worktree", "contest", cwd=tmp_path, fails=True)
    assert done.returncode == 1
    assert "commit" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_preset_runs_in_a_worktree_with_the_shared_cache(project: Path) -> None:
    call("dvc", "repro", "-q", cwd=project)
    folder = call("tuwen", "worktree", "contest", cwd=project).stdout.strip()
    assert folder == ".worktrees/contest"
    call("dvc", "repro", "-q", cwd=project / folder)
    assert (project / folder / "out/greeting.txt").read_text(encoding="utf-8") == "greeting: 您好\n"
    assert (project / "params.yaml").read_text(encoding="utf-8") == "greeting: 你好\n"
    assert call("dvc", "status", "--json", cwd=project).stdout.strip() == "{}"
    assert not (project / folder / ".dvc/cache").exists()
    made = {
        path.parent.name + path.name for path in (project / ".dvc/cache/files/md5").rglob("*") if path.is_file()
    }
    assert len(made) == 4  # two outs, a listing and a file each


def test_a_worktree_follows_the_commit_and_keeps_its_lock(project: Path) -> None:
    folder = project / call("tuwen", "worktree", "contest", cwd=project).stdout.strip()
    call("dvc", "repro", "-q", cwd=folder)
    lock = (folder / "dvc.lock").read_bytes()
    (project / "code.py").write_text("second = 2\n")
    (project / "presets/contest.yaml").write_text("greeting: 各位好\n", encoding="utf-8")
    second = commit(project, "second")
    call("tuwen", "worktree", "contest", cwd=project)
    assert call("git", "rev-parse", "HEAD", cwd=folder).stdout.strip() == second
    assert (folder / "code.py").read_text() == "second = 2\n"
    assert (folder / "params.yaml").read_text(encoding="utf-8") == "greeting: 各位好\n"
    assert (folder / "dvc.lock").read_bytes() == lock
    call("tuwen", "worktree", "contest", cwd=project)
    assert (folder / "dvc.lock").read_bytes() == lock


def test_a_worktree_removed_by_hand_is_made_again(project: Path) -> None:
    folder = project / call("tuwen", "worktree", "contest", cwd=project).stdout.strip()
    call("rm", "-r", str(folder), cwd=project)
    call("tuwen", "worktree", "contest", cwd=project)
    assert (folder / "dvc.yaml").is_file()
