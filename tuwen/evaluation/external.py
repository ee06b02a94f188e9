"""Anybody's embeddings and a table of what belongs together -> the figures that our own models get.

    tuwen evaluate --images A.npy --texts B.npy --relevance R.csv

A.npy [I, D] and B.npy [T, D]: half, single or double precision, rows of any length. R.csv: UTF-8 with the header
`image,text`, one true pair a line; a column `label` may say 0 where a text is known not to fit. Both columns hold
row numbers from 0, or ids where a file names them, one a line in the order of the rows.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tuwen.core.errors import UserError
from tuwen.core.params import Evaluate
from tuwen.evaluation import figures as measure
from tuwen.evaluation.details import make_details
from tuwen.evaluation.figures import Pool
from tuwen.retrieval import metrics
from tuwen.retrieval.vectors import Rows, Vectors, check_vectors

SAMPLES, SEED = 2000, 0
UNIT = 1e-6  # rows as near to length 1 as single precision stores them are taken as they are
TITLES = {"t2i": "text → image", "i2t": "image → text"}


class Side(NamedTuple):
    """The pictures or the texts."""

    kind: str  # "image" or "text"
    path: Path
    vectors: Vectors  # [rows, D], unit
    names: list[str]  # of the rows: ids, or row numbers
    note: str  # what was found, and done to it


def evaluate_arrays(images: Side, texts: Side, relevance: Path, ks: Sequence[int]) -> dict[str, Any]:
    """All figures, and what `details.json` holds, of foreign embeddings.

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
    group, unfit = np.arange(len(images.vectors)), (image[~fits], text[~fits])
    pool = Pool(images.vectors, texts.vectors, image[fits], text[fits], group, unfit)
    params = Evaluate.model_construct(ks=sorted(ks), bootstrap_samples=SAMPLES, seed=SEED)
    answers = measure.ask(pool, params)
    counts = {"images": len(images.vectors), "texts": len(texts.vectors), "pairs": int(fits.sum())}
    names = {"t2i": images.names, "i2t": texts.names}
    return {"figures": counts | measure.measure_figures(pool, answers, params)} | make_details(
        pool, answers, names, {}, params
    )


def read_array(kind: str, path: Path, ids: Path | None) -> Side:
    """The vectors in `path`, divided by their lengths, and the names of their rows; kind: "image" or "text".

    Raises UserError for what is no float matrix, NaN, zero vectors, an empty gallery, and ids that are doubled or
    of another number.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: not a NumPy array ({error}); write it with numpy.save") from None
    if not isinstance(found, np.ndarray):
        raise UserError(f"{path}: an archive of arrays; give one array, written with numpy.save")
    check_vectors(found, str(path))
    if not len(found):
        raise UserError(f"{path}: no rows, so this gallery is empty; embed something")
    lengths = np.linalg.norm(found.astype(np.float64), axis=1)
    what = f"{path}: {len(found)} {kind}s, {found.dtype}"
    if found.dtype == np.float32 and np.abs(lengths - 1).max() < UNIT:
        note = f"{what}, unit vectors"
    else:
        note = f"{what}, of length {lengths.min():.4g} to {lengths.max():.4g}: divided by it, a score is a cosine"
        found = found / lengths[:, None]
    names = [str(row) for row in range(len(found))] if ids is None else _read_ids(ids, path, len(found))
    return Side(kind, path, np.ascontiguousarray(found, np.float32), names, note)


def _read_ids(path: Path, vectors: Path, rows: int) -> list[str]:
    ids = _text(path).removesuffix("\n").split("\n")
    if len(ids) != rows:
        raise UserError(f"{path}: {len(ids)} lines, but {vectors} has {rows} rows; give each row its id")
    seen: dict[str, int] = {}
    for line, name in enumerate(ids, 1):
        if name in seen:
            raise UserError(f"{path}: line {line}: id {name!r} stands in line {seen[name]} too; make ids unique")
        seen[name] = line
    return ids


def _read_relevance(path: Path, images: Side, texts: Side) -> tuple[Rows, Rows, Any]:
    """(image row, text row, does it fit?) of every line."""
    rows_of = [{name: row for row, name in enumerate(one.names)} for one in (images, texts)]
    labels: dict[tuple[int, int], str] = {}
    for line, *names, label in _lines(path):
        found = []
        for one, known, name in zip((images, texts), rows_of, names, strict=True):
            if name not in known:
                raise UserError(f"{path}: line {line}: {one.kind} {name!r} is no row of {one.path}; {_known(one)}")
            found.append(known[name])
        if labels.setdefault((found[0], found[1]), label) != label:
            raise UserError(f"{path}: line {line}: {names} has label 0 and 1; keep one of them")
    pairs = np.array(list(labels), np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1], np.array([label == "1" for label in labels.values()], bool)


def _lines(path: Path) -> Iterator[tuple[int, str, str, str]]:
    """(line number, image, text, label) of every row of the relevance table."""
    rows = csv.reader(io.StringIO(_text(path), newline=""))
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


def _known(one: Side) -> str:
    return f"known are {one.names[0]!r} to {one.names[-1]!r}, in the order of the rows"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save as UTF-8") from None


def format_figures(found: dict[str, Any]) -> str:
    """The figures for a terminal, in per cent where they are shares."""
    figures = found["figures"]
    ks = [int(name.removeprefix("t2i_hit_at_")) for name in figures if name.removeprefix("t2i_hit_at_").isdigit()]
    lines = [f"{'':<30}{'%':>7}  95 % interval"]
    for direction, title in TITLES.items():
        lines += [_share(f"{title}  hit@{k} (R@{k})", f"{direction}_hit_at_{k}", figures) for k in ks]
        lines += [_share(f"{title}  recall@{k}", f"{direction}_recall_at_{k}", figures) for k in ks]
        lines.append(f"{title + '  median rank':<30}{figures[f'{direction}_median_rank']:>7.1f}")
        lines.append(f"{title + '  hubs, skewness':<30}{figures[f'{direction}_hub_skewness']:>7.2f}")
    lines.append(_share("mean recall (R@M)", "mean_recall", figures))
    if "auc" in figures:
        lines.append(_share(f"AUC, {figures['unfit_pairs']} unfitting pairs", "auc", figures))
    for direction, title in TITLES.items():
        lines += ["", f"{title + '  in a gallery of':<30}" + "".join(f"{f'hit@{k}':>8}" for k in ks)]
        lines += [
            f"{point['gallery']:>30}" + "".join(f"{100 * point[f'hit_at_{k}']:>8.1f}" for k in ks)
            for point in found["gallery_curve"][direction]
        ]
    return "\n".join(lines)


def _share(title: str, name: str, figures: dict[str, float]) -> str:
    line = f"{title:<30}{100 * figures[name]:>7.1f}"
    if f"{name}_low" in figures:
        line += f"  [{100 * figures[f'{name}_low']:.1f}, {100 * figures[f'{name}_high']:.1f}]"
    return line
