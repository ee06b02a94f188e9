"""A training's recipe: settings of all stages up to it, preset and what really ran; and the name made of it."""

import shutil
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.tracking import KEPT, RAN, all_runs, make_outs, runs_by_out, write_json
from tuwen.core.presets import compose_preset, get_values
from tuwen.data.formats import manifest
from tuwen.tracking import lineage, recipe, runs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mlflow's, about sqlalchemy

LOCK = """\
schema: '2.0'
stages:
  ingest:
    params: {params.yaml: {source: {kind: sample, concepts: 60}}}
    outs: [{path: data/raw/labelled, md5: a}, {path: data/raw/t2i, md5: b}]
  corpus@art:
    params: {params.yaml: {corpus.art: {kind: sample}}}
    outs: [{path: data/raw/corpus/art, md5: c}]
  validate:
    params: {params.yaml: {validate.max_chars: 200}}
    deps: [{path: data/raw/labelled, md5: a}, {path: data/raw/corpus, md5: d}, {path: tuwen/data/quality, md5: x}]
    outs: [{path: data/clean/train, md5: e}, {path: data/clean/corpus, md5: f}]
  baseline:
    params: {params.yaml: {baseline: {fit: {lr: 0.001, precision: bf16}}}}
    deps: [{path: data/clean/corpus, md5: f}]
    outs: [{path: models/baseline, md5: g}]
  finetune:
    params: {params.yaml: {finetune.fit: {lr: 0.5}}}
    deps: [{path: models/baseline, md5: g}, {path: data/clean/train, md5: e}]
    outs: [{path: models/finetuned, md5: h}]
  evaluate@finetuned:
    params: {params.yaml: {evaluate: {ks: [1, 5]}}}
    deps: [{path: models/finetuned, md5: h}]
    outs: [{path: results/finetuned/metrics.json, md5: i}]
"""
BEFORE = {
    "source.kind": "sample",
    "source.concepts": "60",
    "corpus.art.kind": "sample",
    "validate.max_chars": "200",
    "baseline.fit.lr": "0.001",
}


def write_model(name: str, settings: dict) -> Path:
    folder = Path("models") / name
    write_json(folder / "training.json", {"ran": RAN, "epochs": []})
    manifest.write_manifest(folder, {}, settings)
    return folder


def test_a_recipe_is_made_of_the_stages_before_it_and_says_what_ran(project: Path) -> None:
    Path("dvc.lock").write_text(LOCK)
    settings = {"finetune": {"fit": {"lr": 0.0004, "precision": "bf16"}}}  # the model's own, whatever the lock has
    read = recipe.read_recipe(write_model("finetuned", settings))
    assert read == BEFORE | {"finetune.fit.lr": "0.0004"} | {
        f"ran.{name}": str(value) for name, value in RAN.items()
    }
    assert "bf16" not in read.values()  # asked for, while fp32 ran


def test_a_live_run_has_the_recipe_before_its_stage_stands_in_the_lock(project: Path) -> None:
    Path("dvc.lock").write_text(LOCK)
    settings = {"finetune": {"fit": {"lr": 0.0004, "precision": "bf16"}}}
    inputs = {"baseline": write_model("baseline", {}), "train": Path("data/clean/train")}
    inputs["train"].mkdir(parents=True)
    manifest.write_manifest(inputs["train"], {}, {})
    with runs.track_run(Path("models/finetuned"), settings, inputs, KEPT) as run:
        (begun,) = all_runs(project)
        assert begun.data.params == BEFORE | {"finetune.fit.lr": "0.0004"}
        run.finish_output(write_model("finetuned", settings))
    (done,) = all_runs(project)
    assert done.data.params["ran.precision"] == "fp32"
    assert lineage.sync()["models/finetuned"] == run.id  # and what it adds contradicts nothing
    assert runs_by_out(project)["models/finetuned"].data.params == done.data.params


def test_a_name_tells_preset_and_difference_and_is_the_only_one(project: Path) -> None:
    shutil.copytree(ROOT / "presets", "presets")
    settings = get_values(compose_preset("smoke"))
    settings["baseline"]["start"]["shape"] = None  # an optional key, which the preset leaves out
    for _ in range(2):
        settings["finetune"]["fit"]["lr"] = 0.001
        with runs.track_run(Path("models/finetuned"), settings, {}, KEPT):
            pass
    settings["finetune"]["fit"] |= {"lr": 0.0003, "epochs": 2.0}
    with runs.track_run(Path("models/finetuned"), settings, {}, KEPT):
        pass
    names = [str(run.info.run_name) for run in all_runs(project)]
    assert len(set(names)) == 3
    labels = sorted(name.rpartition(" ")[0] for name in names)
    assert labels == ["smoke finetuned", *["smoke finetuned finetune.fit.lr=0.001"] * 2]
    assert {run.data.params["preset"] for run in all_runs(project)} == {"smoke"}


def test_a_training_is_not_named_after_an_overlay_of_what_it_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """r2d2 extends contest by a re-ranker; the dual encoder of both has the same settings, and the longer name."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "presets", "presets")
    for name in ("contest", "sample"):
        settings = recipe.flatten(get_values(compose_preset(name)))
        of_dual = {key: value for key, value in settings if key.partition(".")[0] not in ("rerank", "finetune")}
        assert recipe.find_preset(of_dual) == (name, {})
    whole = dict(recipe.flatten(get_values(compose_preset("r2d2"))))
    assert recipe.find_preset(whole) == ("r2d2", {})


def test_many_differences_are_counted_and_show_no_password(project: Path) -> None:
    shutil.copytree(ROOT / "presets", "presets")
    settings = get_values(compose_preset("sample"))
    settings["source"] = {"kind": "table", "root": "https://user:geheim@example.org/pairs", "file": "pairs.csv"}
    label = recipe.label_training(Path("models/baseline"), recipe.make_recipe(settings, []))
    assert label == "sample baseline source.kind=table source.root=https://***@example.org/pairs and 1 more"


def test_work_that_goes_on_with_its_run_keeps_the_first_recipe(project: Path) -> None:
    for limit in (200, 300):  # a setting before the stage that left its inputs as they were
        Path("dvc.lock").write_text(LOCK.replace("max_chars: 200", f"max_chars: {limit}"))
        inputs = {"corpus": Path("data/clean/corpus")}
        inputs["corpus"].mkdir(parents=True, exist_ok=True)
        manifest.write_manifest(inputs["corpus"], {}, {})
        try:
            with runs.track_run(Path("models/baseline"), {}, inputs, KEPT) as run:
                if limit == 200:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
    (logged,) = all_runs(project)
    assert (logged.info.run_id, logged.info.status) == (run.id, "FINISHED")
    assert logged.data.params["validate.max_chars"] == "200"


def test_models_of_equal_settings_have_runs_of_their_own(project: Path) -> None:
    make_outs()
    lineage.sync()
    names = {out: str(run.info.run_name).rpartition(" ")[0] for out, run in runs_by_out(project).items()}
    assert names["models/baseline"] == "baseline"
    assert names["results/baseline"].startswith("evaluate baseline ")
