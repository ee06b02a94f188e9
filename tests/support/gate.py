"""A git and DVC repository with a dozen drawn images and all the stages that `flows.reevaluate` needs.

    captions.txt -> validate -> augment -> finetune -> embed -> evaluate (the real stage)

noise.txt sets how wrong the model of finetune is, so that a commit can make it worse or better. versions.yaml
names a package that decides what finetune, embed and evaluate make; constraints.txt pins others. Every stage but
evaluate notes in ran.txt that it really ran.    python -m tests.support.gate STAGE
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from tests.support.checkout import ROOT
from tests.support.retrieval import embed, make_set, sign
from tests.support.retrieval import run as measure
from tuwen.data.formats import manifest, pairs

SETS = ("test", "valid", "bank")
STAGES = """\
stages:
  validate:
    cmd: python -m tests.support.gate validate
    deps: [captions.txt]
    outs: [data/clean/test, data/clean/valid, data/clean/bank]
  augment:
    cmd: python -m tests.support.gate augment
    deps: [data/clean/valid]
    outs: [data/augmented, data/more/views]
  finetune:
    cmd: python -m tests.support.gate finetune
    params: [versions.yaml: [model]]
    deps: [noise.txt, data/clean/valid, data/augmented/shards, data/more]
    outs: [models/finetuned]
  embed:
    cmd: python -m tests.support.gate embed
    meta: {gpu: true}
    params: [versions.yaml: [model]]
    deps: [models/finetuned, data/clean]
    outs: [embeddings/finetuned]
  evaluate:
    foreach: [finetuned]
    do:
      cmd: python -m stages.evaluate ${item}
      params: [evaluate, pairs, versions.yaml: [model]]
      deps: [models/finetuned, data/clean, embeddings/finetuned]
      outs: ["results/${item}/details.json", "results/${item}/pair_cosines.parquet",
             "results/${item}/ranks.parquet", "results/${item}/zero_shot.json"]
      metrics: ["results/${item}/metrics.json": {cache: false}]
"""
# Where there is a re-ranker: reranked.txt sets how wrong it is.
RERANKING = """\
  rerank:
    cmd: python -m tests.support.gate rerank
    deps: [reranked.txt, models/finetuned]
    outs: [models/reranked]
  evaluate:
    foreach:
      finetuned: {call: stages.evaluate finetuned}
      reranked: {call: tests.support.gate measure}
    do:
      cmd: python -m ${item.call}
      params: [evaluate, pairs, versions.yaml: [model]]
      deps: ["models/${key}", data/clean, embeddings/finetuned]
      outs: ["results/${key}/details.json", "results/${key}/pair_cosines.parquet", "results/${key}/ranks.parquet"]
      metrics: ["results/${key}/metrics.json": {cache: false}]
"""
# Of a package that is installed nowhere, so that its version may change.
VERSIONS = 'model: {{tuwen-test-encoder: "{version}"}}\n'
IGNORED = """\
/data/*
!/data/clean/
/data/clean/*
!/data/clean/kept.txt
/models/
/embeddings/
/runs/
/results/*/*
!/results/*/metrics.json
/ran.txt
"""


def run(folder: Path, *command: str) -> str:
    """Run a command in the repository and return its stdout; fail where it does."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(folder: Path, noise: float) -> Path:
    """Make a repository with one commit, tagged `base`, in which all is up to date."""
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/.gitignore").write_text("/config.local\n/cache\n/tmp\n")
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc")  # its outs are links into the cache
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / ".gitignore").write_text(IGNORED)
    (folder / "versions.yaml").write_text(VERSIONS.format(version="2.0"))
    shutil.copy(ROOT / "constraints.txt", folder)
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "data/clean").mkdir(parents=True)
    (folder / "data/clean/kept.txt").touch()  # git keeps a part of this dep, so in a fresh clone it is not missing
    (folder / "captions.txt").write_text("一个红色的圆形\n", encoding="utf-8")
    (folder / "noise.txt").write_text(str(noise))
    run(folder, "git", "init", "--quiet", "--initial-branch", "main")
    run(folder, "git", "config", "user.name", "测试")
    run(folder, "git", "config", "user.email", "test@example.org")
    run(folder, "dvc", "repro", "--quiet")
    commit(folder, "base")
    run(folder, "git", "tag", "base")
    return folder


def add_reranker(folder: Path, noise: float) -> None:
    """Add a re-ranker to the graph and the settings, and make it."""
    from tests.support.reranking import make_settings  # brings torch, which the stages below do without

    graph = STAGES[: STAGES.index("  evaluate:\n")] + RERANKING
    (folder / "dvc.yaml").write_text(graph)
    (folder / "reranked.txt").write_text(str(noise))
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load(folder / "params.yaml")
    params["baseline"]["start"] = {"kind": "fresh", "shape": "ViT-B-16"}  # the sample's pictures have no tokens
    params["rerank"] = make_settings().model_dump(mode="json")
    yaml.default_flow_style = False  # DVC's reader refuses https:// within braces
    yaml.dump(params, folder / "params.yaml")
    run(folder, "dvc", "repro", "--quiet")


def commit(folder: Path, message: str) -> None:
    """Commit everything that git does not ignore."""
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "-m", message)


def ran(folder: Path) -> list[str]:
    """Return the stages that ran since the last call."""
    path = folder / "ran.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def main() -> None:
    """Run one stage in the current directory."""
    root, stage = Path(), sys.argv[1]
    with open("ran.txt", "a") as file:
        file.write(f"{stage}\n")
    clean, model = root / "data/clean", root / "models/finetuned"
    match stage:
        case "validate":
            first = Path("captions.txt").read_text(encoding="utf-8").strip()
            test = make_set(root / "data", "clean/test", {"name-00": first})
            for other in SETS[1:]:
                pairs.write_pair_set(clean / other, test)
        case "augment":
            for name in ("augmented/shards/0.tar", "augmented/views.txt", "more/views/1.tar"):
                (root / "data" / name).parent.mkdir(parents=True, exist_ok=True)
                (root / "data" / name).write_text(f"{name} 视图", encoding="utf-8")
        case "finetune":
            model.mkdir(parents=True)
            manifest.write_manifest(model, {}, {"noise": float(Path("noise.txt").read_text())})
        case "embed":
            noise = json.loads((model / manifest.MANIFEST).read_text())["params"]["noise"]
            for name in SETS:
                embed(root / "embeddings/finetuned" / name, pairs.read_pair_set(clean / name), noise)
                sign(root, "finetuned", name)
        case "rerank":
            (root / "models/reranked").mkdir(parents=True)
            manifest.write_manifest(
                root / "models/reranked", {}, {"noise": float(Path("reranked.txt").read_text())}
            )
        case "measure":  # a re-ranker stands in as vectors of its own, in a folder that nobody declares
            noise = json.loads((root / "models/reranked" / manifest.MANIFEST).read_text())["params"]["noise"]
            for name in SETS:
                embed(root / "embeddings/reranked" / name, pairs.read_pair_set(clean / name), noise)
            measure(root, "reranked")


if __name__ == "__main__":
    main()
