"""The real graph, every stage, on the `smoke` preset with a small re-ranker: what `make run` does, in small."""

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from tests.support import smoke
from tests.support.smoke import STAGES, mlflow_runs, run
from tuwen.data.formats import pairs
from tuwen.data.formats.directions import DIRECTIONS
from tuwen.evaluation.models import MODELS


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the working tree with the smoke preset, in a git repository of its own, run once.

    Its tasks are answered by a re-ranker; tests/flows and tests/faults run the preset as it is, without one.
    """
    overlay = {"rerank": smoke.describe_reranker(epochs=1), "predict": {"rerank": True}}
    folder = smoke.make(tmp_path_factory.mktemp("project"), overlay)
    done = run(folder, "dvc", "repro")
    assert done.stdout.count("Running stage") == STAGES
    return folder


def test_every_test_query_is_answered_by_five_items_of_the_gallery(project: Path) -> None:
    test = pairs.read_pair_set(project / "data/clean/test")
    images, texts = test.images["image_id"].to_pylist(), test.texts["text_id"].to_pylist()
    for name, queries, gallery in (("result1.csv", texts, images), ("result2.csv", images, texts)):
        with open(project / "results" / name, encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        asked = "text_id" if name == "result1.csv" else "image_id"
        assert header[:2] == [asked, "similarity_ranking"]
        assert [row[0] for row in rows] == [query for query in queries for _ in range(5)]
        assert [row[1] for row in rows] == ["1", "2", "3", "4", "5"] * len(queries)
        assert {row[2] for row in rows} <= set(gallery)
        assert all(len({row[2] for row in rows[n : n + 5]}) == 5 for n in range(0, len(rows), 5))


def test_no_concept_of_test_or_valid_is_in_train(project: Path) -> None:
    groups = {
        name: set(pairs.read_pair_set(project / "data/clean" / name).images["group"].to_pylist())
        for name in ("train", "valid", "test")
    }
    assert all(groups.values())
    assert not groups["train"] & (groups["valid"] | groups["test"])
    assert not groups["valid"] & groups["test"]


def test_the_metrics_are_those_of_the_ranks(project: Path) -> None:
    for model in MODELS:
        metrics = json.loads((project / "results" / model / "metrics.json").read_text())["test"]
        ranks = pairs.read_table(project / "results" / model / "ranks.parquet").to_pandas()
        for direction, rows in ranks.groupby("direction"):
            for k in (1, 5):
                assert metrics[f"{direction}_hit_at_{k}"] == pytest.approx((rows.best_rank <= k).mean(), abs=1e-6)
                share = (rows[f"found_at_{k}"] / rows.true_items).mean()
                assert metrics[f"{direction}_recall_at_{k}"] == pytest.approx(share, abs=1e-6)


def synced_runs(project: Path) -> list[list[Any]]:
    run(project, "tuwen", "track", "sync")
    return mlflow_runs(project)


def test_every_training_and_evaluation_is_an_mlflow_run(project: Path) -> None:
    runs = synced_runs(project)
    outs = [f"{top}/{model}" for top in ("models", "results") for model in MODELS]
    assert [out for out, *_ in runs] == outs
    commit = run(project, "git", "rev-parse", "HEAD").stdout.strip()
    recalls = {
        f"{name}_{direction}_R_at_{k}" for name in ("test", "valid") for direction in DIRECTIONS for k in (1, 5)
    }
    for out, status, metrics, params, tags in runs:
        assert status == "FINISHED"
        assert params
        assert commit in tags.values()
        learned = {"loss", "fgr_accuracy" if out == "models/reranked" else "temperature"}
        wanted = recalls | (learned if out.startswith("models") else set())
        assert wanted <= set(metrics), (out, metrics)


def test_the_fine_tuned_models_run_holds_the_whole_recipe_and_what_ran(project: Path) -> None:
    _, (_, _, metrics, params, tags), *_ = synced_runs(project)
    wanted = {"preset": "smoke", "source.concepts": "60", "corpus.art.concepts": "60", "augment.views": "8"}
    wanted |= {"baseline.fit.lr": "0.001", "finetune.fit.lr": "0.0003", "ran.processes": "1"}
    assert params.items() >= wanted.items()
    assert tags["mlflow.runName"].rpartition(" ")[0] == "smoke finetuned"
    measured = json.loads((project / "results/finetuned/metrics.json").read_text())
    assert metrics["test_i2t_R_at_5"] == measured["test"]["i2t_hit_at_5"]


def test_the_report_carries_its_pictures_and_git_gets_no_caption(project: Path) -> None:
    html = (project / "results/report.html").read_text(encoding="utf-8")
    assert html.count("data:image/") > 20
    assert not [word for word in ("http://", "https://") if word in html.replace("http://www.w3.org", "")]
    markdown = (project / "results/report.md").read_text(encoding="utf-8")
    captions = pairs.read_pair_set(project / "data/clean/test").texts["caption"].to_pylist()
    assert not [caption for caption in captions if len(caption) > 1 and caption in markdown]


def test_the_table_names_all_models_and_the_files(project: Path) -> None:
    shown = run(project, "tuwen", "results").stdout
    for word in ("baseline", "fine-tuned", "re-ranked", "result1.csv", "result2.csv", "report.html"):
        assert word in shown


def test_the_tasks_are_answered_in_the_order_that_was_measured(project: Path) -> None:
    """`predict` and `evaluate@reranked` come to it by ways of their own: here the task is the test set."""
    test = pairs.read_pair_set(project / "data/clean/test")
    ids = {"images": test.images["image_id"].to_pylist(), "texts": test.texts["text_id"].to_pylist()}
    image, text = (rows.tolist() for rows in pairs.find_true_rows(test))
    true = {frozenset((ids["images"][i], ids["texts"][t])) for i, t in zip(image, text, strict=True)}
    ranks = pairs.read_table(project / "results/reranked/ranks.parquet").to_pandas()
    moved = 0
    for file, direction in (("result1.csv", DIRECTIONS["t2i"]), ("result2.csv", DIRECTIONS["i2t"])):
        with open(project / "results" / file, encoding="utf-8", newline="") as lines:
            rows = list(csv.reader(lines))[1:]
        own = ranks[ranks.direction == direction.name]
        for rank in range(1, 6):
            hit = {query for query, place, item in rows if int(place) <= rank and frozenset((query, item)) in true}
            assert hit == set(own.query_id[own.best_rank <= rank])
        queries, gallery = (
            np.load(project / f"embeddings/final/{direction.name}/{side}.npy")
            for side in (direction.queries, direction.gallery)
        )
        by_cosine = np.argsort(-queries @ gallery.T, axis=1, kind="stable")[:, :5]
        plain = [ids[direction.gallery][item] for item in by_cosine.ravel()]
        moved += sum(item != before for (_, _, item), before in zip(rows, plain, strict=True))
    assert moved


def test_both_reports_tell_what_re_ranking_changes(project: Path) -> None:
    markdown, page = ((project / "results" / f"report.{form}").read_text() for form in ("md", "html"))
    assert "\n## Re-ranking: the first answers in a new order, in percent" in markdown
    assert "The tasks' answers are re-ranked: text → image and image → text." in markdown
    assert '<h2 id="reranking">' in page


def test_a_second_run_does_nothing_and_a_report_setting_remakes_the_report_alone(project: Path) -> None:
    before = synced_runs(project)
    assert "Running stage" not in run(project, "dvc", "repro").stdout
    assert [name for name, *_ in synced_runs(project)] == [name for name, *_ in before]
    params = project / "params.yaml"
    kept = params.read_text()
    yaml = YAML()
    yaml.preserve_quotes = True  # DVC's reader refuses a bare https:// within braces
    values = yaml.load(kept)
    values["report"]["examples"] += 1
    yaml.dump(values, params)
    again = run(project, "dvc", "repro").stdout
    params.write_text(kept)
    assert [line for line in again.splitlines() if line.startswith("Running")] == ["Running stage 'report':"]


def test_thresholds_and_versions_run_what_they_decide_and_nothing_else(project: Path) -> None:
    """The same keys as docs/architecture.md's table, in the whole graph; another Prefect decides nothing."""
    run(project, "dvc", "repro")  # what a test before this one left
    assert list_stale(project, "versions.yaml", r'(?m)^( +torch: &torch )"[\d.]+"', r'\1"99.0"') == {
        *("baseline", "finetune", "refit", "rerank", "embed", "evaluate", "index", "predict", "report"),
    }
    assert list_stale(project, "versions.yaml", r'resvg_py: "[\d.]+"', 'resvg_py: "99.0"') == {"ingest", "corpus"}
    assert list_stale(project, "constraints.txt", r"(?m)^prefect==.+$", "prefect==99.0") == set()
    params = project / "params.yaml"
    kept = params.read_text(encoding="utf-8")
    changed = re.sub(r"(?m)^(  max_drift): .*$", r"\1: 0.3", kept)
    params.write_text(re.sub(r"(?m)^(  min_side_px): .*$", r"\1: 15", changed), encoding="utf-8")
    again = run(project, "dvc", "repro").stdout
    params.write_text(kept, encoding="utf-8")
    run(project, "dvc", "repro")  # by the run cache
    ran = re.findall(r"^Running stage '(\S+)':$", again, flags=re.MULTILINE)
    assert "validate" in ran
    assert set(ran) <= {"validate", "report"}


def list_stale(project: Path, file: str, pattern: str, new: str) -> set[str]:
    """Return the stages that DVC would run, were this the text of a file."""
    path = project / file
    kept = path.read_text(encoding="utf-8")
    changed = re.sub(pattern, new, kept)
    assert changed != kept
    path.write_text(changed, encoding="utf-8")
    status = json.loads(run(project, "dvc", "status", "--json").stdout)
    path.write_text(kept, encoding="utf-8")
    return {name.partition("@")[0] for name in status}


def test_training_again_gives_the_same_bytes(project: Path) -> None:
    before = (project / "models/baseline/manifest.json").read_bytes()
    run(project, "dvc", "repro", "--force", "--single-item", "baseline")
    assert (project / "models/baseline/manifest.json").read_bytes() == before


def test_a_bad_setting_stops_the_run_and_finished_stages_keep_their_outs(project: Path) -> None:
    params = project / "params.yaml"
    kept = params.read_text()
    params.write_text(kept.replace("max_tokens: 32", "max_tokens: many"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["dvc", "repro"],
        cwd=project,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    params.write_text(kept)
    assert done.returncode != 0
    assert "params.yaml: text.max_tokens: input should be a valid integer, got 'many'" in done.stderr
    assert "Traceback" not in done.stderr
    assert (project / "data/augmented/views.parquet").is_file()
    assert (project / "results/report.html").is_file()


def test_outs_share_their_blocks_with_the_cache_and_a_stage_by_hand_does_not_write_into_it(project: Path) -> None:
    run(project, "dvc", "repro", "--quiet")  # the test before this one stopped a stage, whose outs DVC had removed
    files = [path for name in ("data", "models", "embeddings") for path in (project / name).rglob("*")]
    alone = [path for path in files if path.is_file() and path.stat().st_nlink == 1]
    assert {path.name for path in alone} - {".gitignore"} == {"quality.json"}  # git keeps these
    run(project, "python", "-m", "stages.predict")
    assert (project / "results/result1.csv").stat().st_nlink == 1
    for path in (project / ".dvc/cache/files/md5").glob("*/*"):
        digest = hashlib.md5(path.read_bytes()).hexdigest()
        assert f"{path.parent.name}{path.name}".removesuffix(".dir") == digest


def test_in_a_colleagues_clone_a_pull_is_enough_and_nothing_runs(project: Path, tmp_path: Path) -> None:
    remote, clone = tmp_path / "remote", tmp_path / "clone"
    run(project, "dvc", "push", "--quiet", "--remote", add_remote(project, remote))
    run(project, "git", "add", "--all")
    run(project, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "run")
    run(tmp_path, "git", "clone", "--quiet", str(project), str(clone))
    run(clone, "dvc", "pull", "--quiet", "--remote", add_remote(clone, remote))
    assert "Running stage" not in run(clone, "dvc", "repro").stdout
    assert smoke.outs(clone) == smoke.outs(project)
    assert run(clone, "git", "status", "--porcelain").stdout == ""


def add_remote(folder: Path, remote: Path) -> str:
    run(folder, "dvc", "remote", "add", "--local", "store", str(remote))
    return "store"
