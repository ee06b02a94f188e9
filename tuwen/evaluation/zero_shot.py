"""Zero-shot classification: labels -> prompts -> class vectors -> the nearest classes; zero_shot.json.

A class vector is the mean of the unit vectors of its prompts, brought back to length 1: prompt ensembling as in
Radford et al. 2021 (CLIP), section 3.1.4. Shapes: N images, C classes, P prompts of a class, D dimensions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from tuwen.core.params import Evaluate
from tuwen.data.formats import pairs
from tuwen.data.formats.text import load_tokenizer
from tuwen.evaluation.embedded_set import Groups
from tuwen.evaluation.figures import ENDS
from tuwen.evaluation.zero_shot_file import ZeroShotReport, make_empty_report, write_report
from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import DualEncoder, load_model
from tuwen.model.stored_model import is_adapter
from tuwen.retrieval.encode import embed_captions
from tuwen.retrieval.intervals.resampling import SAMPLES, SEED, compute_intervals
from tuwen.retrieval.search import top_k
from tuwen.retrieval.vectors import Floats, Vectors, read_vectors

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


def evaluate_zero_shot(model_folder: Path, embedded: Path, set_folder: Path, out: Path, params: Evaluate) -> None:
    """Write as `out` how well a model tells the `category` of a set's images, by one prompt and by the ensemble.

    embedded: folder of the set's vectors by this model. Images without a category are left out; a set with fewer
    than two categories gives a report of no image, as do vectors of another program, which knows the prompts
    alone. Raises UserError for missing or unsound embeddings.
    """
    table = pairs.read_pair_set(set_folder).images
    categories = table["category"].to_pylist()
    rows = [row for row, category in enumerate(categories) if category]
    labels = [categories[row] for row in rows]
    report = make_empty_report()
    if len(set(labels)) > 1 and not is_adapter(model_folder):
        images = read_vectors(embedded / "images.npy", len(categories), set_folder / "images.parquet")
        groups = pc.coalesce(table["group"], table["image_id"]).to_numpy(zero_copy_only=False)
        report = classify_images(
            load_model(model_folder).to(choose_device()),
            model_folder,
            images[rows],
            labels,
            ENSEMBLE,
            groups=groups[rows],
            samples=params.bootstrap_samples,
            seed=params.seed,
        )
    write_report(out, report)


def classify_images(
    model: DualEncoder,
    model_folder: Path,
    images: Vectors,
    labels: Sequence[str],
    templates: Sequence[str],
    *,
    groups: Groups | None = None,
    samples: int = SAMPLES,
    seed: int = SEED,
) -> ZeroShotReport:
    """Return top-1 and top-5 by ONE_PROMPT and by `templates`, the ensemble, and its shares of each class.

    images [N, D]: unit vectors; labels: the true class of each. confusion[true class][predicted class] counts
    images. Of classes that are equally near, the first in the order of their names is predicted. groups [N]: what
    the intervals' bootstrap draws `samples` times; None: each image for itself.
    """
    classes = sorted(set(labels))
    tokenizer = load_tokenizer(model_folder / "vocab.txt")
    truth = np.array([classes.index(label) for label in labels])
    right, confusion = list[Floats](), np.zeros((len(classes), len(classes)), np.int64)
    for used in ([ONE_PROMPT], templates):
        vectors = make_class_vectors(model, tokenizer, classes, used)
        predicted, _ = top_k(images, vectors, min(TOP, len(classes)))
        is_right = predicted == truth[:, None]
        right += [is_right[:, 0].astype(np.float64), is_right.any(axis=1).astype(np.float64)]
    np.add.at(confusion, (truth, predicted[:, 0]), 1)
    of_class_NC = np.where(truth[:, None] == np.arange(len(classes)), is_right[:, :1], np.nan)
    right_NM = np.column_stack([*right, of_class_NC])
    ends_M2 = compute_intervals(right_NM, np.arange(len(truth)) if groups is None else groups, samples, seed)
    shares = np.column_stack([np.nanmean(right_NM, axis=0), ends_M2]).round(SHARE_DIGITS).tolist()
    return {
        "classes": classes,
        "pictures": len(labels),
        "one_prompt": _name_shares(shares[:2]),
        "ensemble": _name_shares(shares[2:4]),
        "per_class": [
            {"class": name, "pictures": int(row.sum()), **_name_shares([share])}
            for name, row, share in zip(classes, confusion, shares[4:], strict=True)
        ],
        "confusion": confusion.tolist(),
    }


def _name_shares(shares: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return top-1, and top-5 where it is there, each with the ends of its interval."""
    return {
        f"{top}{end}": value
        for top, share in zip(("top_1", "top_5"), shares, strict=False)
        for end, value in zip(ENDS, share, strict=True)
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
