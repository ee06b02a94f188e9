import base64
import copy
import html
import io
import re

import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from tests.support.pair_sets import EMPTY_SET
from tests.support.quality_inputs import (
    HOSTILE_ID,
    QUARANTINE_SCHEMA,
    encode_image,
    make_inputs,
    make_summary,
    make_texts,
    measure,
    quarantine_image,
    write_raw,
)
from tuwen.core.errors import UserError
from tuwen.data.formats import pairs
from tuwen.report.quality.odd_images import MAX_IMAGES_NAMED, MAX_IMAGES_SHOWN
from tuwen.report.quality.page import write_page


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs") / "data")


def write(inputs, tmp_path, **changes):
    """Write the page of `inputs`, some of them changed; return its text."""
    write_page(tmp_path / "quality.html", **(inputs | changes))
    return (tmp_path / "quality.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(inputs, tmp_path_factory):
    return write(inputs, tmp_path_factory.mktemp("page"))


def read_cells(page):
    """Return every row of every table, as the texts of its cells."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, re.S)
    return [
        [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row, re.S)]
        for row in rows
    ]


def test_rows_in_equal_rows_out_for_every_set(page):
    rows = [row for row in read_cells(page) if len(row) == 9 and row[1] == "images"]
    assert rows == [
        ["labelled", "images", "30", "23", "7", "0", "0", "0", "✓"],
        ["corpus/art", "images", "1", "0", "1", "0", "0", "0", "✓"],
        ["t2i", "images", "1", "0", "0", "1", "0", "0", "✓"],
    ]


def test_a_lost_row_is_marked(inputs, tmp_path):
    body = copy.deepcopy(inputs["body"])
    body["raw"]["labelled"]["images"]["clean"] -= 1
    assert "✗ does not add up" in write(inputs, tmp_path, body=body, frames={})


def test_findings_faults_and_further_values_stand_in_tables(page):
    rows = read_cells(page)
    assert ["warning", "labelled", "images", "undersized", "1,234"] in rows
    assert [
        "labelled",
        "image",
        "unreadable",
        "warning",
        "quarantined",
        "1",
        "断.jpg (图片/断.jpg, row 7)",
    ] in rows
    undersized = next(row for row in rows if row[:3] == ["labelled", "image", "undersized"])
    assert undersized[5:] == ["4", "小0.png (图片/小0.png); 小1.png (图片/小1.png); 小2.png (图片/小2.png)"]
    assert ["t2i caption chars", "0.125"] in rows
    assert ["prevented pairs", "7"] in rows
    assert ["GIF", "1", "0", "0"] in rows  # labelled, corpus, t2i; i2t has no picture
    assert ["several", "1", "0", "0"] in rows
    assert ["labelled", "12", "3", "3", "0", "3", "0", "0", "0", "90", "5"] in rows


def test_a_check_that_is_not_met_names_rows(page):
    shown = ["warning", "labelled", "images", "undersized", html.escape(HOSTILE_ID), "图片/表.csv, row 3", ""]
    assert shown in [
        [cell.replace("&#39;", "&#x27;").replace("&#34;", "&quot;") for cell in row] for row in read_cells(page)
    ]


def test_how_text_files_were_read_stands_on_the_page(page):
    note = "quotes are text (line 12: as quoting 4 rows would be lost in cells)"
    assert ["labelled", "&lt;表&gt;.tsv", "gb18030", "text", "61", "60", note] in read_cells(page)


def test_images_that_decode_are_shown_and_the_others_named(page):
    tiles = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)".*?<span title="([^"]*)"', page, re.S)
    shown = {html.unescape(name): encoded for encoded, name in tiles}
    assert set(shown) == {"小0.png", "小1.png", "小2.png", HOSTILE_ID, "长.jpg", "白.jpg", "小.png", "G-05.jpg"}
    sizes = {}
    for name, encoded in shown.items():
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
            sizes[name] = picture.size
    assert sizes["长.jpg"] == (90, 30)
    assert sizes["小.png"] == (9, 5)
    assert sizes["G-05.jpg"] == (128, 1)
    named = {row[1]: row for row in read_cells(page) if len(row) == 6}
    assert named["断.jpg"] == ["labelled", "断.jpg", "图片/断.jpg, row 7", "unreadable", "quarantined", "64 × 48"]
    assert named["巨.png"][3:] == ["too_large", "quarantined", "90000 × 90000"]
    assert named["缺.jpg"][3:] == ["missing", "quarantined", ""]


def test_the_page_opens_offline_and_everything_is_text(page):
    assert "<script" not in page
    assert "&lt;script&gt;alert(" in page
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page
    addresses = set(re.findall(r"""(?:src|href)=["']([^"']*)""", page))
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"@import|url\((?!#)", page)
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 0


def test_histograms_overlay_the_sets(page):
    drawn = dict(re.findall(r'aria-label="histogram: ([^"]+)">(<svg.*?</svg>)', page, re.S))
    assert list(drawn) == [
        *("characters per caption", "tokens per caption"),
        *("width in pixels", "height in pixels", "long side / short side"),
    ]
    assert all(f"var(--{name})" in drawn["characters per caption"] for name in ("labelled", "corpus", "t2i"))
    assert "var(--i2t)" not in drawn["characters per caption"]  # no caption there


def test_the_same_bytes_again(inputs, page, tmp_path):
    assert write(inputs, tmp_path) == page


def test_sets_without_rows_make_a_page_too(inputs, tmp_path):
    empty = {
        name: {table: frame.head(0) for table, frame in tables.items()}
        for name, tables in inputs["frames"].items()
    }
    body = make_summary(empty, [])
    page = write(inputs, tmp_path, body=body, frames=empty, quarantine=inputs["quarantine"].slice(0, 0))
    assert "No row has a fault." in page
    assert "<svg" not in page


def test_every_reason_has_its_share_of_the_images_that_are_shown(inputs, tmp_path):
    many = [measure(f"多{n}.png", 8, 8) for n in range(300)]
    blank = measure("白.png", 8, 8, blank=True)
    broken = [measure(f"坏{n}.png", 8, 8, readable=False) for n in range(MAX_IMAGES_NAMED + 9)]
    write_raw(tmp_path, "labelled", {row["image_id"]: encode_image((8, 8), "PNG") for row in [*many, blank]})
    rows = [quarantine_image("labelled", row["image_id"], "undersized") for row in many]
    rows += [quarantine_image("labelled", row["image_id"], "unreadable") for row in broken]
    frames = {"labelled": {"images": pd.DataFrame([*many, *broken, blank]), "texts": make_texts(4)}}
    page = write(
        inputs, tmp_path, data=tmp_path, frames=frames, quarantine=pa.Table.from_pylist(rows, QUARANTINE_SCHEMA)
    )
    assert page.count("<img ") == MAX_IMAGES_SHOWN
    assert '<span title="白.png">' in page
    assert f"{301 - MAX_IMAGES_SHOWN} more are not shown" in page
    assert "9 more are not named here" in page


def test_a_missing_shard_is_named(inputs, tmp_path):
    data = tmp_path / "data"
    images = pairs.read_pair_set(inputs["data"] / "raw/labelled").images
    pairs.write_pair_set(data / "raw/labelled", pairs.PairSet(images, EMPTY_SET.texts, EMPTY_SET.pairs))
    with pytest.raises(UserError, match=r"000000\.tar: this shard is missing"):
        write(inputs, tmp_path, data=data)
