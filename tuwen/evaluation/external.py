"""Anybody's embeddings and a table of what belongs together -> the metrics that our own models get.

    tuwen evaluate --images A.npy --texts B.npy --relevance R.csv

A.npy [I, D] and B.npy [T, D]: half, single or double precision, rows of any length. R.csv: a CSV with the header
`image,text`, one true pair a line; a column `label` may say 0 where a text is known not to fit. Both columns hold
row numbers from 0, or ids where a file names them, one a line in the order of the rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tuwen.core.errors import UserError
from tuwen.core.params import Evaluate
from tuwen.data.formats.text_files import open_text, read_csv_records
from tuwen.evaluation.answers import Answers, answer_set
from tuwen.evaluation.details import make_details
from tuwen.evaluation.embedded_set import EmbeddedSet
from tuwen.evaluation.figures import MetricValues, measure_figures
from tuwen.retrieval import metrics
from tuwen.retrieval.vectors import Flags, Rows, Vectors, check_vectors

SAMPLES, SEED = 2000, 0
UNIT = 1e-6  # rows as near to length 1 as single precision stores them are taken as they are


class ForeignArray(NamedTuple):
    """The images or the texts."""

    kind: str  # "image" or "text"
    path: Path
    vectors: Vectors  # [rows, D], unit
    names: list[str]  # of the rows: ids, or row numbers
    note: str  # what it holds, and what was done to it


class Labelled(NamedTuple):
    """Pairs of an image and a text, [P] each."""

    image: Rows  # row
    text: Rows  # row
    fits: Flags


def evaluate_vectors(
    images: Any, texts: Any, pairs: Any, ks: Sequence[int] = (1, 5, 10), *, unfit: Any = ()
) -> MetricValues:
    """Return the metrics of embeddings in memory by name, such as `t2i_hit_at_5`: what `tuwen evaluate` measures.

    images [I, D], texts [T, D]: floats, rows of any length. pairs [P, 2]: the image row and the text row of every
    true pair. unfit [N, 2]: pairs known not to fit; with them there is an `auc`.
    Raises UserError for NaN and zero vectors, different dimensions, a k over a gallery and unknown rows.
    """
    arrays = _make_array("image", Path("images"), images), _make_array("text", Path("texts"), texts)
    _check_arrays(*arrays, ks, "ks")
    labels: dict[tuple[int, int], str] = {}
    for name, rows, label in (("pairs", pairs, "1"), ("unfit", unfit, "0")):
        for pair in _list_pairs(name, rows, arrays):
            if labels.setdefault(pair, label) != label:
                raise UserError(f"unfit: {pair} is one of pairs too; keep one of them")
    if "1" not in labels.values():
        raise UserError("pairs: no true pair, so there is no truth to measure by; give one at least")
    embedded, params = _join_set(*arrays, _split_labels(labels)), _make_params(ks)
    return _measure(embedded, answer_set(embedded, params), params)


def evaluate_arrays(
    images: ForeignArray, texts: ForeignArray, relevance: Path, ks: Sequence[int]
) -> dict[str, Any]:
    """Return all metrics, and what `details.json` holds, of foreign embeddings.

    Raises UserError for different dimensions, a k over a gallery, a bad relevance table and one without a true
    pair.
    """
    _check_arrays(images, texts, ks, "-k")
    labelled = _read_relevance(relevance, images, texts)
    if not labelled.fits.any():
        raise UserError(f"{relevance}: no true pair, so there is no truth to measure by; add a line of label 1")
    embedded, params = _join_set(images, texts, labelled), _make_params(ks)
    answers = answer_set(embedded, params)
    return {"figures": _measure(embedded, answers, params)} | make_details(embedded, answers, {}, params)


def _list_pairs(name: str, rows: Any, arrays: Sequence[ForeignArray]) -> list[tuple[int, int]]:
    rows_P2 = np.asarray(rows)
    if not rows_P2.size:
        return []
    if rows_P2.ndim != 2 or rows_P2.shape[1] != 2 or not np.issubdtype(rows_P2.dtype, np.integer):
        raise UserError(f"{name}: (image row, text row) per pair expected, got {rows_P2.dtype} {rows_P2.shape}")
    for column, array in zip(rows_P2.T, arrays, strict=True):
        low, high, last = column.min(), column.max(), len(array.vectors) - 1
        if low < 0 or high > last:
            raise UserError(f"{name}: {array.path} has the rows 0 to {last}, got {low} to {high}")
    return [(image, text) for image, text in rows_P2.tolist()]


def _check_arrays(images: ForeignArray, texts: ForeignArray, ks: Sequence[int], option: str) -> None:
    dimensions = [len(one.vectors[0]) for one in (images, texts)]
    if dimensions[0] != dimensions[1]:
        raise UserError(
            f"{images.path} has {dimensions[0]} dimensions, {texts.path} has {dimensions[1]}; "
            "both must come from the same model"
        )
    if not ks or min(ks) < 1 or len(set(ks)) != len(ks):
        raise UserError(f"{option}: {list(ks)} must be different numbers from 1 on")
    for one in (images, texts):
        metrics.check_ks(ks, len(one.vectors), f"{option}, {one.path}")


def _make_params(ks: Sequence[int]) -> Evaluate:
    return Evaluate.model_construct(ks=sorted(ks), bootstrap_samples=SAMPLES, seed=SEED)


def _join_set(images: ForeignArray, texts: ForeignArray, labelled: Labelled) -> EmbeddedSet:
    image, text, fits = labelled
    return EmbeddedSet(
        images=images.vectors,
        texts=texts.vectors,
        image=image[fits],
        text=text[fits],
        image_groups=np.arange(len(images.vectors)),
        unfit=(image[~fits], text[~fits]),
        ids={"images": images.names, "texts": texts.names},
    )


def _measure(embedded: EmbeddedSet, answers: Mapping[str, Answers], params: Evaluate) -> MetricValues:
    counts = {"images": len(embedded.images), "texts": len(embedded.texts), "pairs": len(embedded.image)}
    return counts | measure_figures(embedded, answers, params)


def read_array(kind: str, path: Path, ids: Path | None) -> ForeignArray:
    """Read the vectors in `path`, divided by their lengths, and the names of their rows; kind: image or text.

    Raises UserError for what is no float matrix, NaN, zero vectors, an empty gallery, and ids that are doubled or
    of another number.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: not a NumPy array ({error}); write it with numpy.save") from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: an archive of arrays; give one array, written with numpy.save")
    return _make_array(kind, path, array, ids)


def _make_array(kind: str, path: Path, vectors: Any, ids: Path | None = None) -> ForeignArray:
    array = np.asarray(vectors)
    check_vectors(array, str(path))
    if not len(array):
        raise UserError(f"{path}: no rows, so this gallery is empty; embed something")
    lengths = np.linalg.norm(array.astype(np.float64), axis=1)
    what = f"{path}: {len(array)} {kind}s, {array.dtype}"
    if array.dtype == np.float32 and np.abs(lengths - 1).max() < UNIT:
        note = f"{what}, unit vectors"
    else:
        note = f"{what}, of length {lengths.min():.4g} to {lengths.max():.4g}: divided by it, a score is a cosine"
        array = array / lengths[:, None]
    names = [str(row) for row in range(len(array))] if ids is None else _read_ids(ids, path, len(array))
    return ForeignArray(kind, path, np.ascontiguousarray(array, np.float32), names, note)


def _read_ids(path: Path, vectors: Path, rows: int) -> list[str]:
    _require_file(path)
    with open_text(path, newline=None) as file:
        ids = [line.removesuffix("\n") for line in file]
    if len(ids) != rows:
        raise UserError(f"{path}: {len(ids)} lines, but {vectors} has {rows} rows; give each row its id")
    seen: dict[str, int] = {}
    for line, name in enumerate(ids, 1):
        if name in seen:
            raise UserError(f"{path}: line {line}: id {name!r} stands in line {seen[name]} too; make ids unique")
        seen[name] = line
    return ids


def _read_relevance(path: Path, images: ForeignArray, texts: ForeignArray) -> Labelled:
    """Read the pairs of a relevance table."""
    rows_of = [{name: row for row, name in enumerate(one.names)} for one in (images, texts)]
    labels: dict[tuple[int, int], str] = {}
    for line, *names, label in _read_lines(path):
        pair = []
        for one, rows, name in zip((images, texts), rows_of, names, strict=True):
            if name not in rows:
                raise UserError(
                    f"{path}: line {line}: {one.kind} {name!r} is no row of {one.path}; {_describe_names(one)}"
                )
            pair.append(rows[name])
        if labels.setdefault((pair[0], pair[1]), label) != label:
            raise UserError(f"{path}: line {line}: {names} has label 0 and 1; keep one of them")
    return _split_labels(labels)


def _split_labels(labels: Mapping[tuple[int, int], str]) -> Labelled:
    pairs = np.array(list(labels), np.int64).reshape(-1, 2)
    return Labelled(pairs[:, 0], pairs[:, 1], np.array([label == "1" for label in labels.values()], bool))


def _read_lines(path: Path) -> Iterator[tuple[int, str, str, str]]:
    """Yield (line number, image, text, label) of every row of the relevance table."""
    _require_file(path)
    records = read_csv_records(path, ("image", "text"))
    _, header = next(records, (1, []))
    if sorted(header) not in (["image", "text"], ["image", "label", "text"]):
        raise UserError(f"{path}: line 1: header image,text[,label] expected, got {','.join(header)!r}")
    for line, row in records:
        if len(row) != len(header):
            raise UserError(f"{path}: line {line}: {len(header)} fields expected, got {row}")
        named = {"label": "1"} | dict(zip(header, row, strict=True))
        if named["label"] not in ("0", "1"):
            raise UserError(
                f"{path}: line {line}: label {named['label']!r}: 1 where the text fits the image, else 0"
            )
        yield line, named["image"], named["text"], named["label"]


def _describe_names(one: ForeignArray) -> str:
    return f"known are {one.names[0]!r} to {one.names[-1]!r}, in the order of the rows"


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
