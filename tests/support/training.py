"""Small drawn images with Chinese captions as clean sets and as shards, and settings that train in seconds."""

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from PIL import Image, ImageDraw

from tests.support.checkout import ROOT
from tuwen.core import params
from tuwen.core.presets import compose_preset, get_values
from tuwen.data.augment.stored_views import augment
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.images import Pixels
from tuwen.data.formats.shards import ShardWriter
from tuwen.training import recipes
from tuwen.training.dataset import Views
from tuwen.training.loader import Batch

COLOURS = {"红": "red", "绿": "green", "蓝": "blue", "黄": "gold", "紫": "purple", "灰": "gray", "青": "cyan"}
SHAPES = {"圆": "ellipse", "方块": "rectangle"}
SIZE_PX = 16
SMALL = {
    "dim": 32,
    "image": {"patch_px": 8, "width": 64, "layers": 1, "patch_dropout": 0.5},
    "text": {"width": 64, "layers": 1, "dropout": 0.0},
}
FIT = {
    **{"epochs": 4, "batch_size": 8, "chunk": None, "lr": 2e-3, "muon_lr": 2e-3, "weight_decay": 0.1},
    **{"warmup_steps": 2, "max_grad_norm": 1.0, "precision": "fp32", "gradient_checkpointing": False},
    **{"compile": False, "shard": "none", "freeze": "none", "siblings": "positives", "ema": None},
    **{"mask_margin": None, "sigmoid": False, "distil": None, "all_patches_epochs": 0},
    **{"deterministic": True, "layer_decay": 1.0, "tower_lr": None, "matryoshka": []},
    "select": {"epochs": False, "wise_ft": [], "soup": False},
}
TINY = {
    "dim": 32,
    "image": {"size_px": 16, "patch_px": 8, "width": 64, "layers": 1, "patch_dropout": 0.5},
    "text": {"width": 64, "layers": 1, "dropout": 0.1, "max_tokens": 12},
    "vocabulary": 24,
}
PIXELS = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
STEPS = 3
Members = Iterable[tuple[str, bytes]]


def drawn(number: int) -> bytes:
    """Return a PNG; each number looks different."""
    picture = Image.new("RGB", (40, 32), "white")
    side = 8 + number % 23
    shape = getattr(ImageDraw.Draw(picture), list(SHAPES.values())[number % 2])
    shape((number // 23 % 8, 1, number // 23 % 8 + side, 1 + side), fill=list(COLOURS.values())[number % 7])
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    return encoded.getvalue()


def caption(number: int) -> str:
    """Return a caption of what `drawn` shows."""
    return f"一个{list(COLOURS)[number % 7]}色的{list(SHAPES)[number % 2]}, 第{number}张"


def write_set(data: Path, name: str, sources: Mapping[str, Sequence[int]]) -> Path:
    """Write `data/clean/<name>`, an image and a caption for each number; sources: "" for a set without sources."""
    images, texts, rows = [], [], []
    with ShardWriter(data, f"clean/{name}/shards") as writer:
        for source, numbers in sources.items():
            for number in numbers:
                own = f"{source}/{number}" if source else str(number)
                member = writer.add(f"{own}.png", drawn(number))._asdict()
                images.append({"image_id": own, "positive_id": own, "source": source or None} | member)
                texts.append({"text_id": own, "caption": caption(number)})
                rows.append({"pair_id": own, "image_id": own, "text_id": own, "label": 1})
    tables = zip((images, texts, rows), (pairs.IMAGES, pairs.TEXTS, pairs.PAIRS), strict=True)
    pairs.write_pair_set(data / "clean" / name, pairs.PairSet(*(pa.Table.from_pylist(*table) for table in tables)))
    manifest.write_manifest(data / "clean" / name, {}, {})
    return data / "clean" / name


def write_baseline(values: params.Params) -> None:
    """Write what a fine-tuning in the current directory reads: clean sets, their views, and models/baseline."""
    data, clean = Path("data"), Path("data/clean")
    for name, numbers in (("train", range(8)), ("valid", range(20, 26)), ("test", range(30, 34))):
        write_set(data, name, {"": numbers})
    write_set(data, "corpus", {"art": range(100, 108)})
    augment(clean, Path("data/augmented"), values.augment, values.image)
    recipes.make_baseline(clean, Path("models/baseline"), values, Path(".cache/b"), lambda *_: None)


def write_shard(path: Path, members: Members, pairs_inside: int, source: str = "far") -> dict[str, Any]:
    """Write a tar and return its row of `pairs.SHARDS`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    whole = path.read_bytes()
    row = {"address": str(path), "size": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}
    return row | {"pairs": pairs_inside, "caption_key": "caption", "source": source}


def members(numbers: Iterable[int]) -> Members:
    """Yield the image and the caption of each number, as they stand in a shard."""
    for number in numbers:
        yield f"{number}.png", drawn(number)
        yield f"{number}.txt", caption(number).encode()


class DecodedView(NamedTuple):
    """A view with its pixels."""

    pixels: Pixels
    caption: str
    positive_id: str


def decode_all(views: Views, seed: int, epoch: int) -> list[DecodedView]:
    """Return all views of an epoch, decoded here one after another, without those of broken images."""
    decoded = ((spec, views.decoders[spec.decoder](spec.source)) for spec in list(views.plan(seed, epoch)))
    return [
        DecodedView(pixels, spec.caption, spec.positive_id)
        for spec, pixels in decoded
        if not isinstance(pixels, str)
    ]


def fit(**changes: Any) -> params.Fit:
    """Return settings for a training of seconds."""
    return params.Fit(**(FIT | changes))


def settings(**changes: Mapping[str, Any] | None) -> params.Params:
    """Return the smoke preset with a tiny model, 16 px and batches of four; changes: group -> keys to set."""
    values = get_values(compose_preset("smoke", ROOT / "presets"))
    values |= {"model": SMALL, "image": {"size_px": SIZE_PX}}
    for group in ("baseline", "finetune"):
        values[group]["fit"] |= {"batch_size": 4, "epochs": 2, "precision": "fp32", "freeze": "none"}
    for group, new in changes.items():
        joined = isinstance(values[group], dict) and isinstance(new, dict) and group != "corpus"
        values[group] = values[group] | new if joined else new
    return params.Params.model_validate(values)


def epoch_batches(epoch: int, first_step: int = 0) -> Iterator[Batch]:
    """Yield eight images with a token each, in an order that the epoch decides."""
    generator = torch.Generator().manual_seed(epoch)
    for step in range(STEPS):
        order = torch.randperm(8, generator=generator)
        pixels = PIXELS[order]
        ids = torch.stack([torch.full((8,), 2), order + 5, torch.full((8,), 3)], dim=1)
        if step >= first_step:
            yield Batch(
                pixels, ids, torch.ones_like(ids), order, order, tuple(f"pair-{n}" for n in order.tolist())
            )
