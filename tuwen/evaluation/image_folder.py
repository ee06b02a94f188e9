"""`tuwen classify`: images that people sorted, as a folder for each class or as a CSV, classified by a model."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tuwen.core.errors import UserError
from tuwen.core.progress import follow
from tuwen.data.formats.image_files import ImageFiles, is_hidden, is_image_name
from tuwen.data.formats.images import Pixels, decode_pixels
from tuwen.data.formats.picture_rule import PictureRule, resize_by_rule
from tuwen.data.formats.text_files import open_text, read_csv_rows
from tuwen.evaluation.zero_shot import ONE_PROMPT, classify_images
from tuwen.evaluation.zero_shot_file import ZeroShotReport
from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import load_model
from tuwen.retrieval.encode import stream_vectors

IMAGES_AT_ONCE = 256


class LabelledImage(NamedTuple):
    """One image and the class that its owner gives it."""

    path: Path
    label: str
    place: str  # where a person finds the row


def classify_labelled_images(
    model_folder: Path, labelled: Sequence[LabelledImage], templates: Sequence[str]
) -> ZeroShotReport:
    """Return the report of these images; templates: the prompts of the ensemble.

    Raises UserError where fewer than two classes are named and where an image is missing or broken.
    """
    if len({one.label for one in labelled}) < 2:
        raise UserError(
            f"{labelled[0].place if labelled else 'no picture'}: name pictures of two classes at least"
        )
    model = load_model(model_folder).to(choose_device())
    blocks = stream_vectors(model, labelled, lambda one: _decode_square(one, model.picture_rule), IMAGES_AT_ONCE)
    vectors = np.concatenate(list(follow(blocks, "pictures", len(labelled), len)))
    return classify_images(model, model_folder, vectors, [one.label for one in labelled], templates)


def _decode_square(one: LabelledImage, rule: PictureRule) -> Pixels:
    try:
        return resize_by_rule(decode_pixels(one.path.read_bytes()), rule)
    except OSError as error:
        raise UserError(f"{one.place}: {one.path} cannot be read ({error}); mend it or leave it out") from None


def read_labelled_tree(root: Path) -> list[LabelledImage]:
    """List the images below `root`, at any depth; the first folder on the way is the class.

    Raises UserError where `root` is no folder. What has no image's name, or lies beside the class folders, is
    left out and counted on stderr; hidden files are not even counted.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name one that holds a folder for each class")
    labelled, others = list[LabelledImage](), list[Path]()
    for path in sorted(root.rglob("*")):
        inside = path.relative_to(root)
        if not path.is_file() or is_hidden(inside):
            continue
        if is_image_name(inside) and len(inside.parts) > 1:
            labelled.append(LabelledImage(path, inside.parts[0], str(root)))
        else:
            others.append(path)
    if others:
        print(f"{root}: {len(others)} files are no pictures in a class folder, as {others[0]}", file=sys.stderr)
    if not labelled:
        raise UserError(f"{root}: no picture in a folder of its class; expected such as {root}/熊猫/1.jpg")
    return labelled


def read_labelled_csv(path: Path) -> list[LabelledImage]:
    """List the rows of a CSV with the columns path (from the CSV's folder, or absolute) and label.

    A path that is not the file's own name is read as `ImageFiles` does; such rows are counted on stderr.
    """
    if not path.is_file():
        raise UserError(f"{path}: not found, or not a file; name a CSV with the columns path and label")
    labelled, files, ways = [], ImageFiles(path.parent), Counter[str]()
    for line, cells in read_csv_rows(path, ("path", "label")):
        label = cells["label"].strip()
        if not label:
            raise UserError(f"{path}:{line}: the label is empty; write the picture's class")
        image = path.parent / cells["path"]  # may be an absolute path to anywhere
        if not os.path.isfile(image):
            found = files.find(cells["path"])
            image = path.parent / found.name if found.path else image
            ways.update([found.way] if found.way else [])
        labelled.append(LabelledImage(image, label, f"{path}:{line}"))
    for way, count in sorted(ways.items()):
        print(f"{path}: names read otherwise: {way}: {count}", file=sys.stderr)
    if not labelled:
        raise UserError(f"{path}: no row; write one for each picture")
    return labelled


def read_templates(path: Path) -> list[str]:
    """Read the lines of a text file, each a prompt with one {}. Raises UserError where one is not."""
    if not path.is_file():
        raise UserError(f"{path}: not found, or not a file; write one prompt on each line, {ONE_PROMPT} for one")
    with open_text(path) as file:
        lines = [(number, line.strip()) for number, line in enumerate(file, 1) if line.strip()]
    for number, line in lines:
        if line.count("{}") != 1:
            raise UserError(f"{path}:{number}: {line!r}; write one {{}} where the label goes, as in {ONE_PROMPT}")
    if not lines:
        raise UserError(f"{path}: no prompt; write one on each line, {ONE_PROMPT} for one")
    return [line for _, line in lines]
