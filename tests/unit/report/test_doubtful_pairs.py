"""Can a model find the pairs that are wrong? A tiny one learns one part of a drawn set and judges another."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageDraw

from tests.support.training import fit
from tuwen.data.formats import pairs
from tuwen.data.formats.images import make_pixel_tensor, resize_to_square
from tuwen.data.formats.text import build_vocabulary, load_tokenizer, tokenize
from tuwen.evaluation.evaluate import compute_pair_cosines
from tuwen.model.dual_encoder import DualEncoder
from tuwen.training import optim
from tuwen.training.loader import Batch
from tuwen.training.step import step

COLOURS = {"红色": "red", "绿色": "green", "蓝色": "blue", "黄色": "gold", "紫色": "purple", "黑色": "black"}
SHAPES = ("圆形", "方块", "三角形", "十字")
COLUMNS, ROWS = ("左边", "中间", "右边"), ("上方", "正中", "下方")
SIZES = {"大": 26, "小": 14}  # px across
SENTENCES = ("画面{column}的{row}有一个{size}的{colour}{shape}", "一个{size}{colour}{shape}, 位于{column}{row}")
SIDE_PX, MAX_TOKENS, STEPS, BATCH = 32, 32, 60, 64
SHUFFLED, ENRICHED = 0.05, 5


def draw(colour, shape, column, row, size):
    picture = Image.new("RGB", (SIDE_PX * 2, SIDE_PX * 2), "white")
    pen, half = ImageDraw.Draw(picture), SIZES[size] // 2
    x, y = (16 + 16 * places.index(place) for places, place in ((COLUMNS, column), (ROWS, row)))
    fill = COLOURS[colour]
    if shape == "圆形":
        pen.ellipse((x - half, y - half, x + half, y + half), fill=fill)
    elif shape == "方块":
        pen.rectangle((x - half, y - half, x + half, y + half), fill=fill)
    elif shape == "三角形":
        pen.polygon([(x, y - half), (x + half, y + half), (x - half, y + half)], fill=fill)
    else:
        pen.line((x - half, y, x + half, y), fill=fill, width=5)
        pen.line((x, y - half, x, y + half), fill=fill, width=5)
    return picture


def make_pairs():
    """Every combination once: pictures [N, 3, S, S] and their captions, in a drawn order."""
    known = list(itertools.product(COLOURS, SHAPES, COLUMNS, ROWS, SIZES))
    order = np.random.default_rng(0).permutation(len(known))
    drawn = [known[n] for n in order]
    names = ("colour", "shape", "column", "row", "size")
    captions = [SENTENCES[n % 2].format(**dict(zip(names, one, strict=True))) for n, one in enumerate(drawn)]
    return make_pixel_tensor([resize_to_square(draw(*one), SIDE_PX) for one in drawn]), captions


def fitted(pixels, ids, mask, *, steps, seed):
    """A model after some steps on these pairs."""
    torch.manual_seed(seed)
    config = {
        "dim": 64,
        "image": {"size_px": SIDE_PX, "patch_px": 8, "width": 64, "layers": 2, "patch_dropout": 0.0},
        "text": {"width": 64, "layers": 1, "dropout": 0.0, "max_tokens": MAX_TOKENS},
        "vocabulary": int(ids.max()) + 1,
    }
    fitting = fit(epochs=1, batch_size=BATCH, muon_lr=4e-3, warmup_steps=20)
    model = DualEncoder(config)
    optimizers = optim.make_optimizers(model, fitting)
    for done in range(steps):
        rows = torch.randperm(len(pixels))[:BATCH]
        batch = Batch(pixels[rows], ids[rows], mask[rows], rows, rows)
        step(model, optimizers, batch, optim.compute_lr_factor(done, steps, fitting.warmup_steps), fitting)
    return model.eval()


def shuffled(captions, seed):
    """The captions with a twentieth of them passed round, and which: every one of those really differs."""
    drawn = np.random.default_rng(seed).permutation(len(captions))[: round(SHUFFLED * len(captions))]
    changed = list(captions)
    for row, other in zip(drawn, np.roll(drawn, 1), strict=True):
        changed[row] = captions[other]
    assert all(changed[row] != captions[row] for row in drawn)
    return changed, {f"p{row}" for row in drawn}


def enrichment(folder: Path, *, steps: int, seed: int = 0) -> float:
    """How many times more of the shuffled pairs stand among the lowest twentieth than chance would put there."""
    pixels, captions = make_pairs()
    (folder / "vocab.txt").write_text("\n".join(build_vocabulary(captions)) + "\n", encoding="utf-8")
    tokenizer = load_tokenizer(folder / "vocab.txt")
    half = len(captions) // 2
    model = fitted(pixels[:half], *tokenize(tokenizer, captions[:half], MAX_TOKENS), steps=steps, seed=seed)

    judged, wrong = shuffled(captions[half:], seed)
    with torch.no_grad():
        images = model.encode_image(pixels[half:]).numpy()
        texts = model.encode_text(*tokenize(tokenizer, judged, MAX_TOKENS)).numpy()
    cosines = compute_pair_cosines(as_set(judged), images, texts)
    lowest = cosines["pair_id"].to_pylist()[: round(SHUFFLED * len(judged))]
    found = len(wrong & set(lowest))
    return found / (len(lowest) * len(wrong) / len(judged))


def as_set(captions):
    rows = range(len(captions))
    return pairs.PairSet(
        pa.Table.from_pylist([{"image_id": f"i{n}"} for n in rows], pairs.IMAGES),
        pa.Table.from_pylist([{"text_id": f"t{n}", "caption": captions[n]} for n in rows], pairs.TEXTS),
        pa.Table.from_pylist(
            [{"pair_id": f"p{n}", "image_id": f"i{n}", "text_id": f"t{n}"} for n in rows], pairs.PAIRS
        ),
    )


def test_shuffled_captions_stand_among_the_lowest_cosines(tmp_path):
    assert enrichment(tmp_path, steps=STEPS) >= ENRICHED


def test_a_model_that_has_learnt_nothing_does_not_find_them(tmp_path):
    assert enrichment(tmp_path, steps=0) < ENRICHED
