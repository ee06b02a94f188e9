"""hit@5 on valid against a count by hand, with images of several texts and texts of several images."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.support.frozen import IMAGE
from tests.support.training import SIZE_PX, TINY, caption, drawn, write_set
from tuwen.data.formats import pairs
from tuwen.data.formats.images import decode_pixels, make_pixel_tensor, resize_to_square
from tuwen.data.formats.picture_rule import PictureRule
from tuwen.data.formats.text import build_vocabulary, load_tokenizer, make_tokenizer, tokenize
from tuwen.model.dual_encoder import DualEncoder
from tuwen.training.validation import make_validator

IMAGES = 12
TRUE = [*((n, n) for n in range(IMAGES)), (3, 12), (4, 12), (3, 13)]  # rows of images and texts
CAPTIONS = [*map(caption, range(IMAGES)), "一张图", "两张图"]


@pytest.fixture
def valid(tmp_path: Path) -> Path:
    """Twelve images; one has three texts, and one text belongs to two of them."""
    folder = write_set(tmp_path, "valid", {"": range(IMAGES)})
    texts = [{"text_id": str(n), "caption": text} for n, text in enumerate(CAPTIONS)]
    rows = [
        {"pair_id": str(n), "image_id": str(image), "text_id": str(text), "label": 1}
        for n, (image, text) in enumerate(TRUE)
    ]
    tables = pa.Table.from_pylist(texts, pairs.TEXTS), pa.Table.from_pylist(rows, pairs.PAIRS)
    pairs.write_pair_set(folder, pairs.PairSet(pairs.read_pair_set(folder).images, *tables))
    return folder


def find_hits(score_QG: torch.Tensor, true: list[tuple[int, int]]) -> list[bool]:
    """Return, for each query, whether one of the five items with the highest scores is a true one."""
    best = score_QG.topk(5).indices.tolist()
    return [any((query, item) in true for item in items) for query, items in enumerate(best)]


@torch.no_grad()
def test_figures_and_shares_are_those_of_a_count_by_hand(valid: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text(
        "\n".join(vocabulary := build_vocabulary(CAPTIONS)) + "\n", encoding="utf-8"
    )
    tokenizer = load_tokenizer(tmp_path / "vocab.txt")
    torch.manual_seed(0)
    model = DualEncoder(TINY | {"vocabulary": len(vocabulary)}).eval()
    measured = make_validator(valid, PictureRule(SIZE_PX), batch_size=5)(model, tokenizer)

    squares = [resize_to_square(decode_pixels(drawn(n)), SIZE_PX) for n in range(IMAGES)]
    image_ID = model.encode_image(make_pixel_tensor(squares))
    text_TD = model.encode_text(*tokenize(tokenizer, CAPTIONS, TINY["text"]["max_tokens"]))
    i2t = find_hits(image_ID @ text_TD.T, TRUE)
    t2i = find_hits(text_TD @ image_ID.T, [(text, image) for image, text in TRUE])
    assert 0 < sum(i2t) < len(i2t)  # a model that was not trained finds some
    assert 0 < sum(t2i) < len(t2i)
    assert measured.figures == pytest.approx(
        {"valid_i2t_hit_at_5": np.mean(i2t), "valid_t2i_hit_at_5": np.mean(t2i)}
    )
    assert measured.criterion == pytest.approx((np.mean(i2t) + np.mean(t2i)) / 2)
    shares = np.array(i2t) / len(i2t) / 2
    for text, hit in enumerate(t2i):
        image = next(image for image, own in TRUE if own == text)  # of several the first
        shares[image] += hit / len(t2i) / 2
    assert measured.shares == pytest.approx(shares)


@torch.no_grad()
def test_frozen_towers_see_the_set_once_and_projections_are_measured_anew(valid: Path, monkeypatch) -> None:
    vocabulary = build_vocabulary(CAPTIONS)
    torch.manual_seed(0)
    model = DualEncoder(TINY | {"image": IMAGE, "vocabulary": len(vocabulary)}).eval()
    frozen = make_validator(valid, PictureRule(SIZE_PX), batch_size=5, frozen=True)
    for _ in range(3):
        model.image_tower.projection.weight.normal_()
        plain = make_validator(valid, PictureRule(SIZE_PX), batch_size=5)(model, make_tokenizer(vocabulary))
        measured = frozen(model, make_tokenizer(vocabulary))
        assert measured.figures == plain.figures
        monkeypatch.setattr(model.image_tower, "pool", None)  # as much as calling it again would fail
        assert frozen(model, make_tokenizer(vocabulary)).figures == plain.figures
        monkeypatch.undo()
