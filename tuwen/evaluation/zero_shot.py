"""Zero-shot classification: labels -> prompts -> class vectors -> the nearest classes; zero_shot.json.

A class vector is the mean of the unit vectors of its prompts, brought back to length 1: prompt ensembling as in
Radford et al. 2021 (CLIP), section 3.1.4. Shapes: N images, C classes, P prompts of a class, D dimensions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tuwen.data.formats import pairs
from tuwen.data.formats.text import load_tokenizer
from tuwen.evaluation.zero_shot_file import ZeroShotReport, make_empty_report, write_report
from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import DualEncoder, load_model
from tuwen.model.stored_model import is_adapter
from tuwen.retrieval.encode import embed_captions
from tuwen.retrieval.search import top_k
from tuwen.retrieval.vectors import Vectors, read_vectors

ONE_PROMPT = "这是一张{}图片"
ENSEMBLE = (
    ONE_PROMPT,
    *("{}", "{}图片", "{}的照片", "{}的图案", "{}的图标", "{}的插画", "{}的简笔画", "{}的卡通画", "{}的特写"),
    *("一张{}的照片", "一张清晰的{}照片", "一张模糊的{}照片", "一张黑白的{}图片", "一张色彩鲜艳的{}图片"),
    *("一张小小的{}图片", "一张常见的{}图片", "一个{}图标", "一个表示{}的符号", "一幅画着{}的画", "手绘的{}"),
    *("图中是{}", "图里有{}", "照片里的{}", "画面上只有{}", "这张图片的内容是{}", "这张图片属于{}这一类"),
    *("关于{}的图片", "与{}有关的图案", "看得出来，这是{}", "白色背景上的{}", "网上找到的一张{}图片"),
)
TOP = 5
PROMPTS_AT_ONCE = 256
SHARE_DIGITS = 6  # that are kept


def evaluate_zero_shot(model_folder: Path, embedded: Path, set_folder: Path, out: Path) -> None:
    """Write as `out` how well a model tells the `category` of a set's images, by one prompt and by the ensemble.

    embedded: folder of the set's vectors by this model. Images without a category are left out; a set with fewer
    than two categories gives a report of no image, as do vectors of another program, which knows the prompts
    alone. Raises UserError for missing or unsound embeddings.
    """
    categories = pairs.read_pair_set(set_folder).images["category"].to_pylist()
    rows = [row for row, category in enumerate(categories) if category]
    labels = [categories[row] for row in rows]
    report = make_empty_report()
    if len(set(labels)) > 1 and not is_adapter(model_folder):
        images = read_vectors(embedded / "images.npy", len(categories), set_folder / "images.parquet")
        report = classify_images(
            load_model(model_folder).to(choose_device()), model_folder, images[rows], labels, ENSEMBLE
        )
    write_report(out, report)


def classify_images(
    model: DualEncoder, model_folder: Path, images: Vectors, labels: Sequence[str], templates: Sequence[str]
) -> ZeroShotReport:
    """Return top-1 and top-5 by ONE_PROMPT and by `templates`, the ensemble, and its shares of each class.

    images [N, D]: unit vectors; labels: the true class of each. confusion[true class][predicted class] counts
    images. Of classes that are equally near, the first in the order of their names is predicted.
    """
    classes = sorted(set(labels))
    tokenizer = load_tokenizer(model_folder / "vocab.txt")
    truth = np.array([classes.index(label) for label in labels])
    accuracy = {}
    for name, used in (("one_prompt", [ONE_PROMPT]), ("ensemble", templates)):
        vectors = make_class_vectors(model, tokenizer, classes, used)
        predicted, _ = top_k(images, vectors, min(TOP, len(classes)))
        right = predicted == truth[:, None]
        accuracy[name] = {"top_1": _share(right[:, 0]), "top_5": _share(right.any(axis=1))}
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (truth, predicted[:, 0]), 1)
    per_class = [
        {"class": name, "pictures": int(row.sum()), "top_1": round(float(row[c] / row.sum()), SHARE_DIGITS)}
        for c, (name, row) in enumerate(zip(classes, confusion, strict=True))
    ]
    return {
        "classes": classes,
        "pictures": len(labels),
        **accuracy,
        "per_class": per_class,
        "confusion": confusion.tolist(),
    }


def make_class_vectors(
    model: DualEncoder, tokenizer: Any, labels: Sequence[str], templates: Sequence[str]
) -> Vectors:
    """Return unit vectors [C, D] of labels, each the mean over `templates`, which have {} for the label."""
    prompts = [template.replace("{}", label) for label in labels for template in templates]
    prompt_CPD = embed_captions(model, tokenizer, prompts, PROMPTS_AT_ONCE)
    prompt_CPD = prompt_CPD.reshape(len(labels), len(templates), -1)
    mean_CD = prompt_CPD.astype(np.float64).mean(axis=1)
    vectors: Vectors = (mean_CD / np.linalg.norm(mean_CD, axis=1, keepdims=True)).astype(np.float32)
    return vectors


def _share(right: Any) -> float:
    return round(float(right.mean()), SHARE_DIGITS)
