"""The commit, whether the code differs from it, and the digest that names an out."""

import os
import subprocess
from pathlib import Path

import pytest

from tuwen.data.formats import manifest
from tuwen.tracking import revision

GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, outside any git repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


def commit() -> str:
    for arguments in (["add", "--all"], ["commit", "--quiet", "--message", "first"]):
        subprocess.run([*GIT, *arguments], check=True)
    return subprocess.run([*GIT, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_there_is_no_commit_outside_git_before_the_first_one_and_without_git(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert revision.get_commit() is None
    assert not revision.is_dirty()
    subprocess.run([*GIT, "init", "--quiet"], check=True)
    assert revision.get_commit() is None
    Path("dvc.yaml").write_text("stages: {}\n")
    assert revision.get_commit() is None
    head = commit()
    assert len(head) == 40
    assert revision.get_commit() == head
    monkeypatch.setenv("PATH", "")
    assert revision.get_commit() is None


@pytest.mark.parametrize(
    ("changed", "dirty"),
    [
        ("tuwen/text.py", True),
        ("tuwen/new.py", True),
        ("stages/ingest.py", True),
        ("dvc.yaml", True),
        ("constraints.txt", True),
        ("versions.yaml", True),
        ("params.yaml", False),  # a preset's worktree has its own
        ("results/report.md", False),
        ("flows/pipeline.py", False),
    ],
)
def test_only_the_code_that_decides_the_outs_makes_a_checkout_dirty(
    folder: Path, changed: str, dirty: bool
) -> None:
    for name in (
        "tuwen/text.py",
        "stages/ingest.py",
        "dvc.yaml",
        "constraints.txt",
        "versions.yaml",
        "params.yaml",
    ):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("# 左右\n", encoding="utf-8")
    subprocess.run([*GIT, "init", "--quiet"], check=True)
    commit()
    assert not revision.is_dirty()
    Path(changed).parent.mkdir(exist_ok=True)
    Path(changed).write_text("# 左右东西\n", encoding="utf-8")
    assert revision.is_dirty() is dirty


def test_a_model_is_named_by_its_manifest_and_an_evaluation_by_its_metrics(folder: Path) -> None:
    model, result = Path("models/finetuned"), Path("results/finetuned")
    assert revision.find_naming_file(model) is None
    model.mkdir(parents=True)
    (model / "metrics.json").write_text("{}")
    manifest.write_manifest(model, {}, {"seed": 0})
    assert revision.find_naming_file(model) == model / "manifest.json"
    result.mkdir(parents=True)
    (result / "metrics.json").write_text('{"test": {"t2i_hit_at_5": 0.468}}')
    assert revision.find_naming_file(result) == result / "metrics.json"
    digest = revision.digest_output(result)
    assert digest == manifest.hash_file(result / "metrics.json")
    (result / ".gitignore").write_text("/ranks.parquet\n")  # as DVC writes it after the stage
    assert revision.digest_output(result) == digest
    (result / "metrics.json").write_text('{"test": {"t2i_hit_at_5": 0.469}}')
    assert revision.digest_output(result) != digest


def test_an_out_that_nothing_names_has_no_digest(folder: Path) -> None:
    Path("embeddings").mkdir()
    with pytest.raises(AssertionError, match=r"embeddings has neither manifest\.json nor metrics\.json"):
        revision.digest_output(Path("embeddings"))


def test_hashes_are_those_that_dvc_lock_lists() -> None:
    stage = {
        "cmd": "python -m stages.finetune",
        "deps": [{"path": "data/augmented", "md5": "abcd.dir"}, {"path": "https://example.org/w", "etag": "1"}],
        "outs": [{"path": "models/finetuned", "md5": "0123.dir", "nfiles": 7}],
    }
    assert revision.read_hashes(stage, "deps") == {"data/augmented": "abcd.dir"}
    assert revision.read_hashes(stage, "outs") == {"models/finetuned": "0123.dir"}
    assert revision.read_hashes({}, "outs") == {}


def test_what_git_cannot_tell_is_unknown_with_the_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert revision.is_dirty() is None
    assert "not a git repository" in str(revision.explain_unknown())
    subprocess.run([*GIT, "init", "--quiet"], check=True)
    Path("notes.txt").touch()
    commit()
    Path("unpacked").mkdir()  # a ZIP of this project, in another repository
    Path(".gitignore").write_text("unpacked/\n")
    monkeypatch.chdir("unpacked")
    Path("dvc.yaml").write_text("stages: {}\n")
    assert (revision.get_commit(), revision.is_dirty()) == (None, None)
    assert revision.describe_changes().startswith("the git repository around this folder does not hold it")
    monkeypatch.setenv("PATH", "")
    assert revision.describe_changes() == "git is not installed"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_checkout_of_another_user_is_not_called_clean(folder: Path) -> None:
    Path("dvc.yaml").write_text("stages: {}\n")
    subprocess.run([*GIT, "init", "--quiet"], check=True)
    commit()
    assert revision.is_dirty() is False
    for path in (folder, folder / ".git"):
        os.chown(path, 12345, 12345)
    assert (revision.get_commit(), revision.is_dirty()) == (None, None)
    assert "git config --global --add safe.directory" in str(revision.explain_unknown())
