"""`tuwen search`: one text or one picture asked of a set that a model has embedded, or of a folder of pictures.

Shapes: G items that may be found, k of them that are.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tuwen.core.errors import UserError
from tuwen.data.formats import manifest
from tuwen.data.formats.image_files import IMAGE_EXTENSIONS, is_image_name

if TYPE_CHECKING:  # so that what is missing is told before torch is loaded
    from tuwen.data.formats.images import Pixels
    from tuwen.data.formats.pairs import PairSet
    from tuwen.data.formats.picture_rule import PictureRule
    from tuwen.model.reranker import ReRanker
    from tuwen.retrieval.rerank import Reordered
    from tuwen.retrieval.rerank_choice import OrderChoice
    from tuwen.retrieval.retriever import Retriever
    from tuwen.retrieval.vectors import Rows, Vectors

DATA, VECTORS, EVALUATED = Path("data/clean"), Path("embeddings"), Path("results")


class Found(NamedTuple):
    """One answer."""

    score: float  # cosine
    id: str
    caption: str  # of an image the first that belongs to it; empty where there is none
    file: str  # where the source has the row
    match: float | None = None  # a re-ranker's probability that it answers the query; None where it was not asked


class Items(NamedTuple):
    """What may be found: an id, a caption and a file for each of G items; of pictures also where each is read."""

    ids: Sequence[str]
    captions: Sequence[str]
    files: Sequence[str]
    pictures: Sequence[Any] = ()  # a path, or a row of a set's images


def find_answers(query: str, model: Path, gallery: str, k: int, rerank: bool = False) -> list[Found]:
    """Return the k best answers of `model` to a text, or to the picture whose file is named; fewer where all are.

    gallery: a set of data/clean that the model has embedded, such as bank or test, where a text is answered by
    pictures and a picture by texts; or a folder of pictures, at any depth, which answers both. rerank: put the
    first answers in the order of the re-ranker in the folder `model`, at the depth and weight that valid chose.
    Raises UserError for an empty query, a picture that is missing or broken, a gallery that is neither, and where
    nothing can re-rank: no re-ranker, no choice of valid's, a picture asked of a folder of pictures.
    """
    is_image = _is_image(query)
    folder = Path(gallery)
    is_folder = not (DATA / gallery / "images.parquet").is_file() and folder.is_dir()
    choice = _read_choice(model, is_image, is_folder) if rerank else None
    if is_folder:
        paths = _list_images(folder)
        names = [str(path.relative_to(folder)) for path in paths]
        items, vectors = Items(names, [""] * len(paths), list(map(str, paths)), paths), None
    else:
        items, vectors = _read_set(model, gallery, "texts" if is_image else "images")

    from tuwen.retrieval.search import top_k

    retriever, reranker = _load(model, rerank)
    if vectors is None:
        vectors = retriever.encode_images(items.files) if is_folder else _embed(retriever, items)
    asked = retriever.encode_images([query]) if is_image else retriever.encode_texts([query])
    rows, cosines = top_k(asked, vectors, min(max(k, choice.k) if choice else k, len(vectors)))
    found = [
        Found(score, items.ids[row], items.captions[row], items.files[row])
        for row, score in zip(rows[0].tolist(), cosines[0].tolist(), strict=True)
    ]
    if choice and reranker:
        first = slice(choice.k)
        ranking = reranker, retriever.tokenizer
        new = _reorder(ranking, query, items, rows[0, first], cosines[0, first], choice.weight)
        moved = [found[place]._replace(match=float(new.match[place])) for place in new.order]
        found = [*moved, *found[len(moved) :]]
    return found[:k]


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


def _read_choice(model: Path, is_image: bool, is_folder: bool) -> "OrderChoice":
    """Return how deep the re-ranker in the folder `model` reads for such a query, and what the cosine weighs."""
    from tuwen.model.reranker import CROSS_CONFIG, has_reranker
    from tuwen.retrieval.rerank_choice import read_choices

    if is_image and is_folder:
        raise UserError(
            "--rerank: a picture asked of a folder of pictures: a re-ranker judges a picture and a text; ask by a "
            "text, or leave --rerank out"
        )
    if not has_reranker(model):
        raise UserError(
            f"--rerank: {model} holds no re-ranker ({CROSS_CONFIG}); name the folder of one by --model, or give "
            "params.yaml: rerank its settings and run `dvc repro evaluate@reranked`, which makes models/reranked"
        )
    return read_choices(EVALUATED / model.name / "details.json")["i2t" if is_image else "t2i"]


def _load(model: Path, rerank: bool) -> tuple["Retriever", "ReRanker | None"]:
    """Load the model, with its re-ranker where it is asked for."""
    from tuwen.data.formats.text import load_tokenizer
    from tuwen.model.device import choose_device
    from tuwen.model.reranker import load_reranker
    from tuwen.retrieval.retriever import Retriever, load_retriever

    if not rerank:
        return load_retriever(model), None
    reranker = load_reranker(model)
    return Retriever(reranker.dual.to(choose_device()), load_tokenizer(model / "vocab.txt")), reranker


def _reorder(
    ranking: tuple["ReRanker", Any], query: str, items: Items, rows: "Rows", cosines: "Vectors", weight: float
) -> "Reordered":
    """Return the new order of the items in `rows` [k]; ranking: the re-ranker and its tokenizer."""
    from tuwen.retrieval.match_pairs import PairSides
    from tuwen.retrieval.rerank import reorder_found

    decode = partial(_read_picture, ranking[0].dual.picture_rule)
    if items.pictures:
        sides = PairSides([items.pictures[row] for row in rows], decode, [query])
    else:
        sides = PairSides([Path(query)], decode, [items.captions[row] for row in rows])
    return reorder_found(*ranking, sides, rows, cosines, weight)


def _read_picture(rule: "PictureRule", picture: Any) -> "Pixels":
    """Return a picture as a square; picture: as `Items.pictures` has it."""
    from tuwen.retrieval.encode import decode_row
    from tuwen.retrieval.retriever import read_square

    if isinstance(picture, Path):
        return read_square((str(picture), picture), rule)
    return decode_row(DATA.parent, rule, picture)


def _list_images(folder: Path) -> list[Path]:
    """List the pictures below a folder, but hidden ones."""
    paths = [
        path for path in sorted(folder.rglob("*")) if is_image_name(path.relative_to(folder)) and path.is_file()
    ]
    if not paths:
        raise UserError(f"--gallery {folder}: no picture in this folder ({', '.join(sorted(IMAGE_EXTENSIONS))})")
    return paths


def _embed(retriever: "Retriever", items: Items) -> "Vectors":
    """Return the vectors [G, D] of one side of a set that no stage has embedded."""
    from tuwen.retrieval.encode import stream_vectors
    from tuwen.retrieval.retriever import ENCODE_BATCH

    if not items.pictures:
        return retriever.encode_texts(items.captions)
    decode = partial(_read_picture, retriever.model.picture_rule)
    return np.concatenate(list(stream_vectors(retriever.model, items.pictures, decode, ENCODE_BATCH)))


def _read_set(model: Path, gallery: str, side: str) -> tuple[Items, "Vectors | None"]:
    """Return one side of a set, images or texts, as the model has embedded it; None where no stage does."""
    embedder, folder = _name_embedder(model), DATA / gallery
    embedded = VECTORS / embedder / gallery
    if not (embedded / f"{side}.npy").is_file() or not folder.is_dir():
        known = sorted(path.parent.name for path in embedded.parent.glob("*/images.npy"))
        raise UserError(
            f"--gallery {gallery}: {embedded / f'{side}.npy'} is missing, and no folder has that name; {model} "
            f"has embedded {', '.join(known) or 'no set'}: take one of these, name a folder of pictures, or run "
            f"the stage that embeds it: `dvc repro embed@{embedder}-{gallery}` (`make run` runs all)"
        )
    if embedder == model.name:
        manifest.require_inputs(embedded, {"model": model})
    manifest.require_inputs(embedded, {"set": folder})

    from tuwen.data.formats import pairs
    from tuwen.retrieval.rerank import has_own_towers, require_preranker
    from tuwen.retrieval.vectors import read_vectors

    if embedder != model.name:
        require_preranker(embedded, model)
    tables = pairs.read_pair_set(folder)
    items = _list_texts(tables) if side == "texts" else _list_set_images(tables)
    if embedder != model.name and has_own_towers(model):
        return items, None
    return items, read_vectors(embedded / f"{side}.npy", len(items.ids), folder / f"{side}.parquet")


def _name_embedder(model: Path) -> str:
    """Return the name of the model that embedded what `model` searches: a re-ranker reorders another's answers."""
    if (VECTORS / model.name).is_dir():
        return model.name
    from tuwen.model.reranker import has_reranker
    from tuwen.retrieval.rerank import PRERANKER

    return PRERANKER if has_reranker(model) else model.name


def _list_texts(tables: "PairSet") -> Items:
    columns = (tables.texts[name].to_pylist() for name in ("text_id", "caption", "file"))
    ids, captions, files = ([value or "" for value in column] for column in columns)
    return Items(ids, captions, files)


def _list_set_images(tables: "PairSet") -> Items:
    from tuwen.data.formats import pairs
    from tuwen.retrieval.encode import list_image_rows

    caption_of: dict[int, str] = {}
    captions = tables.texts["caption"].to_pylist()
    for image, text in zip(*(rows.tolist() for rows in pairs.find_true_rows(tables)), strict=True):
        caption_of.setdefault(image, captions[text] or "")
    ids, files = (tables.images[name].to_pylist() for name in ("image_id", "file"))
    captions = [caption_of.get(row, "") for row in range(len(ids))]
    return Items(ids, captions, [file or "" for file in files], list_image_rows(tables))
