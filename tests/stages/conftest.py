"""A dozen real pairs as raw sets, params.yaml beside them, and a stage in a child process."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image, ImageDraw
from ruamel.yaml import YAML

from tests.support.checkout import ROOT
from tests.support.retrieval import build
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.shards import ShardWriter

CAPTIONS = [
    ("红色的圆", "太阳从海面上升起,照亮了整个海湾"),
    ("绿色的方块", "田野里一块整齐的稻田"),
    ("蓝色的三角", "远处的雪山倒映在湖水中"),
    ("黄色的横条", "金黄的麦浪一直延伸到天边"),
    ("紫色的圆", "葡萄架下挂满了成熟的果实"),
    ("橙色的方块", "小女孩左手举着一只橙色的气球"),
    ("黑色的三角", "夜里的帐篷旁边坐着两个人"),
    ("粉色的横条", "春天的樱花开满了河的两岸"),
    ("青色的圆", "茶杯里漂着几片新摘的茶叶"),
    ("棕色的方块", "木匠正在给旧书架刷漆"),
    ("灰色的三角", "雨后的古镇笼罩在雾气里"),
    ("海军蓝的横条", "渔船在傍晚的港口排成一行"),
]
FOLDERS = {"corpus": "corpus/art"}  # params.yaml's one corpus source
COLOURS = ["red", "green", "blue", "gold", "purple", "orange", "black", "pink", "cyan", "brown", "gray", "navy"]


def picture(number: int, *, side_px: int = 48, ground: str = "white") -> bytes:
    """A PNG with one coloured shape; every number below 12 looks different."""
    drawn = Image.new("RGB", (side_px, side_px), ground)
    pen, low, high = ImageDraw.Draw(drawn), side_px // 6, side_px - side_px // 6
    colour = COLOURS[number % 12]
    match number % 4:
        case 0:
            pen.ellipse((low, low, high, high), fill=colour)
        case 1:
            pen.rectangle((low, low, high, high), fill=colour)
        case 2:
            pen.polygon([(low, high), (high, high), (side_px // 2, low)], fill=colour)
        case _:
            pen.rectangle((0, side_px // 3, side_px, side_px // 2), fill=colour)
    encoded = io.BytesIO()
    drawn.save(encoded, "PNG")
    return encoded.getvalue()


def _raw_set(
    data: Path,
    name: str,
    numbers: range,
    pictures: Mapping[str, bytes],
    captions: Mapping[str, str],
    grouped: bool,
) -> pairs.PairSet:
    ground = "white" if name == "labelled" else "khaki"
    images, texts, rows = [], [], []
    with ShardWriter(data, f"raw/{FOLDERS.get(name, name)}/shards") as writer:
        for n in numbers:
            image_id = f"{name}-{n:02d}.png"
            member = writer.add(image_id, pictures.get(image_id, picture(n, ground=ground)))
            group = f"concept-{n:02d}" if grouped else None
            known = {"image_id": image_id, "positive_id": image_id, "group": group, "file": f"pictures/{image_id}"}
            images.append(known | member._asdict())
            for kind, caption in zip(("name", "line"), CAPTIONS[n % 12], strict=True):
                text_id = f"{name}-{kind}-{n:02d}"
                place = {"file": "captions.csv", "row": len(texts) + 2}
                texts.append({"text_id": text_id, "caption": captions.get(text_id, caption)} | place)
                rows.append({"pair_id": f"pair-{text_id}", "image_id": image_id, "text_id": text_id} | place)
    return pairs.PairSet(
        pa.Table.from_pylist(images, pairs.IMAGES),
        pa.Table.from_pylist(texts, pairs.TEXTS),
        pa.Table.from_pylist(rows, pairs.PAIRS),
    )


@pytest.fixture(autouse=True, scope="module")
def _one_worker() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUWEN_WORKERS", "1")  # starting a process takes longer than a dozen pictures
        yield


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """All that comes before `evaluate`, of both models."""
    return build(tmp_path)


@pytest.fixture(scope="session")
def make_raw() -> Callable[..., Path]:
    """make_raw(root, …) writes `root/data/raw/` and returns `root/data`.

    labelled and corpus hold `count` pictures with two captions each: image_id `labelled-00.png`, text_id
    `labelled-name-00` and `labelled-line-00`, pair_id `pair-<text_id>`, group `concept-00` (null unless
    `grouped`). pictures: image_id -> other bytes. captions: text_id -> another caption. tasks: t2i and i2t hold
    eight pictures and their sixteen captions each and no known truth; without it they are empty.
    """

    def make(
        root: Path,
        *,
        count: int = 12,
        pictures: Mapping[str, bytes] | None = None,
        captions: Mapping[str, str] | None = None,
        grouped: bool = True,
        tasks: bool = False,
    ) -> Path:
        data = root / "data"
        sizes = {"labelled": count, "corpus": count, "t2i": 8 if tasks else 0, "i2t": 8 if tasks else 0}
        for name, size in sizes.items():
            made = _raw_set(data, name, range(size), pictures or {}, captions or {}, grouped)
            if name in ("t2i", "i2t"):
                made = pairs.PairSet(made.images, made.texts, pairs.PAIRS.empty_table())
            folder = data / "raw" / FOLDERS.get(name, name)
            pairs.write_pair_set(folder, made)
            manifest.write_manifest(folder, {}, {})
        return data

    return make


@pytest.fixture(scope="session")
def write_params() -> Callable[..., Path]:
    """write_params(root, validate={"min_side_px": 8}, …): the repository's params.yaml, these values changed."""

    def write(root: Path, **changes: Mapping[str, Any]) -> Path:
        yaml = YAML(typ="safe", pure=True)
        values = yaml.load(ROOT / "params.yaml")
        for group, new in changes.items():
            values[group] = {**values[group], **new}
        yaml.dump(values, root / "params.yaml")
        return root / "params.yaml"

    return write


@pytest.fixture(scope="session")
def run_stage() -> Callable[..., subprocess.CompletedProcess[str]]:
    """run_stage(root, "validate", …): `python -m stages.validate …` in the folder `root`, one worker."""

    def run(root: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", f"stages.{name}", *arguments]
        return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)

    return run
