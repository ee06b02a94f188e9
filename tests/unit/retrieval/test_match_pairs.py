"""Probabilities of many pairs, against the layers asked for one pair at a time."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.reranker import CAPTIONS, TOKENIZER, make_reranker, make_sides
from tuwen.core.errors import UserError
from tuwen.data.formats.images import make_pixel_tensor
from tuwen.data.formats.text import tokenize
from tuwen.model.cross_encoder import FUSIONS
from tuwen.model.reranker import ReRanker
from tuwen.retrieval import match_pairs
from tuwen.retrieval.match_pairs import PairSides, compute_matches, write_tokens

IMAGES = 5


@torch.inference_mode()
def score_one(reranker: ReRanker, sides: PairSides, image: int, text: int) -> float:
    """Score one pair, features of both sides anew, in single precision."""
    _, tokens = reranker.dual.encode_image_tokens(make_pixel_tensor([sides.decode(sides.images[image])]))
    ids, mask = tokenize(TOKENIZER, [sides.captions[text]], 12)
    _, states = reranker.dual.encode_text_tokens(ids, mask)
    return reranker.cross.score_matches(reranker.cross(reranker.cross.compress_image(tokens), states, mask)).item()


def list_all_pairs() -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(np.arange(IMAGES), len(CAPTIONS)), np.tile(np.arange(len(CAPTIONS)), IMAGES)


@pytest.mark.parametrize("settings", [{}, {"image_tokens": {"count": 3, "width": 64}}])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_pair_scores_as_if_it_were_alone(tmp_path: Path, fusion: str, settings) -> None:
    reranker, sides = make_reranker(fusion, **settings), make_sides(IMAGES)
    image, text = list_all_pairs()
    found = compute_matches(reranker, TOKENIZER, sides, image, text, tmp_path)
    expected = [score_one(reranker, sides, *pair) for pair in zip(image, text, strict=True)]
    np.testing.assert_allclose(found, expected, atol=2e-3)  # half precision of the stored tokens
    assert np.std(expected) > 0.01
    kept = 3 if settings else 5
    assert write_tokens(reranker, TOKENIZER, sides, tmp_path).images.tokens.shape == (IMAGES * kept, 64)


def test_bytes_depend_neither_on_the_order_nor_on_repeats_nor_on_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(match_pairs.PASS_PAIRS, "cpu", 4)
    reranker, sides = make_reranker(), make_sides(IMAGES)
    image, text = list_all_pairs()
    asked = np.random.default_rng(2).integers(0, len(image), 100)
    asked = np.concatenate([asked, np.arange(len(image))])  # every pair, and some again
    scores = []
    for workers in ("1", "3"):
        monkeypatch.setenv("TUWEN_WORKERS", workers)
        in_order = compute_matches(reranker, TOKENIZER, sides, image, text, tmp_path)
        scores += [
            in_order[asked],
            compute_matches(reranker, TOKENIZER, sides, image[asked], text[asked], tmp_path),
        ]
    assert all(one.tobytes() == scores[0].tobytes() for one in scores)


@pytest.mark.parametrize("pairs", [1, 7, 64])
def test_the_size_of_a_pass_changes_no_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pairs: int) -> None:
    reranker, sides = make_reranker(), make_sides(IMAGES)
    image, text = list_all_pairs()
    before = compute_matches(reranker, TOKENIZER, sides, image, text, tmp_path)
    monkeypatch.setitem(match_pairs.PASS_PAIRS, "cpu", pairs)
    after = compute_matches(reranker, TOKENIZER, sides, image, text, tmp_path)
    np.testing.assert_allclose(before, after, atol=1e-6)


def test_each_image_and_text_is_encoded_once_and_only_where_a_pair_names_it(tmp_path: Path) -> None:
    reranker, sides, decoded, read = make_reranker(), make_sides(IMAGES), [], []
    encode_text_tokens = reranker.dual.encode_text_tokens
    reranker.dual.encode_text_tokens = lambda ids, mask: read.append(len(ids)) or encode_text_tokens(ids, mask)
    watched = sides._replace(decode=lambda row: decoded.append(row) or sides.decode(row))
    image, text = np.array([4, 1, 4, 1, 4]), np.array([0, 0, 2, 3, 5])
    found = compute_matches(reranker, TOKENIZER, watched, image, text, tmp_path)
    assert sorted(decoded) == [1, 4]
    assert sum(read) == 4
    expected = [score_one(make_reranker(), sides, *pair) for pair in zip(image, text, strict=True)]
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_tokens_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    reranker = make_reranker()
    with torch.no_grad():
        reranker.dual.text_tower.encoder.layer[0].output.LayerNorm.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="the tokens of a tower hold NaN"):
        compute_matches(reranker, TOKENIZER, make_sides(1), np.array([0]), np.array([0]), tmp_path)


def test_no_pairs_have_no_scores(tmp_path: Path) -> None:
    none = np.empty(0, np.int64)
    found = compute_matches(make_reranker(), TOKENIZER, make_sides(1), none, none, tmp_path)
    assert found.dtype == np.float32
    assert found.shape == (0,)


def test_an_image_that_cannot_be_decoded_ends_it_with_its_name(tmp_path: Path) -> None:
    def decode(row: int) -> None:
        raise UserError(f"picture {row} cannot be decoded")

    sides = make_sides(3)._replace(decode=decode)
    with pytest.raises(UserError, match="picture 2 cannot be decoded"):
        compute_matches(make_reranker(), TOKENIZER, sides, np.array([2]), np.array([0]), tmp_path)
