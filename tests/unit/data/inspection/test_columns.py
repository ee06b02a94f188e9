"""Which column is what: by the cells, and only then by the names."""

import shutil
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from tests.support.own_files import DISHES, encode_photo, write_photos
from tuwen.core.errors import UserError
from tuwen.data.inspection.columns import infer_columns


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_photos(tmp_path / "图片", len(DISHES))
    return tmp_path


def make_rows(**more: Any) -> list[dict[str, Any]]:
    """A row per dish: its picture, its name, and for each column of `more` what it makes of the number."""
    rows = [{"文件": f"图片/{number}.jpg", "菜名": dish} for number, dish in enumerate(DISHES)]
    return [row | {name: make(number) for name, make in more.items()} for number, row in enumerate(rows)]


def test_paths_from_the_root_are_the_image_and_the_chinese_column_is_the_caption(root: Path) -> None:
    columns = infer_columns(make_rows(price=lambda n: n * 3), root, "pairs.csv")
    assert columns == (None, "文件", ["菜名"], None, None, None, [])


def test_paths_may_start_from_a_folder_of_the_root(root: Path) -> None:
    rows = [{"caption": dish, "file": f"{number}.jpg"} for number, dish in enumerate(DISHES)]
    columns = infer_columns(rows, root, "pairs.csv")
    assert (columns.folder, columns.image, columns.captions) == ("图片", "file", ["caption"])
    write_photos(root / "商店/2024", len(DISHES) + 4)
    rows = [{"caption": dish, "file": f"{number + 4}.jpg"} for number, dish in enumerate(DISHES)]
    shutil.rmtree(root / "图片")
    assert infer_columns(rows, root, "pairs.csv").folder == "商店/2024"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda data: data,
        lambda data: {"bytes": data, "path": None},
        lambda data: b64encode(data).decode(),
        lambda data: "https://shop.example/1.jpg",
    ],
)
def test_encoded_bytes_and_addresses_are_the_image(root: Path, wrap: Any) -> None:
    rows = [{"image": wrap(encode_photo(number)), "text": dish} for number, dish in enumerate(DISHES)]
    assert infer_columns(rows, root, "pairs.parquet")[:3] == (None, "image", ["text"])


def test_addresses_count_where_no_column_leads_to_images_that_are_here(root: Path) -> None:
    rows = [
        {
            "page": f"https://shop.example/{n}",
            "photo": f"https://shop.example/{n}.JPG?w=1",
            "file": f"{n}.jpg",
            "菜名": dish,
        }
        for n, dish in enumerate(DISHES)
    ]
    assert infer_columns(rows, root, "pairs.csv")[:3] == ("图片", "file", ["菜名"])
    shutil.rmtree(root / "图片")
    assert infer_columns(rows, root, "pairs.csv")[:3] == (None, "photo", ["菜名"])


def test_names_tell_captions_from_shops_groups_and_splits(root: Path) -> None:
    rows = make_rows(
        标题=lambda n: f"{DISHES[n]}的做法",
        店铺=lambda n: "老王川菜馆",
        group=lambda n: n // 2,
        类别=lambda n: "川菜",
        split=lambda n: "train" if n else "dev",
    )
    columns = infer_columns(rows, root, "pairs.csv")
    assert columns == (None, "文件", ["标题"], "group", "类别", "split", ["菜名", "店铺"])


def test_a_column_named_split_with_other_words_is_none(root: Path) -> None:
    assert infer_columns(make_rows(split=lambda n: "上海"), root, "pairs.csv").split is None


def test_without_pictures_or_captions_there_is_one_message(root: Path) -> None:
    with pytest.raises(UserError, match=r"pairs\.csv: no column leads to pictures.*'0\.png'"):
        infer_columns([{"file": "0.png", "caption": "红烧肉"}], root, "pairs.csv")
    with pytest.raises(UserError, match=r"pairs\.csv: none of the columns .* holds Chinese captions"):
        infer_columns([{"file": "图片/0.jpg", "price": 3}], root, "pairs.csv")
    with pytest.raises(UserError, match="no column leads to pictures"):
        infer_columns([], root, "pairs.csv")
