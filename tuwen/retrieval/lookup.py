"""`tuwen search`: one text or one picture asked of a set that a model has embedded, or of a folder of pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tuwen.core.errors import UserError
from tuwen.data.formats import manifest
from tuwen.data.formats.image_files import IMAGE_EXTENSIONS, is_image_name

if TYPE_CHECKING:  # so that what is missing is told before torch is loaded
    from tuwen.data.formats.pairs import PairSet
    from tuwen.retrieval.vectors import Vectors

DATA, VECTORS = Path("data/clean"), Path("embeddings")


class Found(NamedTuple):
    """One answer."""

    score: float  # cosine
    id: str
    caption: str  # of an image the first that belongs to it; empty where there is none
    file: str  # where the source has the row


class Items(NamedTuple):
    """What may be found: an id, a caption and a file for each of G items."""

    ids: Sequence[str]
    captions: Sequence[str]
    files: Sequence[str]


def find_answers(query: str, model: Path, gallery: str, k: int) -> list[Found]:
    """Return the k best answers of `model` to a text, or to the picture whose file is named; fewer where all are.

    gallery: a set of data/clean that the model has embedded, such as bank or test, where a text is answered by
    pictures and a picture by texts; or a folder of pictures, at any depth, which answers both. Raises UserError
    for an empty query, a picture that is missing or broken, and a gallery that is neither.
    """
    is_image = _is_image(query)
    folder = Path(gallery)
    if not (DATA / gallery / "images.parquet").is_file() and folder.is_dir():
        paths = _list_images(folder)
        items = Items([str(path.relative_to(folder)) for path in paths], [""] * len(paths), list(map(str, paths)))
        vectors = None
    else:
        items, vectors = _read_set(model, gallery, "texts" if is_image else "images")

    from tuwen.retrieval.retriever import load_retriever
    from tuwen.retrieval.search import top_k

    retriever = load_retriever(model)
    if vectors is None:
        vectors = retriever.encode_images(items.files)
    asked = retriever.encode_images([query]) if is_image else retriever.encode_texts([query])
    rows, cosines = top_k(asked, vectors, min(k, len(vectors)))
    return [
        Found(score, items.ids[row], items.captions[row], items.files[row])
        for row, score in zip(rows[0].tolist(), cosines[0].tolist(), strict=True)
    ]


def _is_image(query: str) -> bool:
    """Tell whether a query names a file, which must then be a picture."""
    if not query.strip():
        raise UserError("tuwen search: the query is empty; give a text or the path of a picture")
    try:
        path = Path(query)
        if path.is_file():
            return True
        is_folder = path.is_dir()
    except (OSError, ValueError):  # too long for a name, or a NUL in it: a text
        return False
    if is_folder:
        raise UserError(f"{query}: a folder; give a text or the path of one picture, the folder is for --gallery")
    if is_image_name(path):
        raise UserError(f"{query}: no such file; mend the path, or leave {path.suffix} out to ask by the text")
    return False


def _list_images(folder: Path) -> list[Path]:
    """List the pictures below a folder, but hidden ones."""
    paths = [
        path for path in sorted(folder.rglob("*")) if is_image_name(path.relative_to(folder)) and path.is_file()
    ]
    if not paths:
        raise UserError(f"--gallery {folder}: no picture in this folder ({', '.join(sorted(IMAGE_EXTENSIONS))})")
    return paths


def _read_set(model: Path, gallery: str, side: str) -> tuple[Items, "Vectors"]:
    """Return one side of a set, images or texts, as the model has embedded it."""
    embedded, folder = VECTORS / model.name / gallery, DATA / gallery
    if not (embedded / f"{side}.npy").is_file() or not folder.is_dir():
        known = sorted(path.parent.name for path in embedded.parent.glob("*/images.npy"))
        raise UserError(
            f"--gallery {gallery}: {embedded / f'{side}.npy'} is missing, and no folder has that name; {model} "
            f"has embedded {', '.join(known) or 'no set'}: take one of these, name a folder of pictures, or run "
            f"the stage that embeds it: `dvc repro embed@{model.name}-{gallery}` (`make run` runs all)"
        )
    manifest.require_inputs(embedded, {"model": model, "set": folder})

    from tuwen.data.formats import pairs
    from tuwen.retrieval.vectors import read_vectors

    tables = pairs.read_pair_set(folder)
    items = _list_texts(tables) if side == "texts" else _list_set_images(tables)
    return items, read_vectors(embedded / f"{side}.npy", len(items.ids), folder / f"{side}.parquet")


def _list_texts(tables: "PairSet") -> Items:
    columns = (tables.texts[name].to_pylist() for name in ("text_id", "caption", "file"))
    ids, captions, files = ([value or "" for value in column] for column in columns)
    return Items(ids, captions, files)


def _list_set_images(tables: "PairSet") -> Items:
    from tuwen.data.formats import pairs

    caption_of: dict[int, str] = {}
    captions = tables.texts["caption"].to_pylist()
    for image, text in zip(*(rows.tolist() for rows in pairs.find_true_rows(tables)), strict=True):
        caption_of.setdefault(image, captions[text] or "")
    ids, files = (tables.images[name].to_pylist() for name in ("image_id", "file"))
    return Items(ids, [caption_of.get(row, "") for row in range(len(ids))], [file or "" for file in files])
