import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.support.checkout import ROOT
from tests.support.retrieval import run, sign
from tuwen.core.errors import UserError
from tuwen.data.formats import manifest, pairs
from tuwen.tracking import runs


def test_embeddings_of_another_model_or_set_are_refused_with_both_hashes(world):
    run(world, "baseline", named="baseline")
    made, due = (manifest.hash_path(world / "models" / name) for name in ("baseline", "finetuned"))
    assert made != due
    message = (
        rf"baseline/test/manifest\.json: made from another model: it names {made}, but .*finetuned is {due}; "
    )
    with pytest.raises(UserError, match=message):
        run(world, "baseline", named="finetuned")
    test = pairs.read_pair_set(world / "data/clean/valid")
    made = manifest.hash_path(world / "data/clean/valid")
    pairs.write_pair_set(world / "data/clean/valid", pairs.PairSet(test.images, test.texts, test.pairs.slice(1)))
    due = manifest.hash_path(world / "data/clean/valid")
    with pytest.raises(UserError, match=rf"made from another set: it names {made}, but .*clean/valid is {due}; "):
        run(world, "baseline", named="baseline")
    (world / "embeddings/baseline/bank/manifest.json").unlink()
    sign(world, "baseline", "valid")
    with pytest.raises(UserError, match=r"bank/manifest\.json: missing, so it is unknown what these"):
        run(world, "baseline", named="baseline")
    (world / "embeddings/baseline/bank/manifest.json").write_text("[]")
    with pytest.raises(UserError, match=r"bank/manifest\.json: not a manifest "):
        run(world, "baseline", named="baseline")


def test_a_k_over_a_gallery_is_refused(world, write_params):
    write_params(world, evaluate={"ks": [5, 13]})
    with pytest.raises(
        UserError, match=r"evaluate\.ks, .*clean/test/images\.parquet: k = 13 is over the gallery of 12"
    ):
        run(world)


@pytest.mark.parametrize("name", ["valid", "bank"])
def test_a_set_without_pairs_is_refused(world, name):
    folder = world / "data/clean" / name
    test = pairs.read_pair_set(folder)
    pairs.write_pair_set(folder, pairs.PairSet(test.images, test.texts, test.pairs.slice(0, 0)))
    with pytest.raises(UserError, match=rf"{name}/pairs\.parquet: no pair, so there is no truth to measure by"):
        run(world)


def test_the_stage_writes_its_outs_and_an_mlflow_run(world, store, run_stage):
    done = run_stage(world, "evaluate", "baseline")
    assert (done.returncode, done.stderr) == (0, "")
    metrics = json.loads((world / "results/baseline/metrics.json").read_text())
    client, experiment = runs.connect()
    (logged,) = client.search_runs([experiment])
    assert logged.info.run_name == f"evaluate baseline {logged.info.run_id[:7]}"
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["test_t2i_hit_at_5"] == metrics["test"]["t2i_hit_at_5"]
    assert logged.data.metrics["bank_mean_cosine"] == metrics["bank"]["mean_cosine"]
    assert {"tuwen.input.embeddings-bank", "tuwen.input.data-bank"} <= set(logged.data.tags)
    assert logged.data.params["bootstrap_samples"] == "2000"


def test_an_evaluation_that_was_killed_goes_on_with_its_run(world, store, run_stage):
    vectors = world / "embeddings/baseline/bank/images.npy"
    whole = vectors.rename(world / "whole.npy")
    os.mkfifo(vectors)  # who reads this waits for ever
    command = [sys.executable, "-m", "stages.evaluate", "baseline"]
    stage = subprocess.Popen(command, cwd=world, env=os.environ | {"PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 60
    while not (kept := [path.read_text() for path in world.glob(".cache/evaluate/baseline-*")]):
        assert stage.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)  # the stage is another process: only its file tells
    stage.kill()
    stage.wait()
    vectors.unlink()
    whole.rename(vectors)
    assert run_stage(world, "evaluate", "baseline").returncode == 0
    client, experiment = runs.connect()
    (logged,) = client.search_runs([experiment])
    assert [logged.info.run_id] == kept
    assert logged.info.status == "FINISHED"
    assert logged.data.metrics["system/cpu_utilization_percentage"] >= 0
    assert not list(world.glob(".cache/evaluate/*"))


def test_a_users_mistakes_end_the_stage_with_one_message(world, run_stage):
    path = world / "embeddings/baseline/test/images.npy"
    rows = np.load(path)
    rows[3, 0] = np.nan
    np.save(path, rows)
    done = run_stage(world, "evaluate", "baseline")
    assert done.returncode == 1
    assert done.stderr.startswith("error: embeddings/baseline/test/images.npy: row 3 holds NaN or infinity; ")
    assert "Traceback" not in done.stderr
    assert not (world / "results").exists()

    path.unlink()
    with pytest.raises(
        UserError, match=r"baseline/test/images\.npy: these embeddings are missing; run `dvc repro`"
    ):
        run(world, "baseline")
    np.save(path, rows[:5])
    message = r"images\.npy: 5 rows found, 12 expected, one per row of .*clean/test/images\.parquet"
    with pytest.raises(UserError, match=message):
        run(world, "baseline")


def test_the_stage_says_how_it_is_called(world, run_stage):
    done = run_stage(world, "evaluate")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "python -m stages.evaluate MODEL" in done.stderr
