"""What a switch of training gives on the sample: R@5 of both directions on valid and test, over three seeds.

    .venv/bin/python benchmarks/switches.py frozen     # the sample's recipe, both towers frozen: minutes
    .venv/bin/python benchmarks/switches.py towers     # rates of towers that are trained: an hour
    .venv/bin/python benchmarks/switches.py patches    # patches left out, towers from nothing: half an hour

Run it in a checkout whose `make run` has ended; what was measured before is not measured again. Each row is a
training by the pipeline's own functions, with another setting than the row "as it is"; a seed decides weights and
order of both trainings. What frozen towers pool is computed once for all runs, so the corpus is shown by the views
of the first seed. Every query counts, those whose caption stands in train too.
"""

import argparse
import contextlib
import hashlib
import json
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch

from tuwen.core.params import Params
from tuwen.core.params.root import check_params
from tuwen.core.presets import compose_preset, get_values
from tuwen.data.formats import pairs
from tuwen.data.formats.shards import Place
from tuwen.data.formats.text import load_tokenizer
from tuwen.model.dual_encoder import DualEncoder, load_model
from tuwen.retrieval import encode
from tuwen.retrieval.quantised.recall import cut_vectors
from tuwen.retrieval.vectors import Vectors
from tuwen.training import recipes, runner
from tuwen.training.frozen.pooled_views import PooledViews
from tuwen.training.validation import measure_vectors

Settings = Mapping[str, Any]  # place in params.yaml, with dots -> value
Record = dict[str, Any]
SEEDS = (0, 1, 2)
SETS, BATCH_SIZE = ("valid", "test"), 64
DIMS = (256, 128, 64)  # first dimensions that are measured
AS_IT_IS = "as it is"


class Part(NamedTuple):
    """One table: a recipe, and the rows that differ from it."""

    preset: str
    settings: Settings  # of the recipe, where it is not the preset's
    rows: Mapping[str, Settings]
    finetunes: bool = True  # or the baseline is what is measured
    frozen: bool = False  # both towers, in both trainings


def set_both(switch: str, value: Any) -> Settings:
    """Return a switch of both trainings."""
    return {f"{stage}.fit.{switch}": value for stage in ("baseline", "finetune")}


FROZEN = Part(
    "sample",
    {},
    {
        AS_IT_IS: {},
        "matryoshka: [128, 64]": set_both("matryoshka", [128, 64]),
        "sigmoid: true": set_both("sigmoid", True),
        "select.soup: true": {"finetune.fit.select.soup": True},
        **{  # fine-tuning alone: pre-training starts from projections that know nothing
            f"siblings: masked, mask_margin: {margin}": {
                "finetune.fit.siblings": "masked",
                "finetune.fit.mask_margin": margin,
            }
            for margin in (0.0, -0.1, 0.1)
        },
        "matryoshka: [128, 64], fine-tuning alone": {"finetune.fit.matryoshka": [128, 64]},
        "select.epochs: true": {"finetune.fit.select.epochs": True},
        "select.wise_ft: [0.25, 0.5, 0.75]": {"finetune.fit.select.wise_ft": [0.25, 0.5, 0.75]},
    },
    frozen=True,
)
TOWERS = Part(
    "sample",
    {
        "image.size_px": 96,
        "augment.mode": "online",
        "finetune.fit.freeze": "none",
        "finetune.fit.epochs": 2,
        "finetune.fit.batch_size": 64,
        "finetune.fit.warmup_steps": 5,
    },
    {
        AS_IT_IS: {},
        "freeze: towers": {"finetune.fit.freeze": "towers"},
        "tower_lr: 1e-5": {"finetune.fit.tower_lr": 1e-5},
        "layer_decay: 0.7": {"finetune.fit.layer_decay": 0.7},
        "tower_lr: 3e-5, layer_decay: 0.7": {"finetune.fit.tower_lr": 3e-5, "finetune.fit.layer_decay": 0.7},
    },
)
PATCHES = Part(
    "scratch",
    {"baseline.fit.epochs": 6},
    {
        AS_IT_IS: {},
        "all_patches_epochs: 1": {"baseline.fit.all_patches_epochs": 1},
        "all_patches_epochs: 2": {"baseline.fit.all_patches_epochs": 2},
    },
    finetunes=False,
)
PARTS = {"frozen": FROZEN, "towers": TOWERS, "patches": PATCHES}


def main() -> None:
    """Run what is missing of a part, and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--data", type=Path, default=Path("data"), help="that of a finished run")
    parser.add_argument("--work", type=Path, default=Path(".cache/switches"), help="what was measured, and models")
    asked = parser.parse_args()
    part, work = PARTS[asked.part], asked.work / asked.part
    work.mkdir(parents=True, exist_ok=True)
    records = [measure_row(part, row, seed, asked.data, work) for row in part.rows for seed in SEEDS]
    for dim in DIMS:
        print("\n".join(format_table(records, dim)), flush=True)


def make_params(part: Part, row: str, seed: int) -> Params:
    """Return the settings of a run."""
    values = get_values(compose_preset(part.preset))
    seeds = {"baseline.seed": seed, "finetune.seed": seed}
    for place, value in {**part.settings, **seeds, **part.rows[row]}.items():
        *groups, key = place.split(".")
        group = values
        for name in groups:
            group = group[name]
        assert key in group, place
        group[key] = value
    return check_params(values, f"{row}, seed {seed}")


def measure_row(part: Part, row: str, seed: int, data: Path, work: Path) -> Record:
    """Train and measure a row with a seed, unless `work` has its record."""
    params, clean = make_params(part, row, seed), data / "clean"
    settings = params.model_dump(mode="json")
    both = [settings["baseline"], settings["finetune"]]
    baseline = work / f"baseline-{_hash(both[0])}"
    model = work / f"finetuned-{_hash(both)}" if part.finetunes else baseline
    kept = work / f"{model.name}.json"
    if kept.is_file():
        record: Record = json.loads(kept.read_text(encoding="utf-8"))
        return record
    if not (baseline / "manifest.json").is_file():
        with share_pooled(work / "baseline.pt"):
            recipes.make_baseline(clean, baseline, params, work / f"{baseline.name}.part", lambda *_: None)
    if part.finetunes:
        places = clean, data / "augmented", baseline, model
        with share_pooled(work / "finetune.pt") if part.frozen else contextlib.nullcontext():
            recipes.make_finetuned(*places, params, work / f"{model.name}.part", lambda *_: None)
    record = {"row": row, "seed": seed, "recall": measure(model, clean, work, part)}
    kept.write_text(json.dumps(record), encoding="utf-8")
    print(json.dumps(record), flush=True)
    if part.finetunes:
        shutil.rmtree(model)
    return record


@contextlib.contextmanager
def share_pooled(file: Path) -> Iterator[None]:
    """Let the trainings within this block take what frozen towers pool from `file`, and keep it there."""
    with torch.serialization.safe_globals([Place]):  # where a picture's bytes lie, which names what it pooled to
        images, texts = torch.load(file, weights_only=True) if file.is_file() else ({}, {})
    before = len(images)

    class SharedPooledViews(PooledViews):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self._images, self._texts = images, texts

    try:
        with mock.patch.object(runner, "PooledViews", SharedPooledViews):
            yield
    finally:
        if len(images) > before:
            torch.save((images, texts), file)


def measure(folder: Path, clean: Path, work: Path, part: Part) -> dict[str, dict[str, float]]:
    """Return dimensions -> set and direction -> R@5 of a model over the whole galleries."""
    model, recall = load_model(folder), dict[str, dict[str, float]]()
    for name in SETS:
        tables = pairs.read_pair_set(clean / name)
        images, texts = embed(model, folder, clean, tables, work / f"{name}.npz" if part.frozen else None)
        for dim in DIMS:
            vectors = cut_vectors(images, dim), cut_vectors(texts, dim)
            figures = measure_vectors(*vectors, *pairs.find_true_rows(tables)).figures
            shares = {f"{name} {way}": figures[f"valid_{way}_hit_at_5"] for way in ("i2t", "t2i")}
            recall[str(dim)] = recall.get(str(dim), {}) | shares
    return recall


def embed(
    model: DualEncoder, folder: Path, clean: Path, tables: pairs.PairSet, pooled: Path | None
) -> tuple[Vectors, Vectors]:
    """Return the vectors of a set's images and texts; pooled: where what its frozen towers make is kept."""
    if pooled is not None and pooled.is_file():
        kept = np.load(pooled)
        return encode.project_pooled(model, kept["images"], kept["texts"])
    tokenizer, captions = load_tokenizer(folder / "vocab.txt"), tables.texts["caption"].to_pylist()
    pixels = encode.read_images(clean.parent, tables, model.picture_rule)
    if pooled is None:
        texts = encode.embed_captions(model, tokenizer, captions, BATCH_SIZE)
        return encode.embed_images(model, pixels, BATCH_SIZE), texts
    images = encode.pool_images(model, pixels, BATCH_SIZE)
    texts = encode.pool_captions(model, tokenizer, captions, BATCH_SIZE)
    np.savez(pooled, images=images, texts=texts)
    return encode.project_pooled(model, images, texts)


def format_table(records: Sequence[Record], dim: int) -> Iterator[str]:
    """Yield a table in percent: the mean over the seeds, and in brackets the least and the most.

    The last column is the change of the mean of both directions on test against "as it is", in points, by seeds.
    """
    columns = [f"{name} {way}" for name in SETS for way in ("i2t", "t2i")]
    yield f"| {dim} dimensions | {' | '.join(columns)} | test, change |"
    yield "|---" * (len(columns) + 2) + "|"
    runs: dict[str, dict[int, dict[str, float]]] = {}
    for record in records:
        runs.setdefault(record["row"], {})[record["seed"]] = record["recall"][str(dim)]
    for row, by_seed in runs.items():
        cells = [_format_spread([run[column] for run in by_seed.values()]) for column in columns]
        base = runs.get(AS_IT_IS, {})
        changes = [_mean_test(run) - _mean_test(base[seed]) for seed, run in by_seed.items() if seed in base]
        shown = "" if row == AS_IT_IS or not changes else _format_spread(changes, "+.1f")
        yield f"| {row} | {' | '.join(cells)} | {shown} |"


def _mean_test(run: Mapping[str, float]) -> float:
    return statistics.mean((run["test i2t"], run["test t2i"]))


def _format_spread(shares: Sequence[float], form: str = ".1f") -> str:
    mean, least, most = (
        format(100 * value, form) for value in (statistics.mean(shares), min(shares), max(shares))
    )
    return f"{mean} [{least}, {most}]"


def _hash(settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


if __name__ == "__main__":
    main()
