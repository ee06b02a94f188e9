"""Inputs of the page of data quality: raw sets with images of every kind it mentions, and their measures."""

import io

import pandas as pd
import pyarrow as pa
from PIL import Image

from tests.support.pair_sets import EMPTY_SET
from tuwen.data.formats import pairs
from tuwen.data.formats.shards import ShardWriter
from tuwen.data.quality.expectations import ExampleRow

HOSTILE_ID = "<script>alert('红')</script>&\".jpg"
TEXT_FILE = {  # as `ingest` writes it
    "file": "<表>.tsv",
    "encoding": "gb18030",
    "delimiter": "\t",
    "quotes": "text",
    "lines": 61,
    "records": 60,
    "notes": ["quotes are text (line 12: as quoting 4 rows would be lost in cells)"],
}
QUARANTINE_COLUMNS = ("set", "item", "id", "file", "row", "reason", "severity", "outcome")
QUARANTINE_SCHEMA = pa.schema(
    [(name, pa.int64() if name == "row" else pa.string()) for name in QUARANTINE_COLUMNS]
)
CAPTIONS = [
    "渔船在傍晚的港口排成一行",
    "左边的<人名>举着奖杯",
    "夜市 NIGHT\n灯火通明",
    "春天的樱花开满了河的两岸,游人如织",
]


def encode_image(size, kind="JPEG", frames=1, colour="seagreen"):
    """Return an image of one colour; its frames differ in one pixel."""
    images = [Image.new("RGB", size, colour) for _ in range(frames)]
    for n, image in enumerate(images):
        image.putpixel((n % size[0], 0), (255, 0, 0))
    with io.BytesIO() as file:
        images[0].save(file, kind, **({"save_all": True, "append_images": images[1:]} if frames > 1 else {}))
        return file.getvalue()


def measure(image_id, width, height, *, readable=True, blank=False, kind="JPEG", frames=1, row=None):
    """Return the row that `image_stats` would measure, as far as the page reads it."""
    sides = {"width": width, "height": height, "aspect": width and max(width, height) / min(width, height)}
    looks = {
        "format": kind,
        "mode": "RGB",
        "frames": frames,
        "orientation": 1,
        "readable": readable,
        "blank": blank,
    }
    return {"image_id": image_id, "file": f"图片/{image_id}", "row": row} | sides | looks


def write_raw(data, folder, images):
    """Write a raw set of images: image_id -> bytes, None for one that the source lacks."""
    rows = []
    with ShardWriter(data, f"raw/{folder}/shards") as writer:
        for image_id, encoded in images.items():
            rows.append({"image_id": image_id} | (writer.add(image_id, encoded)._asdict() if encoded else {}))
    table, empty = pa.Table.from_pylist(rows, pairs.IMAGES), EMPTY_SET
    pairs.write_pair_set(data / "raw" / folder, pairs.PairSet(table, empty.texts, empty.pairs))


def make_texts(count):
    """Return `count` measured captions."""
    captions = [CAPTIONS[n % 4] for n in range(count)]
    sizes = {"chars": map(len, captions), "tokens": (len(caption) + 2 for caption in captions)}
    marks = {"newline": "\n", "side_word": "左", "masks": "<人名>"}
    traits = {name: (mark in caption for caption in captions) for name, mark in marks.items()}
    columns = {name: list(values) for name, values in (sizes | traits).items()}
    frame = pd.DataFrame({"text_id": [f"t{n}" for n in range(count)], "caption": captions} | columns)
    return frame.assign(
        unmirrored=False,
        boilerplate=False,
        control_chars=0,
        private_use_chars=0,
        chinese_share=0.9,
        latin_share=0.05,
    )


def quarantine_image(name, image_id, reason, outcome="quarantined", row=None):
    """Return a row of `quarantine.parquet`."""
    severity = "warning" if outcome == "quarantined" else "info"
    return dict(
        zip(
            QUARANTINE_COLUMNS,
            (name, "image", image_id, f"图片/{image_id}", row, reason, severity, outcome),
            strict=True,
        )
    )


def make_inputs(data):
    """Write raw sets below `data`; return what `write_page` takes, by name."""
    good = {f"好{n:02d}.jpg": encode_image((64 + n, 48)) for n in range(20)}
    small = {f"小{n}.png": encode_image((8, 8), "PNG") for n in range(3)}
    odd = {
        "长.jpg": encode_image((90, 30)),
        "白.jpg": encode_image((50, 50), colour="white"),
        "动.jpg": encode_image((40, 40), "GIF", 3),
    }
    broken = {
        "断.jpg": good["好00.jpg"][:90],
        "巨.png": b"\x89PNG",
        HOSTILE_ID: encode_image((7, 7)),
        "缺.jpg": None,
    }
    write_raw(data, "labelled", good | small | odd | broken)
    write_raw(data, "corpus/art", {"小.png": encode_image((9, 5), "PNG")})
    write_raw(data, "t2i", {"G-05.jpg": encode_image((640, 1))})
    labelled = [measure(name, 64 + n, 48, row=n + 2) for n, name in enumerate(good)]
    labelled += [measure(name, 8, 8, kind="PNG") for name in small]
    labelled += [measure("长.jpg", 90, 30), measure("白.jpg", 50, 50, blank=True)]
    labelled += [measure("动.jpg", 40, 40, kind="GIF", frames=3), measure("断.jpg", 64, 48, readable=False)]
    labelled += [measure("巨.png", 90000, 90000, readable=None, blank=None, kind="PNG"), measure(HOSTILE_ID, 7, 7)]
    labelled += [measure("缺.jpg", None, None, readable=False, kind=None, frames=None)]
    images = {
        "labelled": pd.DataFrame(labelled),
        "corpus/art": pd.DataFrame([measure("小.png", 9, 5, kind="PNG")]),
        "t2i": pd.DataFrame([measure("G-05.jpg", 640, 1)]),
        "i2t": pd.DataFrame(columns=list(labelled[0])),
    }
    rows = [quarantine_image("labelled", name, "undersized") for name in (*small, HOSTILE_ID)]
    rows += [
        quarantine_image("labelled", "断.jpg", "unreadable", row=7),
        quarantine_image("labelled", "巨.png", "too_large"),
    ]
    rows += [
        quarantine_image("labelled", "缺.jpg", "missing"),
        quarantine_image("corpus/art", "小.png", "undersized"),
    ]
    rows += [quarantine_image("t2i", "G-05.jpg", "undersized", "left_out")]
    numbers = {"labelled": 12, "corpus/art": 4, "t2i": 8, "i2t": 0}
    frames = {name: {"images": frame, "texts": make_texts(numbers[name])} for name, frame in images.items()}
    return {
        "data": data,
        "body": make_summary(frames, rows),
        "frames": frames,
        "quarantine": pa.Table.from_pylist(rows, QUARANTINE_SCHEMA),
        "examples": {("labelled", "images"): [ExampleRow("undersized", HOSTILE_ID, "图片/表.csv", 3.0, "")]},
    }


def make_summary(frames, rows):
    """Return a quality.json of `frames` whose odd rows are `rows`."""

    def count(name, outcome):
        return sum(row["set"] == name and row["outcome"] == outcome for row in rows)

    raw = {
        name: {
            "images": {
                "in": len(tables["images"]),
                "clean": len(tables["images"]) - count(name, "quarantined") - count(name, "left_out"),
                "quarantined": count(name, "quarantined"),
                "left_out": count(name, "left_out"),
                "blank": 0,
                "faults": {},
            }
        }
        for name, tables in frames.items()
    }
    met = {"severity": "critical", "success": True, "unexpected": 0}
    missed = {"severity": "warning", "success": False, "unexpected": 1234}
    return {
        "raw": raw,
        "clean": {"test": {"images": 12, "texts": 28, "pairs": 36}},
        "groups": {"groups": 12, "largest_group_pictures": 2},
        "checks": {"labelled": {"images": {"rows": met, "undersized": missed}}},
        "drift": {"t2i": {"caption_chars": 0.125, "aspect": 0.25}},
        "leaks": {"prevented_pairs": 7},
        "files": {"labelled": [TEXT_FILE]},
    }
