import pandas as pd
import pyarrow as pa
import pytest

from tests.support.quality_inputs import QUARANTINE_SCHEMA, encode_image, measure, quarantine_image, write_raw
from tuwen.report.quality.odd_images import OddImages, collect_odd_images, describe_place, list_records

SETS = {
    "labelled": [
        measure("小.png", 8, 8),
        measure("断.jpg", 64, 48, readable=False, row=3),
        measure("好.png", 60, 40),
    ],
    "t2i": [measure("白.png", 30, 20, blank=True), measure("长.png", 90, 30)],
}


@pytest.fixture
def odd(tmp_path) -> OddImages:
    """What is shown of two sets, one image of which is not odd."""
    for name, rows in SETS.items():
        write_raw(tmp_path, name, {row["image_id"]: encode_image((row["width"], row["height"])) for row in rows})
    left = [quarantine_image("labelled", "小.png", "too_narrow")]
    left += [quarantine_image("labelled", "断.jpg", "unreadable", row=3)]
    left += [quarantine_image("labelled", "小.png", "without_pair") | {"item": "text"}]
    quarantine = pa.Table.from_pylist(left, QUARANTINE_SCHEMA).to_pandas()
    return collect_odd_images(tmp_path, {name: pd.DataFrame(rows) for name, rows in SETS.items()}, quarantine)


def test_images_that_left_and_blank_and_long_ones_that_stay_are_shown(odd: OddImages) -> None:
    assert [image[:6] for image in odd.shown] == [
        ("labelled", "小.png", "图片/小.png", "too_narrow", "quarantined", "8 × 8"),
        ("t2i", "白.png", "图片/白.png", "blank", "stays", "30 × 20"),
        ("t2i", "长.png", "图片/长.png", "over 2 : 1, the ends are cut", "stays", "90 × 30"),
    ]
    assert all(image.uri.startswith("data:image/jpeg;base64,") for image in odd.shown)
    assert (odd.not_shown, odd.not_named) == (0, 0)


def test_images_that_do_not_decode_are_named_only(odd: OddImages) -> None:
    assert odd.named == [
        ("labelled", "断.jpg", "图片/断.jpg, row 3", "unreadable", "quarantined", "64 × 48", ""),
    ]


def test_unknown_values_are_none_and_left_out_of_a_place() -> None:
    rows = pd.DataFrame({"file": ["表.csv", None, "图.png"], "row": [3.0, 4.0, None]})
    records = list_records(rows)
    assert records == [{"file": "表.csv", "row": 3.0}, {"file": None, "row": 4.0}, {"file": "图.png", "row": None}]
    assert [describe_place(row) for row in records] == ["表.csv, row 3", ", row 4", "图.png"]
