"""`tuwen classify`: pictures that people sorted, as a folder for each class or as a CSV, classified by a model."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tuwen.core.errors import UserError
from tuwen.core.progress import follow
from tuwen.data.formats.images import Pixels, decode_pixels, resize_to_square
from tuwen.data.formats.text_files import open_text, read_csv_rows
from tuwen.evaluation import zero_shot
from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import load_model
from tuwen.report.html.confusion import draw_confusion
from tuwen.retrieval.encode import stream_vectors

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif"})


class Labelled(NamedTuple):
    """One picture and the class that it is said to be of."""

    path: Path
    label: str
    place: str  # where a person finds the row


def classify_pictures(
    model_folder: Path, pictures: Sequence[Labelled], templates: Sequence[str], out: Path | None
) -> None:
    """Print the table; with `out` write the report as JSON, and the confusion picture beside it as SVG.

    Raises UserError where fewer than two classes are named and where a picture is missing or broken.
    """
    if len({one.label for one in pictures}) < 2:
        raise UserError(
            f"{pictures[0].place if pictures else 'no picture'}: name pictures of two classes at least"
        )
    model = load_model(model_folder).to(choose_device())
    size_px = model.config["image"]["size_px"]
    blocks = stream_vectors(model, pictures, lambda one: _square(one, size_px), zero_shot.BATCH_SIZE)
    images = np.concatenate(list(follow(blocks, "pictures", None)))
    report = zero_shot.classify(model, model_folder, images, [one.label for one in pictures], templates)
    print(zero_shot.format_report(report))
    if out is not None:
        zero_shot.write_report(out, report)
        drawn = draw_confusion(report["classes"], report["confusion"])
        out.with_suffix(".svg").write_text(drawn, encoding="utf-8")


def _square(one: Labelled, size_px: int) -> Pixels:
    try:
        return resize_to_square(decode_pixels(one.path.read_bytes()), size_px)
    except OSError as error:
        raise UserError(f"{one.place}: {one.path} cannot be read ({error}); mend it or leave it out") from None


def read_labelled_tree(root: Path) -> list[Labelled]:
    """The pictures below `root`, at any depth; the first folder on the way is the class.

    Raises UserError where `root` is no folder. What has no picture's suffix, or lies beside the class folders, is
    passed by and counted on stderr; hidden files are not even counted.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name one that holds a folder for each class")
    found, others = list[Labelled](), list[Path]()
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if not path.is_file() or any(part.startswith(".") for part in inside.parts):
            continue
        if path.suffix.lower() in SUFFIXES and len(inside.parts) > 1:
            found.append(Labelled(path, inside.parts[0], str(root)))
        else:
            others.append(path)
    if others:
        print(f"{root}: {len(others)} files are no pictures in a class folder, as {others[0]}", file=sys.stderr)
    if not found:
        raise UserError(f"{root}: no picture in a folder of its class; expected such as {root}/熊猫/1.jpg")
    return found


def read_labelled_csv(path: Path) -> list[Labelled]:
    """The rows of a CSV with the columns path (from the CSV's folder, or absolute) and label."""
    if not path.is_file():
        raise UserError(f"{path}: not found, or not a file; name a CSV with the columns path and label")
    found = []
    for line, cells in read_csv_rows(path, ("path", "label")):
        label = cells["label"].strip()
        if not label:
            raise UserError(f"{path}:{line}: the label is empty; write the picture's class")
        found.append(Labelled(path.parent / cells["path"], label, f"{path}:{line}"))
    if not found:
        raise UserError(f"{path}: no row; write one for each picture")
    return found


def read_templates(path: Path) -> list[str]:
    """The lines of a text file, each a prompt with one {}. Raises UserError where one is not."""
    if not path.is_file():
        raise UserError(
            f"{path}: not found, or not a file; write one prompt on each line, {zero_shot.ONE_PROMPT} for one"
        )
    with open_text(path) as file:
        lines = [(number, line.strip()) for number, line in enumerate(file, 1) if line.strip()]
    for number, line in lines:
        if line.count("{}") != 1:
            raise UserError(
                f"{path}:{number}: {line!r}; write one {{}} where the label goes, as in {zero_shot.ONE_PROMPT}"
            )
    if not lines:
        raise UserError(f"{path}: no prompt; write one on each line, {zero_shot.ONE_PROMPT} for one")
    return [line for _, line in lines]
