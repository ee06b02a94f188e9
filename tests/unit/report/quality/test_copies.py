import html
import re

import pandas as pd
import pyarrow as pa
import pytest

from tests.support.quality_inputs import (
    QUARANTINE_SCHEMA,
    encode_image,
    make_inputs,
    measure,
    quarantine_image,
    write_raw,
)
from tuwen.report.quality.copies import (
    MAX_COPIES_SHOWN,
    MAX_GROUPS_SHOWN,
    CopyGroup,
    CopyGroups,
    collect_copies,
)
from tuwen.report.quality.page import write_page

HOSTILE = "<img src=x onerror=alert('红')>一杯奶茶"


def make_labelled(rows):
    """Return the measured labelled set; rows: (image, its group, source's split, split, bytes, caption)."""
    images = [
        measure(name, 40, 30, row=n + 2) | {"copies": group, "split": own, "dealt": dealt, "sha256": content}
        for n, (name, group, own, dealt, content, _) in enumerate(rows)
    ]
    ids = [f"t{n}" for n in range(len(rows))]
    texts = pd.DataFrame({"text_id": ids, "caption": [row[-1] for row in rows]})
    links = {"pair_id": [f"p{n}" for n in range(len(rows))], "image_id": [row[0] for row in rows], "text_id": ids}
    images = pd.DataFrame(images).astype({"copies": "Int64"})
    pairs = pd.DataFrame(links).assign(label=pd.array([None] * len(rows), "Int8"))
    return {"images": images, "texts": texts, "pairs": pairs}


def collect(data, rows, left=()):
    write_raw(data, "labelled", {row[0]: encode_image((40, 30)) for row in rows})
    quarantine = pa.Table.from_pylist(list(left), QUARANTINE_SCHEMA).to_pandas()
    return collect_copies(data, {"labelled": make_labelled(rows)}, quarantine)


def without_uris(group: CopyGroup) -> list[tuple[str, ...]]:
    return [one[:-1] for one in group.shown]


def test_groups_that_reach_across_splits_come_first_then_the_largest(tmp_path):
    rows = [
        ("红1.jpg", 1, None, "train", "a", "红色的苹果"),
        ("红2.jpg", 1, None, "train", "a", "一个苹果"),
        ("红3.jpg", 1, None, "train", "a", "苹果"),
        ("茶1.jpg", 2, "train", "test", "b", "一杯茶"),
        ("茶2.jpg", 2, "test", "test", "c", HOSTILE),
        ("单.jpg", 3, None, "train", "d", "一个人"),
        ("断.jpg", None, None, None, None, "断了"),
        ("图1.jpg", 4, None, "valid", "e", "一张图"),
        ("图2.jpg", 4, None, "train", "f", "两张图"),
    ]
    found = collect(tmp_path, rows, [quarantine_image("labelled", "茶1.jpg", "leaks_into_test")])
    assert (found.groups, found.images) == (3, 7)
    assert [group[1:] for group in found.shown] == [
        (2, False, "", "train, valid"),
        (2, False, "train, test", ""),
        (3, True, "", ""),
    ]
    assert without_uris(found.shown[1]) == [
        ("茶1.jpg", "图片/茶1.jpg, row 5", "left: leaks into test (source: train)", "一杯茶"),
        ("茶2.jpg", "图片/茶2.jpg, row 6", "test", HOSTILE),
    ]
    assert [one.fate for one in found.shown[0].shown] == ["valid", "train"]
    assert all(one.uri.startswith("data:image/jpeg;base64,") for group in found.shown for one in group.shown)


def test_the_image_of_a_repeated_pair_left_for_that(tmp_path):
    rows = [
        ("杯.jpg", 1, None, "train", "a", "一只杯子"),
        ("杯(1).jpg", 1, None, None, "a", "一只杯子"),
    ]
    left = [quarantine_image("labelled", "杯(1).jpg", "without_pair")]
    left += [quarantine_image("labelled", "p1", "duplicate_pair") | {"item": "pair"}]
    found = collect(tmp_path, rows, left)
    fates = {one.id: one.fate for one in found.shown[0].shown}
    assert fates == {"杯.jpg": "train", "杯(1).jpg": "left: duplicate pair"}


def test_few_groups_and_few_of_each_are_shown_but_of_every_split(tmp_path):
    rows = [(f"甲{n:02d}.jpg", 0, "train", "test", "a", "甲") for n in range(9)]
    rows += [("甲99.jpg", 0, "test", "test", "a", "甲")]
    rows += [(f"乙{n:02d}.jpg", 1 + n // 2, None, "train", "b", "乙") for n in range(50)]
    found = collect(tmp_path, rows)
    assert (found.groups, found.images, len(found.shown)) == (26, 60, MAX_GROUPS_SHOWN)
    assert [one.id for one in found.shown[0].shown[:3]] == ["甲00.jpg", "甲99.jpg", "甲01.jpg"]
    assert (len(found.shown[0].shown), found.shown[0].size) == (MAX_COPIES_SHOWN, 10)
    assert [group.shown[0].id for group in found.shown[1:3]] == ["乙00.jpg", "乙02.jpg"]


@pytest.mark.parametrize("frames", [{}, {"labelled": make_labelled([("单.jpg", 1, None, "train", "a", "一")])}])
def test_without_copies_there_is_nothing(tmp_path, frames):
    quarantine = pa.Table.from_pylist([], QUARANTINE_SCHEMA).to_pandas()
    assert collect_copies(tmp_path, frames, quarantine) == CopyGroups([], 0, 0)


def test_the_page_shows_them_as_text_and_is_silent_without(tmp_path):
    inputs = make_inputs(tmp_path / "data")
    page = tmp_path / "quality.html"
    write_page(page, **inputs)
    assert "Pictures that show the same" not in page.read_text(encoding="utf-8")
    rows = [("好00.jpg", 1, None, "train", "a", HOSTILE), ("好01.jpg", 1, None, "train", "b", "奶茶")]
    copies = {name: make_labelled(rows)[name] for name in ("images", "pairs")}
    texts = inputs["frames"]["labelled"]["texts"].assign(caption=HOSTILE)
    inputs["frames"] = inputs["frames"] | {"labelled": copies | {"texts": texts}}
    write_page(page, **inputs)
    text = page.read_text(encoding="utf-8")
    assert "2 labelled pictures in 1 group:" in re.sub(r"\s+", " ", text)
    assert "<img src=x" not in text
    assert HOSTILE in html.unescape(text)
