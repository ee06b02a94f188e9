"""Views: a view of a pair is a function of (pair id, view number, seed) and nothing else.

View 0 is the picture rule alone with the caption as it is; the others crop, flip, turn, zoom and recolour the
picture by the policy and may reword the caption.
"""

import hashlib
import io
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from tuwen import manifest, pairs, shards, text
from tuwen.executor import make_executor
from tuwen.images import Pixels, decode, square
from tuwen.params import Augment, Policy
from tuwen.params import Image as ImageParams
from tuwen.progress import follow

VIEWS = pa.schema(
    [
        ("view_id", pa.string()),  # <pair_id>.<view>
        ("pair_id", pa.string()),
        ("view", pa.int32()),
        ("positive_id", pa.string()),
        ("caption", pa.string()),
        ("flipped", pa.bool_()),
        ("shard", pa.string()),  # relative to the data root
        ("offset", pa.int64()),
        ("size", pa.int64()),
    ]
)
EDGE = 70  # of 255
PAIRS_PER_SHARD = 512  # about 80 MB of views at 224 px


class Viewer:
    """Makes views of one size by one policy; building the albumentations pipeline once is the state."""

    def __init__(self, policy: Policy, size_px: int, seed: int) -> None:
        import albumentations
        import cv2

        cv2.setNumThreads(0)  # the processes of the executor are the parallelism
        self.policy, self.size_px, self.seed = policy, size_px, seed
        tint = policy.colour
        self._pipeline = albumentations.Compose(
            [
                albumentations.Affine(
                    scale=tuple(policy.zoom),
                    rotate=(-policy.rotate_degrees, policy.rotate_degrees),
                    fill=255,
                    interpolation=cv2.INTER_LINEAR,
                    p=1.0 if policy.rotate_degrees or policy.zoom != [1.0, 1.0] else 0.0,
                ),
                albumentations.RandomResizedCrop(
                    (size_px, size_px),
                    scale=tuple(policy.crop_scale),
                    ratio=tuple(policy.crop_ratio),
                    interpolation=cv2.INTER_AREA,
                ),
                albumentations.Lambda(image=_draw_outlines, p=policy.outline),
                albumentations.ColorJitter(tint, tint, tint, tint / 6, p=0.8 if tint else 0.0),
                albumentations.ToGray(p=policy.grey),
            ]
        )

    def view(
        self, picture: Image.Image, caption: str, pair_id: str, view: int, *, sided: bool
    ) -> tuple[Pixels, str, bool]:
        """(picture uint8 [S, S, 3], caption, whether it was flipped) of view `view` of the pair.

        sided: some caption of this picture tells left from right, so it is never flipped.
        """
        if view == 0:
            return square(picture, self.size_px), caption, False
        name = f"{self.seed}:{pair_id}:{view}".encode()
        draw = random.Random(hashlib.sha256(name).digest())
        worded = text.vary(caption, self.policy.text, draw)
        flipped = self.policy.flip and draw.random() < 0.5 and not sided
        pixels = np.asarray(picture)
        self._pipeline.set_random_seed(draw.getrandbits(31))
        seen = self._pipeline(image=pixels[:, ::-1].copy() if flipped else pixels)["image"]
        return np.asarray(seen), worded, flipped


def _draw_outlines(pixels: Pixels, **_: Any) -> Pixels:
    """Draw the edges of a picture over in black: an edge is where a neighbour differs by EDGE or more."""
    import cv2

    steps = cv2.morphologyEx(pixels, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)).max(axis=2)
    return np.where((steps >= EDGE)[..., None], 0, pixels).astype(np.uint8)


def augment(train: Path, augmented: Path, params: Augment, image: ImageParams) -> None:
    """Write `params.views` views of every pair of the set `train`: shards of JPEGs and captions, `views.parquet`.

    Each shard is made by one task of the executor, so the bytes do not depend on the number of workers.
    """
    data = augmented.parent
    rows = rows_of(pairs.read(train))
    chunks = [rows[start : start + PAIRS_PER_SHARD] for start in range(0, len(rows), PAIRS_PER_SHARD)]
    work = partial(_write_shard, data, f"{augmented.name}/shards", params, image.size_px)
    with make_executor() as executor:
        done = executor.map(work, range(len(chunks)), chunks)
        views = [row for part in follow(done, "augment", len(chunks)) for row in part]
    pairs.write_table(augmented / "views.parquet", pa.Table.from_pylist(views, VIEWS))
    manifest.write(augmented, {"train": train}, {"augment": params.model_dump(), "image": image.model_dump()})


def rows_of(pair_set: pairs.PairSet) -> list[dict[str, Any]]:
    """One row per pair of the set, in its order: pair_id, positive_id, caption, sided, shard, offset, size.

    sided: whether any caption of the picture holds 左 or 右; a mirrored picture would be a sibling of that caption
    even where this pair's own caption holds neither.
    """
    images = {row["image_id"]: row for row in pair_set.images.to_pylist()}
    captions = dict(zip(*(pair_set.texts[name].to_pylist() for name in ("text_id", "caption")), strict=True))
    rows = pair_set.pairs.to_pylist()
    sided = {row["image_id"] for row in rows if text.has_side_word(captions[row["text_id"]])}
    keep = ("positive_id", "shard", "offset", "size")
    return [
        {"pair_id": row["pair_id"], "caption": captions[row["text_id"]], "sided": row["image_id"] in sided}
        | {name: images[row["image_id"]][name] for name in keep}
        for row in rows
    ]


def _write_shard(
    data: Path, folder: str, params: Augment, size_px: int, number: int, rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    viewer = Viewer(params.policy, size_px, params.seed)
    with shards.ShardWriter(data, folder, max_bytes=1 << 40, first=number) as writer:
        return [made for row in rows for made in _views_of(data, viewer, params, row, writer)]


def _views_of(
    data: Path, viewer: Viewer, params: Augment, row: dict[str, Any], writer: shards.ShardWriter
) -> Iterator[dict[str, Any]]:
    picture = decode(shards.read(data, row["shard"], row["offset"], row["size"]))
    for view in range(params.views):
        pixels, caption, flipped = viewer.view(picture, row["caption"], row["pair_id"], view, sided=row["sided"])
        view_id = f"{row['pair_id']}.{view}"
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(
            encoded, "JPEG", quality=params.jpeg_quality, subsampling=0
        )  # small views need their colours
        member = writer.add(f"{view_id}.jpg", encoded.getvalue())
        writer.add(f"{view_id}.txt", caption.encode())
        yield {
            "view_id": view_id,
            "pair_id": row["pair_id"],
            "view": view,
            "positive_id": row["positive_id"],
            "caption": caption,
            "flipped": flipped,
            "shard": member.shard,
            "offset": member.offset,
            "size": member.size,
        }
