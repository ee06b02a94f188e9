"""The command line as its user meets it, in real processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import torch

from tests.support.checkout import ROOT
from tests.support.training import TINY
from tests.support.weights import SIZE_PX, TOKENS, VOCABULARY, cn_clip_model, sha256
from tuwen.core.params import CnClip, HuggingFace, load_params
from tuwen.data.formats import pairs
from tuwen.data.formats.shards import ShardWriter
from tuwen.model import dual_encoder
from tuwen.model.weights import load

SCRIPTS = Path(sys.executable).parent


def call(*command: str, cwd: Path, fails: bool = False) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{SCRIPTS}:{os.environ['PATH']}", "COLUMNS": "100"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done


def test_help_names_the_commands_and_imports_nothing_heavy(tmp_path: Path) -> None:
    program = "import sys; sys.argv[1:] = ['--help']; import atexit; from tuwen.cli import main\n"
    program += (
        "atexit.register(lambda: print(sorted({'torch', 'mlflow', 'pandas', 'pyarrow'} & set(sys.modules))))\n"
    )
    printed = call(sys.executable, "-c", program + "main()", cwd=tmp_path).stdout
    assert all(command in printed for command in ("export", "params", "results", "shards", "track", "worktree"))
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
        shutil.copy(ROOT / "results" / name, tmp_path / "results" / name)
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


def test_params_checks_the_file_that_is_here(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    assert call("tuwen", "params", cwd=tmp_path).stdout == ""
    text = (tmp_path / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text.replace("size_px: 64", "size_px: wide"), encoding="utf-8")
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
    assert done.stderr == f"error: presets/wide.yaml (extends smoke, sample): {fault}\n"
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
