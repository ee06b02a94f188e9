"""All that comes before `report`: retrieval_world's set, evaluated, with one hostile caption among its texts."""

import json
import shutil
from pathlib import Path

from tests.support.retrieval import COLOURS, build, make_set, run
from tuwen.core.params import load_params
from tuwen.data.formats import pairs
from tuwen.report import report

HOSTILE = "<script>document.title = '红色'; window.hurt = 1</script> & \"引号\" <img src=x onerror=window.hurt=1>"
SERVED = {
    "t2i": {"queries": 28, "right": 0.25, "brier": 0.125, "ece": 0.0625, "bins": []},
    "i2t": {"queries": 12, "right": 0.5, "brier": 0.2, "ece": 0.031, "bins": []},
}
CLASSES = [*COLOURS, "<b>未分类</b>"]


def make(root: Path, noise: dict[str, float] | None = None) -> Path:
    """Write params.yaml, data, embeddings, models and results of both models into `root`; noise: as in `build`."""
    build(root, noise=noise)
    for name in ("test", "bank"):
        pairs.write_pair_set(
            root / "data/clean" / name, make_set(root / "data", "clean/test", {"name-00": HOSTILE})
        )
    for model in ("baseline", "finetuned"):
        run(root, model)
        body = json.dumps(zero_shot(model), ensure_ascii=False)
        (root / "results" / model / "zero_shot.json").write_text(body, encoding="utf-8")
    (root / "index/reliability.json").write_text(json.dumps(SERVED), encoding="utf-8")
    return root


def written(root: Path, world: Path) -> Path:
    """Copy `world` to `root`, and write its reports there."""
    shutil.copytree(world, root, dirs_exist_ok=True)
    write(root)
    return root


def write(root: Path) -> None:
    """Write the reports of what stands in `root`."""
    folders = (root / name for name in ("data", "embeddings", "models", "results", "index"))
    report.write_reports(*folders, load_params(root / "params.yaml"))


def figures_of(root: Path, model: str, name: str = "test") -> dict[str, float]:
    """Return a set's values in the model's metrics.json."""
    values: dict[str, float] = json.loads((root / "results" / model / "metrics.json").read_text())[name]
    return values


def make_shares(*shares: float) -> dict[str, float]:
    """Return top-1, and top-5 where it is given, with intervals of a tenth to both sides."""
    return {
        f"{top}{end}": share + change
        for top, share in zip(("top_1", "top_5"), shares, strict=False)
        for end, change in (("", 0.0), ("_low", -0.1), ("_high", 0.1))
    }


def zero_shot(model: str) -> dict[str, object]:
    """Return a zero_shot.json of classes that this set lacks."""
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
        "one_prompt": make_shares(share / 2, 0.8),
        "ensemble": make_shares(share, 0.9),
        "per_class": [
            {"class": name, "pictures": all_of, **make_shares(right / all_of)}
            for name, all_of in zip(CLASSES, pictures, strict=True)
        ],
        "confusion": confusion,
    }
