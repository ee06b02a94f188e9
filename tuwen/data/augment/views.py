"""Views: a view of a pair is a function of (pair, view number, policy, seed) and nothing else.

View 0 is the image made square as for a model, with the caption as it is. The others turn, zoom, crop, mirror and
recolour the image by the policy, and may reword the caption. What a view shows can be planned without its image:
an epoch is planned first and decoded later.
"""

import json
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from tuwen.core.params import Policy
from tuwen.data.formats import pairs, sides, text
from tuwen.data.formats.images import MAX_ASPECT, Pixels, draw_outlines, make_colour_matrix, resize_to_square

VIEWS = pa.schema(
    [
        ("view_id", pa.string()),  # <pair_id>.<view>
        ("pair_id", pa.string()),
        ("view", pa.int32()),
        ("split", pa.string()),
        ("positive_id", pa.string()),
        ("caption", pa.string()),
        ("flipped", pa.bool_()),
        ("reworded", pa.string()),  # what was done to the caption, in order, joined by commas; null: nothing
        ("recipe", pa.string()),  # JSON, see Viewer.render
        ("shard", pa.string()),  # relative to the data root
        ("offset", pa.int64()),
        ("size", pa.int64()),
    ]
)
PAIR_ROWS = pa.schema(
    [
        *(("pair_id", pa.string()), ("positive_id", pa.string()), ("caption", pa.string())),
        *(("paraphrase", pa.string()), ("mirroring", pa.string())),
        *(("shard", pa.string()), ("offset", pa.int64()), ("size", pa.int64())),
    ]
)
PARAPHRASES = pa.schema([("caption", pa.string()), ("paraphrase", pa.string())])
COLOURED_SHARE = 0.8  # of the views, whose colours change where the policy gives a strength for it


class View(NamedTuple):
    """One view of a pair."""

    pixels: Pixels  # uint8 [S, S, 3]
    caption: str
    flipped: bool
    reworded: str | None
    recipe: str


class Viewer:
    """Plans and renders views of one size by one policy.

    Its state are the albumentations transforms that draw the crops and turns, and the image that it opened last.
    """

    def __init__(self, policy: Policy, size_px: int, seed: int) -> None:
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would look for a newer version on the network
        import albumentations
        import cv2

        cv2.setNumThreads(0)  # the processes of the executor are the parallelism
        self.policy, self.size_px, self.seed = policy, size_px, seed
        self._turns = policy.rotate_degrees > 0 or policy.zoom != [1.0, 1.0]
        self._turn = albumentations.Affine(
            scale=tuple(policy.zoom), rotate=(-policy.rotate_degrees, policy.rotate_degrees)
        )
        # Twice the size by the fast kernel, then halved by area: as free of aliases as one resize by area, which
        # takes three times as long (docs/log.md).
        self._crop = albumentations.RandomResizedCrop(
            (2 * size_px, 2 * size_px), scale=tuple(policy.crop_scale), interpolation=cv2.INTER_LINEAR
        )
        self._mirror = albumentations.HorizontalFlip()
        self._last: tuple[Image.Image | Pixels, Pixels, int] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Viewer, (self.policy, self.size_px, self.seed)

    @property
    def enough_px(self) -> int:
        """The pixels that the shorter side of an image must have; an image of twice that is halved."""
        return 2 * self.size_px

    def plan(self, row: Mapping[str, Any], view: int) -> tuple[str, bool]:
        """Return the caption of view `view` of the pair `row` and whether its image is mirrored."""
        caption, flipped, _ = self._plan(row, view, random.Random(self._name(row, view)))
        return caption, flipped

    def render(self, image: Image.Image | Pixels, row: Mapping[str, Any], view: int, reduced: int = 1) -> View:
        """Return view `view` of the pair `row` (one of `list_rows`); image: its RGB one, `reduced` times smaller.

        The recipe is compact JSON: `draw`, the name that seeds every draw; `box`, the crop as left, upper, right,
        lower in px of the image, turned and zoomed before by `turn` (degrees) and `zoom` (x, y) where it was;
        then, in this order: whether it was mirrored (`flip`), whether outlines were drawn (`outline`), and the
        factors `colour` of brightness, contrast and saturation.
        """
        if view == 0:
            return View(resize_to_square(image, self.size_px), row["caption"], False, None, '{"rule":"square"}')
        name = self._name(row, view)
        draw = random.Random(name)
        caption, flipped, changes = self._plan(row, view, draw)
        pixels, recipe = self._crop_out(image, reduced, draw)
        if flipped:
            pixels = self._mirror.apply(pixels)
        pixels, colours = self._recolour(pixels, draw)
        recipe = {"draw": name, **recipe, "flip": flipped, **colours}
        compact = json.dumps(recipe, ensure_ascii=False, separators=(",", ":"))
        return View(pixels, caption, flipped, ",".join(changes) or None, compact)

    def _name(self, row: Mapping[str, Any], view: int) -> str:
        return f"{self.seed}:{row['pair_id']}:{view}"

    def _plan(self, row: Mapping[str, Any], view: int, draw: random.Random) -> tuple[str, bool, list[str]]:
        """Return caption, whether the image is mirrored, and what was done to the caption, in order."""
        if view == 0:
            return row["caption"], False, []
        caption, changes = self._reword(row, draw)
        mirrored = self.policy.flip and draw.random() < 0.5
        may_swap = row["mirroring"] == "swap" == self.policy.flip_captions
        flipped = mirrored and (
            row["mirroring"] == "free" or (may_swap and sides.judge_mirroring(caption) != "keep")
        )
        if flipped and may_swap and (swapped := sides.swap_sides(caption)) != caption:
            caption, changes = swapped, [*changes, "swap_sides"]
        return caption, flipped, changes

    def _reword(self, row: Mapping[str, Any], draw: random.Random) -> tuple[str, list[str]]:
        caption, changes = row["caption"], []
        if row["paraphrase"] is not None and draw.random() < 0.5:
            caption, changes = row["paraphrase"], ["paraphrase"]
        for kind in self.policy.text:
            varied = text.vary(caption, [kind], draw)
            changes += [kind] if varied != caption else []
            caption = varied
        return caption, changes

    def _crop_out(
        self, image: Image.Image | Pixels, reduced: int, draw: random.Random
    ) -> tuple[Pixels, dict[str, Any]]:
        """Turn, zoom and crop, then shrink; return the pixels [S, S, 3] and this part of the recipe."""
        import cv2

        pixels, factor = self._open(image, reduced)
        shape, recipe = {"shape": pixels.shape}, dict[str, Any]()
        if self._turns:
            self._turn.py_random = draw
            turn = self._turn.get_params_dependent_on_data(shape, {})
            zoom = [round(scale, 3) for scale in turn["scale"].values()]
            recipe |= {"turn": round(turn["rotate"], 2), "zoom": zoom}
        height, width = pixels.shape[:2]
        aspect = min(max(width / height, 1 / MAX_ASPECT), MAX_ASPECT)
        self._crop.ratio = [bound * aspect for bound in self.policy.crop_ratio]
        self._crop.py_random = draw
        box = self._crop.get_params_dependent_on_data(shape, {})["crop_coords"]
        recipe["box"] = [int(side) * factor for side in box]
        if self._turns:  # one warp for both: Affine.apply would cost as much again, and blur what is then resized
            side = 2 * self.size_px
            matrix = (_to_square(box, side) @ turn["matrix"])[:2]
            large = cv2.warpAffine(pixels, matrix, (side, side), borderValue=(255, 255, 255))
        else:
            large = self._crop.apply(pixels, box)
        return cv2.resize(large, (self.size_px, self.size_px), interpolation=cv2.INTER_AREA), recipe

    def _open(self, image: Image.Image | Pixels, reduced: int) -> tuple[Pixels, int]:
        """Return the image as an array, halved until the fast kernel does for a crop, and its reduction in all.

        The views of an image are made one after the other, so the last image is kept.
        """
        import cv2

        if self._last is None or self._last[0] is not image:
            pixels, factor = np.asarray(image), reduced
            while min(pixels.shape[:2]) >= 2 * self.enough_px:
                half = pixels.shape[1] // 2, pixels.shape[0] // 2
                even = pixels[: 2 * half[1], : 2 * half[0]]
                pixels, factor = cv2.resize(even, half, interpolation=cv2.INTER_AREA), 2 * factor
            self._last = image, pixels, factor
        return self._last[1:]

    def _recolour(self, pixels: Pixels, draw: random.Random) -> tuple[Pixels, dict[str, Any]]:
        """Draw outlines and change colours by the policy; return the pixels and this part of the recipe."""
        import cv2

        policy, recipe = self.policy, dict[str, Any]()
        if policy.outline and draw.random() < policy.outline:
            pixels = draw_outlines(pixels)
            recipe["outline"] = True
        brightness = contrast = saturation = 1.0
        if policy.colour and draw.random() < COLOURED_SHARE:
            low, high = 1 - policy.colour, 1 + policy.colour
            brightness, contrast, saturation = (round(draw.uniform(low, high), 3) for _ in range(3))
        if policy.grey and draw.random() < policy.grey:
            saturation = 0.0
        if (brightness, contrast, saturation) != (1.0, 1.0, 1.0):
            recipe["colour"] = [brightness, contrast, saturation]
            matrix = make_colour_matrix(brightness, contrast, saturation, np.array(cv2.mean(pixels)[:3]))
            pixels = cv2.transform(pixels, matrix)
        return pixels, recipe


def find_positive(row: Mapping[str, Any], flipped: bool) -> str:
    """Return the positive_id of a view of `row`; mirrored, an image is another one where left and right matter."""
    another = flipped and row["mirroring"] != "free"
    return f"{row['positive_id']}~mirrored" if another else str(row["positive_id"])


def list_rows(pair_set: pairs.PairSet, paraphrases: Mapping[str, str]) -> pa.Table:
    """Return one row (PAIR_ROWS) per true pair of the set, in its order; in Arrow, since there may be millions.

    paraphrase: null where there is none. mirroring: the strictest decision (sides.py) for any caption of the image
    or a paraphrase of one, since a mirrored image would be a sibling of that caption too.
    """
    image, caption = pairs.find_true_rows(pair_set)
    captions = pair_set.texts["caption"]
    reworded = [paraphrases.get(one) for one in captions.to_pylist()]
    variants = zip(captions.to_pylist(), reworded, strict=True)
    decisions = (sides.choose_strictest((one, other or "")) for one, other in variants)
    strictness = np.fromiter(map(sides.MIRRORINGS.index, decisions), np.int8, len(reworded))
    of_image = np.zeros(len(pair_set.images), np.int8)
    np.maximum.at(of_image, image, strictness[caption])
    columns = {name: pair_set.images[name].take(image) for name in ("positive_id", "shard", "offset", "size")}
    columns |= {
        "pair_id": pairs.select_true_pairs(pair_set)["pair_id"],
        "caption": captions.take(caption),
        "paraphrase": pa.array(reworded, pa.string()).take(caption),
        "mirroring": pa.array(np.array(sides.MIRRORINGS)[of_image[image]], pa.string()),
    }
    return pa.table([columns[name] for name in PAIR_ROWS.names], schema=PAIR_ROWS)


def read_paraphrases(augmented: Path) -> dict[str, str]:
    """Return caption -> paraphrase, from the folder that the stage augment wrote."""
    table = pairs.read_table(augmented / "paraphrases.parquet", PARAPHRASES)
    return dict(zip(*(table[name].to_pylist() for name in PARAPHRASES.names), strict=True))


def _to_square(box: tuple[int, int, int, int], side: int) -> Any:
    """Return the matrix [3, 3] from the box to a square of `side` px; whole numbers are the centres of pixels."""
    left, upper, right, lower = box
    x, y = side / (right - left), side / (lower - upper)
    return np.array([[x, 0, (0.5 - left) * x - 0.5], [0, y, (0.5 - upper) * y - 0.5], [0, 0, 1]])
