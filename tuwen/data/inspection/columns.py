"""The columns of a table: which one names the images, which are captions, and what the others may be."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tuwen.core.errors import UserError
from tuwen.data.formats.image_files import ImageFiles, is_base64_image, is_hidden, is_image_name
from tuwen.data.formats.images import open_image
from tuwen.data.formats.text import CHINESE
from tuwen.data.sources.files import read_image_file
from tuwen.data.sources.records import SPLIT_NAMES
from tuwen.data.sources.table import LONGEST_NAME
from tuwen.data.sources.url_images import is_url

TRIED_CELLS = 40  # of a column, looked up as image files
TRIED_FOLDERS = 100  # from which the paths may start
MIN_IMAGE_SHARE = 0.5  # of them, which must be images
MIN_CHINESE_SHARE = 0.5  # of a caption column's cells, which must hold a Chinese character
# Names that data sets give to such columns, in lower case.
CAPTION_NAMES = frozenset(
    ("caption", "captions", "text", "title", "description", "desc", "keywords", "query", "sentence")
) | frozenset(("标题", "描述", "说明", "文本", "文字", "图片描述", "商品标题", "名称", "关键词", "关键字"))
GROUP_NAMES = frozenset(("group", "group_id", "product_id", "item_id", "spu", "sku", "商品id", "商品编号"))
CATEGORY_NAMES = frozenset(("category", "class", "类别", "分类", "类目", "品类"))
SPLIT_COLUMN_NAMES = frozenset(("split", "subset", "partition", "划分", "集合"))


class Columns(NamedTuple):
    """The roles of a table's columns."""

    folder: str | None  # below the root, from which the image paths start; None: the root
    image: str
    captions: list[str]
    group: str | None
    category: str | None
    split: str | None
    others: list[str]  # text columns that were left out


def infer_columns(rows: Sequence[Mapping[str, Any]], root: Path, place: str) -> Columns:
    """Guess the role of each column of a table from its first rows, by what the cells hold and then by its name.

    rows: a cell by column. place: of the table, for messages. Raises UserError where no column leads to images, or
    none holds captions.
    """
    names = list(rows[0]) if rows else []
    image, folder = _find_image_column(rows, names, root, place)
    texts = [name for name in names if name != image and _measure_chinese_share(rows, name) >= MIN_CHINESE_SHARE]
    captions = [name for name in texts if name.lower() in CAPTION_NAMES]
    if not captions and texts:
        captions = [max(texts, key=lambda name: len(set(_list_texts(rows, name))))]  # the one that says the most
    captions = captions or [name for name in names if name != image and name.lower() in CAPTION_NAMES]
    if not captions:
        raise UserError(
            f"{place}: none of the columns {names} holds Chinese captions; add one, or write `source` by hand "
            "(docs/data.md)"
        )
    split = _find_named(names, SPLIT_COLUMN_NAMES)
    if split and not {text for text in _list_texts(rows, split) if text} <= set(SPLIT_NAMES):
        split = None
    others = [name for name in texts if name not in captions and name.lower() not in CATEGORY_NAMES | GROUP_NAMES]
    group, category = _find_named(names, GROUP_NAMES), _find_named(names, CATEGORY_NAMES)
    return Columns(folder, image, captions, group, category, split, others)


def _find_image_column(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], root: Path, place: str
) -> tuple[str, str | None]:
    """Return (the column whose cells are most often images, the folder below `root` that its paths start from).

    Addresses count where no column leads to images that are here: they may be those of pages.
    """
    holds = {path.parent.relative_to(root).as_posix(): path for path in _list_images(root)}
    folders = sorted(holds, key=lambda folder: (folder.count("/"), folder))
    for folder in [None, *islice((folder for folder in folders if folder != "."), TRIED_FOLDERS)]:
        start = root / folder if folder else root
        files = ImageFiles(start)
        shares = {name: _measure_share(rows, name, partial(_is_image, files=files)) for name in names}
        best = max(names, key=lambda name: shares[name], default="")
        if best and shares[best] >= MIN_IMAGE_SHARE:
            return best, folder
    links = [name for name in names if _measure_share(rows, name, _is_link) >= MIN_IMAGE_SHARE]
    if links:
        return max(links, key=lambda name: _measure_share(rows, name, _is_image_link)), None
    shown = {name: str(rows[0][name])[:60] for name in names} if rows else {}
    lies = f", where {holds[folders[0]]} lies" if folders else ", where there are none"
    raise UserError(
        f"{place}: no column leads to pictures: no paths from {root} or its folders{lies}, no encoded bytes; "
        f"the first row is {shown}; correct the paths, or move the pictures"
    )


def _list_images(root: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield from (Path(here, name) for name in sorted(names, reverse=True) if is_image_name(name))


def _measure_share(rows: Sequence[Mapping[str, Any]], name: str, is_one: Callable[[Any], bool]) -> float:
    cells = list(islice((row[name] for row in rows if row[name]), TRIED_CELLS))
    return sum(map(is_one, cells)) / len(cells) if cells else 0.0


def _is_link(cell: Any) -> bool:
    return isinstance(cell, str) and is_url(cell)


def _is_image_link(cell: Any) -> bool:
    return _is_link(cell) and is_image_name(urlsplit(cell).path)


def _is_image(cell: Any, files: ImageFiles) -> bool:
    if isinstance(cell, dict):  # as Hugging Face's datasets write it
        cell = cell.get("bytes") or cell.get("path")
    data = cell if isinstance(cell, bytes) else None
    if isinstance(cell, str):
        if is_base64_image(cell.encode("utf-8", "replace")):
            return True
        data = read_image_file(files, cell)[0] if len(cell) < LONGEST_NAME and not is_url(cell) else None
    try:
        return data is not None and open_image(data).width > 0
    except Exception:  # decoders raise a dozen kinds on bytes that are no image
        return False


def _list_texts(rows: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    cells = [row[name] for row in rows]
    return [str(part) for cell in cells for part in (cell if isinstance(cell, list) else [cell]) if part]


def _measure_chinese_share(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    texts = [] if any(isinstance(row[name], bytes | dict) for row in rows) else _list_texts(rows, name)
    return sum(bool(CHINESE.search(text)) for text in texts) / len(texts) if texts else 0.0


def _find_named(names: Sequence[str], wanted: frozenset[str]) -> str | None:
    return next((name for name in names if name.lower() in wanted), None)
