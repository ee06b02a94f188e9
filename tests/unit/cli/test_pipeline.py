"""Settings, presets and the table of recall by the command line, in real processes."""

import shutil
from pathlib import Path

from tests.support.checkout import ROOT
from tests.support.commands import call
from tuwen.core.params import load_params


def test_results_before_the_pipeline_ran_is_one_message(tmp_path: Path) -> None:
    done = call("tuwen", "results", cwd=tmp_path, fails=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_results_of_a_clone_say_which_files_are_not_there(tmp_path: Path) -> None:
    measured = ["report.md", *(f"{model}/metrics.json" for model in ("baseline", "finetuned"))]
    for name in measured:
        (tmp_path / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "results" / name, tmp_path / "results" / name)
    (tmp_path / "results/result1.csv").touch()
    here, *missing = call("tuwen", "results", cwd=tmp_path).stdout.splitlines()[-3:]
    assert here == str(tmp_path / "results/result1.csv")
    assert [line.partition(": not here; ")[0] for line in missing] == [
        str(tmp_path / "results" / name) for name in ("result2.csv", "report.html")
    ]


def test_params_checks_the_file_that_is_here(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    assert call("tuwen", "params", cwd=tmp_path).stdout == ""
    text = (tmp_path / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text.replace("size_px: 192", "size_px: wide"), encoding="utf-8")
    done = call("tuwen", "params", cwd=tmp_path, fails=True)
    assert done.stderr == "error: params.yaml: image.size_px: input should be a valid integer, got 'wide'\n"


def test_params_prints_a_preset_whole_with_the_origin_of_each_value(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    printed = call("tuwen", "params", "--preset", "flickr30k-cn", cwd=tmp_path).stdout
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert "root: inputs/flickr30k-cn # flickr30k-cn" in lines
    assert "kind: chinese_clip # muge" in lines
    assert "lr: 3.5e-05 # contest" in lines
    assert "max_drift: 0.2 # sample" in lines
    (tmp_path / "params.yaml").write_text(printed, encoding="utf-8")
    assert load_params(tmp_path / "params.yaml").source.root == "inputs/flickr30k-cn"


def test_params_refuses_a_preset_that_is_not_valid(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    (tmp_path / "presets/wide.yaml").write_text("extends: smoke\nimage: {size_px: wide}\n", encoding="utf-8")
    done = call("tuwen", "params", "--preset", "wide", cwd=tmp_path, fails=True)
    fault = "image.size_px: input should be a valid integer, got 'wide'"
    assert done.stderr == f"error: presets/wide.yaml (extends smoke, scratch, sample): {fault}\n"
    assert done.stdout == ""


def test_worktree_prints_the_folder_and_refuses_an_unknown_preset(tmp_path: Path) -> None:
    assert call("tuwen", "worktree", "sample", cwd=tmp_path).stdout == ".\n"
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets/contest.yaml").write_text("greeting: 您好\n", encoding="utf-8")
    call("git", "init", "-q", cwd=tmp_path)
    call("git", "add", "--all", cwd=tmp_path)
    call("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "first", cwd=tmp_path)
    (tmp_path / ".dvc").mkdir()
    done = call("tuwen", "worktree", "contest", cwd=tmp_path)
    assert done.stdout == ".worktrees/contest\n"
    assert "presets/contest.yaml on commit" in done.stderr
    refused = call("tuwen", "worktree", "muge", cwd=tmp_path, fails=True)
    assert refused.stderr == "error: presets/muge.yaml: no such preset; presets/ has contest\n"
