"""Near pictures: what changed copies are found, what else is taken for one, and how long it takes.

    .venv/bin/python benchmarks/near_duplicates.py [recall] [joins] [speed] [--photos FOLDER ...] [--data data]

Needs the sample's raw sets (stages ingest and corpus). FOLDER: photographs, looked through with its subfolders.
The rule before, difference hashes within 3 bits of 64 and mean colours within 8 levels, stands here alone.
"""

import argparse
import io
import random
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFont, ImageOps

from tuwen.data.formats import pairs, shards
from tuwen.data.formats.images import FORMATS, decode_image
from tuwen.data.formats.near_images import near_looks
from tuwen.data.formats.near_images.looks import measure_look

PICTURES = 2000
SCALED = 50_000
HELD_OUT = 10_000
LONG_PX = 400
Picture = Image.Image


def crop(picture: Picture, share: float = 0.05) -> Picture:
    """Cut `share` of the side off each side."""
    across, down = round(picture.width * share), round(picture.height * share)
    return picture.crop((across, down, picture.width - across, picture.height - down))


def put_in_border(picture: Picture) -> Picture:
    """Add a black border of 5 %."""
    return ImageOps.expand(picture, (round(picture.width * 0.05), round(picture.height * 0.05)), "black")


def write_mark(picture: Picture) -> Picture:
    """Write white letters with a dark edge over the lower right."""
    layer, font = Image.new("RGBA", picture.size), ImageFont.load_default(max(8, picture.height // 10))
    place = (picture.width * 0.45, picture.height * 0.82)
    ImageDraw.Draw(layer).text(
        place, "@tuwen.example", (255, 255, 255, 200), font, stroke_width=1, stroke_fill="gray"
    )
    marked = picture.convert("RGBA")
    marked.alpha_composite(layer)
    return marked.convert("RGB")


def recolour(picture: Picture) -> Picture:
    """Make it brighter by a quarter, more colourful by half, and turn its hues by 17 degrees."""
    strong = ImageEnhance.Color(ImageEnhance.Brightness(picture).enhance(1.25)).enhance(1.5)
    hue, saturation, value = strong.convert("HSV").split()
    return Image.merge("HSV", (hue.point(lambda level: (level + 12) % 256), saturation, value)).convert("RGB")


CHANGES: dict[str, Callable[[Picture], Picture]] = {
    "mirrored": ImageOps.mirror,
    "cut by 5 % a side": crop,
    "mirrored and cut": lambda picture: ImageOps.mirror(crop(picture)),
    "border of 5 %": put_in_border,
    "watermark": write_mark,
    "re-coloured": recolour,
    "JPEG of quality 30": lambda picture: picture,
    "half the size": lambda picture: picture.resize(
        (picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS
    ),
    "grey": lambda picture: picture.convert("L"),
    "cut by 1 % a side": lambda picture: crop(picture, 0.01),
    "cut by 10 % a side": lambda picture: crop(picture, 0.1),
    "turned by 3 degrees": lambda picture: picture.rotate(3, Image.Resampling.BICUBIC, fillcolor="white"),
    "cut by 6 % on the left alone": lambda picture: picture.crop(
        (round(picture.width * 0.06), 0, picture.width, picture.height)
    ),
}


def measure_before(encoded: bytes) -> list[int]:
    """Return the 64 bits of the difference hash and the mean red, green and blue."""
    picture = decode_image(encoded)
    grid = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.HAMMING)).astype(int)
    colour = np.asarray(picture.resize((1, 1), Image.Resampling.BOX)).ravel()
    return [*(grid[:, :-1] > grid[:, 1:]).ravel().astype(int).tolist(), *colour.tolist()]


def are_near_before(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return whether the rows of two arrays [..., 67] are near by the rule before."""
    bits = (one[..., :64] != other[..., :64]).sum(axis=-1)
    return (bits <= 3) & (np.abs(one[..., 64:] - other[..., 64:]) <= 8).all(axis=-1)


def measure_copies(encoded: bytes) -> list[tuple[bytes, list[int]]]:
    """Measure one picture and its changed copies by both rules."""
    picture = decode_image(encoded)
    picture.thumbnail((LONG_PX, LONG_PX))
    files = [encoded]
    for name, change in CHANGES.items():
        file = io.BytesIO()
        change(picture).save(file, "JPEG", quality=30 if "JPEG" in name else 85)
        files.append(file.getvalue())
    return [(measure_look(file).thumbnail, measure_before(file)) for file in files]


def read_set(data: Path, name: str) -> list[tuple[str, bytes]]:
    """Return (concept, encoded picture) of a raw set of the sample."""
    rows = pairs.read_pair_set(data / "raw" / name).images.to_pylist()
    return [(row["group"], shards.read_member(data, shards.Place.of(row))) for row in rows]


def read_photos(folders: list[Path]) -> list[bytes]:
    """Return the pictures of at least 48 px a side below some folders."""
    found = []
    for path in sorted(path for folder in folders for path in folder.rglob("*") if path.is_file()):
        try:
            if min(Image.open(path, formats=FORMATS).size) >= 48:
                decode_image(path.read_bytes())
                found.append(path.read_bytes())
        except OSError:
            continue
    return found


def bench_recall(data: Path, folders: list[Path]) -> None:
    """Print the share of changed copies that each rule finds, of photographs and of the sample's drawings."""
    photos, drawings = read_photos(folders), [encoded for _, encoded in read_set(data, "labelled")]
    photos = photos[: PICTURES // 2]
    drawings = random.Random(0).sample(drawings, min(PICTURES - len(photos), len(drawings)))
    with ProcessPoolExecutor(2) as pool:
        measured = list(pool.map(measure_copies, photos + drawings, chunksize=32))
    before = np.array([[copy[1] for copy in copies] for copies in measured])
    thumbs = [
        near_looks.collect_thumbnails([copies[n][0] for copies in measured]) for n in range(1 + len(CHANGES))
    ]
    print(f"| {len(photos)} photographs, {len(drawings)} drawings | before | now, photographs | drawings | all |")
    for number, name in enumerate(CHANGES, 1):
        found = np.zeros(len(measured), bool)
        for start in range(0, len(found), 32):
            part = slice(start, start + 32)
            for rows, others in near_looks.find_near_thumbnails(thumbs[0][part], thumbs[number][part]):
                found[start + rows[rows == others]] = True
        old = are_near_before(before[:, 0], before[:, number]).mean()
        of_photos, of_drawings = found[: len(photos)].mean(), found[len(photos) :].mean()
        print(f"| {name} | {old:.3f} | {of_photos:.3f} | {of_drawings:.3f} | {found.mean():.3f} |", flush=True)


def bench_joins(data: Path) -> None:
    """Print the near pairs of different concepts of the sample, by either rule."""
    sets = {name: read_set(data, name) for name in ("labelled", "corpus/art")}
    looks = {
        name: near_looks.collect_thumbnails([measure_look(one).thumbnail for _, one in rows])
        for name, rows in sets.items()
    }
    for name, rows in sets.items():
        concepts = np.array([concept for concept, _ in rows])
        hashes = np.array([measure_before(encoded) for _, encoded in rows])
        old = sum(
            int((are_near_before(hashes[n], hashes[n + 1 :]) & (concepts[n + 1 :] != concepts[n])).sum())
            for n in range(len(rows))
        )
        found = {
            pair
            for part in near_looks.find_near_within(looks[name])
            for pair in zip(*(e.tolist() for e in part), strict=True)
        }
        new = sum(concepts[one] != concepts[other] for one, other in found)
        every = len(rows) * (len(rows) - 1) / 2 / 10_000
        print(
            f"| {name}, {len(rows)} pictures | {old / every:.2f} | {new / every:.2f} | of 10,000 pairs |",
            flush=True,
        )


def bench_speed(data: Path) -> None:
    """Print the time of all pairs of SCALED pictures, of measuring one, and of asking about one."""
    files = [encoded for name in ("labelled", "corpus/art") for _, encoded in read_set(data, name)][:1000]
    start = time.process_time()
    known = near_looks.collect_thumbnails([measure_look(encoded).thumbnail for encoded in files])
    print(f"| measuring one | {(time.process_time() - start) / len(files) * 1000:.2f} ms, decoding included |")
    draw = np.random.default_rng(0)
    one, other = draw.integers(0, len(known), (2, SCALED))
    share = draw.uniform(0.3, 0.7, (SCALED, 1))
    mixed = (known[one] * share + np.roll(known[other], 5, axis=1) * (1 - share)).astype(np.uint8)
    wall, start = time.monotonic(), time.process_time()
    count = sum(len(rows) for rows, _ in near_looks.find_near_within(mixed))
    spent = f"{time.monotonic() - wall:.0f} s, {time.process_time() - start:.0f} s of CPU"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"| all pairs of {SCALED:,} pictures | {spent}, {peak:.2f} GB peak, {count} pairs |", flush=True)
    held_out = near_looks.HeldOut(mixed[:HELD_OUT])
    start = time.process_time()
    for thumbnail in known[:200]:
        held_out.is_near(thumbnail.tobytes())
    print(f"| asking about one against {HELD_OUT:,} held out | {(time.process_time() - start) * 5:.1f} ms |")


def main() -> None:
    """Run the parts that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["recall", "joins", "speed", []])
    parser.add_argument("--photos", nargs="*", type=Path, default=[])
    parser.add_argument("--data", type=Path, default=Path("data"))
    args = parser.parse_args()
    parts = args.parts or ["recall", "joins", "speed"]
    if "recall" in parts:
        bench_recall(args.data, args.photos)
    if "joins" in parts:
        bench_joins(args.data)
    if "speed" in parts:
        bench_speed(args.data)


if __name__ == "__main__":
    main()
