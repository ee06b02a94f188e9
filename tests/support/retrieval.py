"""A dozen drawn images with Chinese texts and two models' embeddings: all that comes before `evaluate_model`."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from tests.support.checkout import ROOT
from tuwen.core.params import load_params
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.shards import ShardWriter

COLOURS = {"红色": "#d62728", "绿色": "#2ca02c", "蓝色": "#1f77b4", "黄色": "#e6b800"}
SHAPES = ("圆形", "方形", "三角形")
WHOLE = {"in": 12, "clean": 12, "quarantined": 0, "left_out": 0, "blank": 0, "faults": {}}


def build(root: Path, *, noise: dict[str, float] | None = None) -> Path:
    """Write params.yaml, data/clean, embeddings and models into `root`; noise: model -> how wrong it is."""
    shutil.copy(ROOT / "params.yaml", root)
    test = make_set(root / "data", "clean/test")
    for name in ("valid", "bank", "t2i", "i2t"):  # the same images: what they show does not matter here
        pairs.write_pair_set(root / "data/clean" / name, test)
    for model, wrong in (noise or {"baseline": 3.0, "finetuned": 0.5}).items():
        write_training(root / "models" / model / "training.json", 4)
        manifest.write_manifest(root / "models" / model, {}, {"noise": wrong})
        for name in ("test", "valid", "bank"):
            embed(root / "embeddings" / model / name, test, wrong)
            sign(root, model, name)
    shutil.copytree(root / "models/finetuned", root / "models/final")
    for name in ("t2i", "i2t", "bank"):
        embed(root / "embeddings/final" / name, test, 0.5)
        sign(root, "final", name)
    write_quality(root / "data/clean/quality.json")
    (root / "index").mkdir()
    (root / "index/reliability.json").write_text("{}", encoding="utf-8")  # test is not in the index
    return root


def make_set(data: Path, folder: str, captions: dict[str, str] | None = None) -> pairs.PairSet:
    """Write 12 images (4 colours x 3 shapes), 2 texts of their own each, 4 texts that stand for 3 images each."""
    concepts = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    images, texts, pairing = [], [], []
    with ShardWriter(data, f"{folder}/shards") as writer:
        for n, (colour, shape) in enumerate(concepts):
            image_id = f"图{n:02d}.png"
            member = writer.add(image_id, draw(COLOURS[colour], shape))
            row = {"image_id": image_id, "positive_id": image_id, "group": f"{colour}{shape}", "category": None}
            images.append(row | member._asdict())
            for kind, caption in (("name", f"一个{colour}的{shape}"), ("list", f"{shape}、{colour}、几何图形")):
                texts.append({"text_id": f"{kind}-{n:02d}", "caption": caption})
                pairing.append((image_id, f"{kind}-{n:02d}"))
    for c, colour in enumerate(COLOURS):
        texts.append({"text_id": f"colour-{c}", "caption": f"画里的东西是{colour}的,形状不限"})
        pairing += [(f"图{n:02d}.png", f"colour-{c}") for n in range(3 * c, 3 * c + 3)]
    for text in texts:
        text["caption"] = (captions or {}).get(text["text_id"], text["caption"])
    rows = [{"pair_id": f"p{n:02d}", "image_id": i, "text_id": t} for n, (i, t) in enumerate(pairing)]
    pair_set = pairs.PairSet(
        pa.Table.from_pylist(images, pairs.IMAGES),
        pa.Table.from_pylist(texts, pairs.TEXTS),
        pa.Table.from_pylist(rows, pairs.PAIRS),
    )
    pairs.write_pair_set(data / folder, pair_set)
    return pair_set


def draw(colour: str, shape: str, size_px: tuple[int, int] = (144, 144)) -> bytes:
    """Return a PNG of one shape on a transparent ground."""
    image = Image.new("RGBA", size_px)
    pen = ImageDraw.Draw(image)
    if shape == "圆形":
        pen.ellipse((16, 16, 128, 128), fill=colour)
    elif shape == "方形":
        pen.rectangle((20, 20, 124, 124), fill=colour)
    else:
        pen.polygon([(72, 14), (132, 126), (12, 126)], fill=colour)
    with io.BytesIO() as file:
        image.save(file, "PNG")
        return file.getvalue()


def embed(folder: Path, pair_set: pairs.PairSet, noise: float) -> None:
    """Write unit vectors: an image is a random direction, a text the mean of its images plus `noise`."""
    random = np.random.default_rng(7)
    image, text = pairs.find_true_rows(pair_set)
    images = random.normal(size=(len(pair_set.images), 16))
    texts = np.zeros((len(pair_set.texts), 16))
    np.add.at(texts, text, images[image])
    texts += noise * random.normal(size=texts.shape) * np.linalg.norm(texts, axis=1, keepdims=True) / 4
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("images", images), ("texts", texts)):
        np.save(folder / f"{name}.npy", (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))


def run(root: Path, model: str = "finetuned", named: str | None = None) -> dict[str, dict[str, float]]:
    """Call `evaluate_model` in `root`; named: the model that the embeddings must be of, None for any."""
    from tuwen.evaluation.evaluate import evaluate_model  # brings torch, which most stages of tests do without

    params = load_params(root / "params.yaml")
    folders = root / "embeddings" / model, root / "data/clean", root / "results" / model
    model_folder = root / "models" / named if named else None
    return evaluate_model(*folders, params.evaluate, params.pairs, model=model_folder)


def sign(root: Path, model: str, name: str) -> None:
    """Write the manifest by which the model's embeddings of the set are of both as they stand."""
    inputs = {"model": root / "models" / model, "set": root / "data/clean" / name}
    manifest.write_manifest(root / "embeddings" / model / name, inputs, {})


def write_training(path: Path, epochs: int) -> None:
    """Write a training.json whose curves fall and rise."""
    records = [
        {
            "epoch": n,
            "loss": 5 / n,
            "lr": 1e-3 / n,
            "temperature": 0.07,
            "valid_i2t_hit_at_5": 1 - 0.9 / n,
            "valid_t2i_hit_at_5": 1 - 0.8 / n,
        }
        for n in range(1, epochs + 1)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"pairs": 96, "steps": 12, "epochs": records}))


def write_quality(path: Path) -> None:
    """Write a quality.json as `validate` does."""
    tables = dict.fromkeys(("images", "texts", "pairs"), WHOLE)
    faulty = WHOLE | {"in": 13, "quarantined": 1, "faults": {"caption_visible": 1}}
    found = WHOLE | {"in": 15, "quarantined": 3, "faults": {"duplicate_pair": 1, "in_valid_or_test": 2}}
    verdict = {"severity": "warning", "success": True, "unexpected": 0}
    body = {
        "raw": {
            "labelled": tables | {"texts": faulty, "formats": {"PNG": 12}},
            "corpus/art": tables | {"images": found},
        },
        "clean": {"test": {"images": 12, "texts": 28, "pairs": 36, "merged_captions": 0}},
        "corpus": {"far": {"shards": 2, "measured_shards": 1, "faults": {}, "in_valid_or_test": 3}},
        "groups": {"groups": 12, "largest_group_pictures": 1},
        "checks": {
            "labelled": {
                "images": {"picture_readable": verdict},
                "texts": {"caption_visible": verdict | {"success": False, "unexpected": 1}},
            }
        },
    }
    path.write_text(json.dumps(body))
