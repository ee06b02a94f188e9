"""All that comes before `report`: retrieval_world's set, evaluated, with one hostile caption among its texts."""

import json
import shutil
from pathlib import Path

import numpy as np

from tests.retrieval_world import COLOURS, build, make_set, run
from tuwen import pairs, report
from tuwen.params import load

HOSTILE = "<script>document.title = '红色'; window.hurt = 1</script> & \"引号\" <img src=x onerror=window.hurt=1>"
CLASSES = [*COLOURS, "<b>未分类</b>"]


def make(root: Path) -> Path:
    """Write params.yaml, data, embeddings, models and results of both models into `root`."""
    build(root)
    for name in ("test", "bank"):
        pairs.write(root / "data/clean" / name, make_set(root / "data", "clean/test", {"name-00": HOSTILE}))
    for model in ("baseline", "finetuned"):
        run(root, model)
        complete(root, model)
    return root


def written(root: Path, world: Path) -> Path:
    """A copy of `world` in `root`, with its reports."""
    shutil.copytree(world, root, dirs_exist_ok=True)
    write(root)
    return root


def write(root: Path) -> None:
    """Write the reports of what stands in `root`."""
    folders = (root / name for name in ("data", "embeddings", "models", "results"))
    report.write(*folders, load(root / "params.yaml"))


def figures_of(root: Path, model: str, name: str = "test") -> dict[str, float]:
    """A set's figures in the model's metrics.json."""
    figures: dict[str, float] = json.loads((root / "results" / model / "metrics.json").read_text())[name]
    return figures


def complete(root: Path, model: str) -> None:
    """What `evaluate` does not write of metrics.json, details.json and zero_shot.json."""
    results = root / "results" / model
    metrics = json.loads((results / "metrics.json").read_text())
    test = metrics["test"]
    hits = [test[f"{way}_hit_at_{k}"] for way in ("t2i", "i2t") for k in (1, 5, 10)]
    mean = round(float(np.mean(hits)), 6)
    more = {"mean_recall": mean, "mean_recall_low": mean - 0.05, "mean_recall_high": mean + 0.04}
    for n, way in enumerate(("t2i", "i2t"), 2):
        more |= {f"{way}_median_rank": n + 0.5, f"{way}_hub_skewness": 1.25 * n, f"{way}_qbnorm_hub_skewness": 0.5}
        for k in (1, 5, 10):
            for end in ("", "_low", "_high"):
                more[f"{way}_qbnorm_hit_at_{k}{end}"] = min(1.0, test[f"{way}_hit_at_{k}{end}"] + 0.0123)
                more[f"{way}_qbnorm_gain_at_{k}{end}"] = 0.0123 + 0.01 * (end == "_high") - 0.02 * (end == "_low")
    metrics["test"] = more | test
    (results / "metrics.json").write_text(json.dumps(metrics))
    for name, body in (("details", _details(root, model)), ("zero_shot", _zero_shot(model))):
        path = results / f"{name}.json"
        if not path.is_file():
            path.write_text(json.dumps(body, ensure_ascii=False))


def _details(root: Path, model: str) -> dict[str, object]:
    pair_set = pairs.read(root / "data/clean/test")
    images, texts = (np.load(root / "embeddings" / model / f"test/{name}.npy") for name in ("images", "texts"))
    cosine, true = images @ texts.T, np.zeros((len(images), len(texts)), bool)
    true[pairs.true_rows(pair_set)] = True
    edges = np.linspace(cosine.min(), cosine.max() + 1e-6, 21)
    counts = {name: np.histogram(cosine[mask], edges)[0] for name, mask in (("true", true), ("false", ~true))}
    ids = {"t2i": pair_set.images["image_id"], "i2t": pair_set.texts["text_id"]}
    curve = [
        {"gallery": size, "hit_at_1": 1 / size, "hit_at_5": 3 / size, "hit_at_10": 4 / size} for size in (4, 8, 12)
    ]
    return {
        "gallery_curve": {"t2i": curve, "i2t": curve},
        "score_histogram": {"edges": edges.tolist()} | {name: found.tolist() for name, found in counts.items()},
        "hubs": {
            way: {"k": 10, "top": [{"id": name, "times": 20 - n} for n, name in enumerate(some[:10].to_pylist())]}
            for way, some in ids.items()
        },
        "qbnorm": {"t2i": {"beta": 20.0}, "i2t": {"beta": 20.0}},
    }


def _zero_shot(model: str) -> dict[str, object]:
    right, size = {"baseline": 1, "finetuned": 2}[model], len(CLASSES)
    pictures = [3 + n for n in range(size)]
    confusion = [
        [right if m == n else all_of - right if m == (n + 1) % size else 0 for m in range(size)]
        for n, all_of in enumerate(pictures)
    ]
    share = right * size / sum(pictures)
    return {
        "classes": CLASSES,
        "pictures": sum(pictures),
        "one_prompt": {"top_1": share / 2, "top_5": 0.8},
        "ensemble": {"top_1": share, "top_5": 0.9},
        "per_class": [
            {"class": name, "pictures": all_of, "top_1": right / all_of}
            for name, all_of in zip(CLASSES, pictures, strict=True)
        ],
        "confusion": confusion,
    }
