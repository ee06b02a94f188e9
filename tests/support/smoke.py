"""The smoke preset in a git repository of its own: the real graph, every stage, on five dozen concepts."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.support.checkout import ROOT
from tests.support.reranking import make_settings
from tuwen.core.presets import compose_preset, format_preset

STAGES = 23  # ten single ones, one corpus source, nine of embed, three of evaluate
RUN_SECONDS = 1200


def make(folder: Path, overlay: Mapping[str, Any] | None = None) -> Path:
    """Make a committed copy of the working tree in `folder`, in which no stage has run.

    overlay: settings in place of the preset's, as those of a preset that extends it.
    """
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file() and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    if overlay:
        body = json.dumps({"extends": "smoke", **overlay}, ensure_ascii=False)  # JSON is YAML
        (folder / "presets/smoke-changed.yaml").write_text(body, encoding="utf-8")
    whole = format_preset(compose_preset("smoke-changed" if overlay else "smoke", folder / "presets"))
    (folder / "params.yaml").write_text(whole, encoding="utf-8")
    run(folder, "git", "init", "--quiet")
    run(folder, "git", "add", "--all")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "start")
    return folder


def describe_reranker(epochs: int) -> dict[str, Any]:
    """Return the group `rerank` of a small re-ranker, which the preset trains in seconds."""
    settings: dict[str, Any] = make_settings({"mlm": 0.5}).model_dump(mode="json")
    return settings | {"fit": settings["fit"] | {"epochs": epochs, "batch_size": 32}}


def environment(**more: str) -> dict[str, str]:
    """Return the variables of a command in such a folder: this Python, and an MLflow store of its own."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ours = {"PATH": path, "TUWEN_TRACKING_URI": "sqlite:///mlflow.db", "TERM": "dumb"}
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | ours | more


def run(folder: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command there and fail where it does; `more`: environment variables."""
    done = subprocess.run(
        command, cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=RUN_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def outs(folder: Path) -> dict[str, dict[str, str]]:
    """Return stage -> path of each out -> its hash, as in dvc.lock; empty before the first stage has run."""
    lock = folder / "dvc.lock"
    stages = YAML(typ="safe", pure=True).load(lock)["stages"] if lock.is_file() else {}
    return {name: {out["path"]: out["md5"] for out in stage.get("outs", [])} for name, stage in stages.items()}


def mlflow_runs(folder: Path) -> list[list[Any]]:
    """Return out, status, metrics, params and tags of every run in its store, sorted by out."""
    query = (
        "import json, mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db'); "
        "runs = mlflow.search_runs(experiment_names=['tuwen'], output_format='list'); "
        "runs = [(run.info, run.data) for run in runs]; "
        "rows = [[d.tags['tuwen.out'], i.status, d.metrics, d.params, d.tags] for i, d in runs]; "
        "print(json.dumps(rows))"
    )
    rows = json.loads(run(folder, sys.executable, "-c", query).stdout.splitlines()[-1])
    return sorted(rows, key=lambda row: str(row[0]))
