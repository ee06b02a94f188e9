"""A cross encoder on valid: what its order is worth, told from answers that are known."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.reranking import DUAL, make_settings
from tests.support.training import caption, write_set
from tuwen.data.formats import pairs
from tuwen.data.formats.picture_rule import PictureRule
from tuwen.data.formats.text import build_vocabulary, load_tokenizer
from tuwen.model import dual_encoder
from tuwen.model.reranker import make_cross_encoder
from tuwen.reranking.joint import JointModel
from tuwen.reranking.recipe import describe_layers
from tuwen.reranking.validation import make_rerank_validator
from tuwen.retrieval.encode import embed_captions, embed_images, read_images
from tuwen.retrieval.metrics import judge_queries
from tuwen.retrieval.vectors import RetrievalTask


@pytest.fixture
def valid(tmp_path: Path) -> Path:
    return write_set(tmp_path, "valid", {"": range(20, 32)})


def load(folder: Path):
    vocabulary = build_vocabulary(map(caption, range(20, 32)))
    torch.manual_seed(3)
    dual = dual_encoder.DualEncoder(DUAL | {"vocabulary": len(vocabulary)}).eval()
    dual_encoder.save_model(dual, folder, vocabulary)
    return dual, load_tokenizer(folder / "vocab.txt")


def measure_dual(dual, tokenizer, valid: Path) -> dict[str, float]:
    """What the dual encoder alone has on the set."""
    pair_set = pairs.read_pair_set(valid)
    image, text = pairs.find_true_rows(pair_set)
    images = embed_images(dual, read_images(valid.parent.parent, pair_set, PictureRule(16)), 4)
    texts = embed_captions(dual, tokenizer, pair_set.texts["caption"].to_pylist(), 4)
    tasks = {"i2t": RetrievalTask(images, texts, image, text), "t2i": RetrievalTask(texts, images, text, image)}
    ranks = {name: judge_queries(task, (1, 5)).best_rank for name, task in tasks.items()}
    return {f"valid_{name}_hit_at_{at}": (rank <= at).mean() for name, rank in ranks.items() for at in (1, 5)}


def test_a_cross_encoder_that_tells_nothing_leaves_the_dual_encoders_order(valid: Path, tmp_path: Path) -> None:
    dual, tokenizer = load(tmp_path / "model")
    cross = make_cross_encoder(dual, describe_layers(dual, make_settings()))
    for head in cross.match_heads:
        torch.nn.init.zeros_(head.weight)
    measured = make_rerank_validator(valid, dual, tokenizer, 12)(cross)
    assert measured.figures == pytest.approx(measure_dual(dual, tokenizer, valid))
    figures = measured.figures
    assert measured.criterion == pytest.approx((figures["valid_i2t_hit_at_1"] + figures["valid_t2i_hit_at_1"]) / 2)
    assert measured.shares.shape == (12,)


def test_what_lies_beyond_k_stays_beyond_it(valid: Path, tmp_path: Path) -> None:
    """At k 1 nothing can change places, whatever the cross encoder says."""
    dual, tokenizer = load(tmp_path / "model")
    cross = make_cross_encoder(dual, describe_layers(dual, make_settings()))
    for parameter in cross.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    one = make_rerank_validator(valid, dual, tokenizer, 1)(cross)
    whole = make_rerank_validator(valid, dual, tokenizer, 12)(cross)
    assert one.figures == pytest.approx(measure_dual(dual, tokenizer, valid))
    assert not np.array_equal(one.shares, whole.shares)


def test_towers_that_move_are_measured_by_their_vectors_of_now(valid: Path, tmp_path: Path) -> None:
    dual, tokenizer = load(tmp_path / "model")
    cross = make_cross_encoder(dual, describe_layers(dual, make_settings()))
    validate = make_rerank_validator(valid, dual, tokenizer, 1)
    before = validate(JointModel(dual, cross)).figures
    assert before == pytest.approx(measure_dual(dual, tokenizer, valid))
    torch.manual_seed(5)
    for parameter in dual.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    after = validate(JointModel(dual, cross)).figures
    assert after == pytest.approx(measure_dual(dual, tokenizer, valid))
    assert after != before
