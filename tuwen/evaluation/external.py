"""Anybody's embeddings and a table of what belongs together -> the metrics that our own models get.

    tuwen evaluate --images A.npy --texts B.npy --relevance R.csv

A.npy [I, D] and B.npy [T, D]: half, single or double precision, rows of any length. R.csv: UTF-8 with the header
`image,text`, one true pair a line; a column `label` may say 0 where a text is known not to fit. Both columns hold
row numbers from 0, or ids where a file names them, one a line in the order of the rows.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tuwen.core.errors import UserError
from tuwen.core.params import Evaluate
from tuwen.data.formats.pairs import DIRECTIONS
from tuwen.evaluation.answers import answer_set
from tuwen.evaluation.details import make_details
from tuwen.evaluation.embedded_set import EmbeddedSet
from tuwen.evaluation.figures import FIGURES, measure_figures
from tuwen.evaluation.headline import format_interval, get_estimate
from tuwen.retrieval import metrics
from tuwen.retrieval.vectors import Rows, Vectors, check_vectors

SAMPLES, SEED = 2000, 0
TITLE_COLUMNS = 42
UNIT = 1e-6  # rows as near to length 1 as single precision stores them are taken as they are


class ForeignArray(NamedTuple):
    """The images or the texts."""

    kind: str  # "image" or "text"
    path: Path
    vectors: Vectors  # [rows, D], unit
    names: list[str]  # of the rows: ids, or row numbers
    note: str  # what it holds, and what was done to it


def evaluate_arrays(
    images: ForeignArray, texts: ForeignArray, relevance: Path, ks: Sequence[int]
) -> dict[str, Any]:
    """Return all metrics, and what `details.json` holds, of foreign embeddings.

    Raises UserError for different dimensions, a k over a gallery, a bad relevance table and one without a true
    pair.
    """
    dimensions = [len(one.vectors[0]) for one in (images, texts)]
    if dimensions[0] != dimensions[1]:
        raise UserError(
            f"{images.path} has {dimensions[0]} dimensions, {texts.path} has {dimensions[1]}; "
            "both must come from the same model"
        )
    if min(ks) < 1 or len(set(ks)) != len(ks):
        raise UserError(f"-k: {list(ks)} must be different numbers from 1 on")
    for one in (images, texts):
        metrics.check_ks(ks, len(one.vectors), f"-k, {one.path}")
    image, text, fits = _read_relevance(relevance, images, texts)
    if not fits.any():
        raise UserError(f"{relevance}: no true pair, so there is no truth to measure by; add a line of label 1")
    embedded = EmbeddedSet(
        images=images.vectors,
        texts=texts.vectors,
        image=image[fits],
        text=text[fits],
        image_groups=np.arange(len(images.vectors)),
        unfit=(image[~fits], text[~fits]),
        ids={"images": images.names, "texts": texts.names},
    )
    params = Evaluate.model_construct(ks=sorted(ks), bootstrap_samples=SAMPLES, seed=SEED)
    answers = answer_set(embedded, params)
    counts = {"images": len(images.vectors), "texts": len(texts.vectors), "pairs": int(fits.sum())}
    values = counts | measure_figures(embedded, answers, params)
    return {"figures": values} | make_details(embedded, answers, {}, params)


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
    ids = _read_text(path).removesuffix("\n").split("\n")
    if len(ids) != rows:
        raise UserError(f"{path}: {len(ids)} lines, but {vectors} has {rows} rows; give each row its id")
    seen: dict[str, int] = {}
    for line, name in enumerate(ids, 1):
        if name in seen:
            raise UserError(f"{path}: line {line}: id {name!r} stands in line {seen[name]} too; make ids unique")
        seen[name] = line
    return ids


def _read_relevance(path: Path, images: ForeignArray, texts: ForeignArray) -> tuple[Rows, Rows, Any]:
    """Return (image row, text row, does it fit?) of every line."""
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
    pairs = np.array(list(labels), np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1], np.array([label == "1" for label in labels.values()], bool)


def _read_lines(path: Path) -> Iterator[tuple[int, str, str, str]]:
    """Yield (line number, image, text, label) of every row of the relevance table."""
    rows = csv.reader(io.StringIO(_read_text(path), newline=""))
    header = next(rows, [])
    if sorted(header) not in (["image", "text"], ["image", "label", "text"]):
        raise UserError(f"{path}: line 1: header image,text[,label] expected, got {','.join(header)!r}")
    for row in filter(None, rows):
        if len(row) != len(header):
            raise UserError(f"{path}: line {rows.line_num}: {len(header)} fields expected, got {row}")
        named = {"label": "1"} | dict(zip(header, row, strict=True))
        if named["label"] not in ("0", "1"):
            raise UserError(
                f"{path}: line {rows.line_num}: label {named['label']!r}: 1 where the text fits the image, else 0"
            )
        yield rows.line_num, named["image"], named["text"], named["label"]


def _describe_names(one: ForeignArray) -> str:
    return f"known are {one.names[0]!r} to {one.names[-1]!r}, in the order of the rows"


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save as UTF-8") from None


def format_figures(measured: dict[str, Any]) -> str:
    """Format what `evaluate_arrays` returns for a terminal: every metric of FIGURES, then the gallery curves."""
    values = measured["figures"]
    ks = sorted(int(found[1]) for name in values if (found := re.fullmatch(r"t2i_hit_at_(\d+)", name)))
    lines = [f"{'R@k is hit@k; shares in %':<{TITLE_COLUMNS}}{'':>7}  95 % interval"]
    for direction in (*DIRECTIONS.values(), None):
        for metric in FIGURES.values():
            for name, way, k in metric.list_values(ks):
                if way == direction and name in values:
                    title = f"{way.title}  {metric.make_title(k)}" if way else metric.make_title(k)
                    estimate, form = get_estimate(values, metric, name), metric.unit.form
                    line = f"{title:<{TITLE_COLUMNS}}{f'{estimate.value:{form}}':>7}"
                    lines.append(f"{line}  {format_interval(estimate, form)}".rstrip())
    for direction in DIRECTIONS.values():
        title = f"{direction.title}  in a gallery of"
        lines += ["", f"{title:<{TITLE_COLUMNS}}" + "".join(f"{f'R@{k}':>8}" for k in ks)]
        lines += [
            f"{point['gallery']:>{TITLE_COLUMNS}}" + "".join(f"{100 * point[f'hit_at_{k}']:>8.1f}" for k in ks)
            for point in measured["gallery_curve"][direction.name]
        ]
    return "\n".join(lines)
