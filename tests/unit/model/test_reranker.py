"""A cross encoder is started from the text tower, and kept beside its dual encoder."""

import json
import re
from pathlib import Path

import pytest
import torch

from tests.support.small_model import write_small_model
from tests.support.weights import stir
from tuwen.core.errors import UserError
from tuwen.model import architectures, dual_encoder, reranker
from tuwen.model.cross_encoder import FUSIONS
from tuwen.model.dual_encoder import DualEncoder

SETTINGS = {"fusion": "both", "layers": 2, "width": 64, "heads": 1, "mlp": 256, "dropout": 0.1}
SETTINGS |= {"image_tokens": None}


def make_dual(layers: int = 3) -> DualEncoder:
    torch.manual_seed(0)
    image, text = architectures.make_vit_config(16, 8, 128, 1), architectures.make_bert_config(64, layers, 12, 16)
    return stir(DualEncoder({"dim": 16, "image": image, "text": text, "vocabulary": 20}))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_blocks_start_from_the_last_layers_of_the_text_tower(fusion: str) -> None:
    dual = make_dual()
    cross = reranker.make_cross_encoder(dual, SETTINGS | {"fusion": fusion})
    for stream in (cross.text_blocks, getattr(cross, "image_blocks", cross.text_blocks)):
        for block, layer in zip(stream, (dual.text_tower.encoder.layer[n] for n in (1, 2)), strict=True):
            assert torch.equal(block.fc1.weight, layer.intermediate.dense.weight)
            attention = layer.attention.self
            assert torch.equal(
                block.own.key_value.weight, torch.cat([attention.key.weight, attention.value.weight])
            )
    assert torch.equal(cross.token_head.decoder.weight, dual.text_tower.get_input_embeddings().weight)
    assert cross.config["image"] == {"tokens": 5, "width": 128}
    assert cross.config["text"] == {"width": 64}
    assert (cross.config["dim"], cross.config["vocabulary"]) == (16, 20)


def test_of_more_blocks_than_layers_the_last_start_from_them() -> None:
    dual = make_dual(layers=1)
    cross = reranker.make_cross_encoder(dual, SETTINGS | {"layers": 3})
    layer = dual.text_tower.encoder.layer[0].intermediate.dense.weight
    assert [torch.equal(block.fc1.weight, layer) for block in cross.text_blocks] == [False, False, True]


@pytest.mark.parametrize("other", [{"width": 128, "heads": 1}, {"heads": 2}, {"mlp": 128}])
def test_where_shapes_do_not_fit_the_blocks_are_drawn(other) -> None:
    torch.manual_seed(3)
    cross = reranker.make_cross_encoder(make_dual(), SETTINGS | other)
    assert not cross.text_blocks[0].own.query.bias.any()  # as drawn; the tower's is not zero


def test_the_generator_decides_what_is_drawn() -> None:
    dual, states = make_dual(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(reranker.make_cross_encoder(dual, SETTINGS).state_dict())
    first, same, other = (torch.cat([tensor.flatten() for tensor in state.values()]) for state in states)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_tower_without_tokens_is_refused_by_name() -> None:
    dual = DualEncoder(make_dual().config | {"image": architectures.make_resnet_config(32, 16, [1, 1, 1, 1])})
    with pytest.raises(UserError, match="ModifiedResNet has none"):
        reranker.make_cross_encoder(dual, SETTINGS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A re-ranker's folder, over the small model."""
    dual_folder = write_small_model(tmp_path / "finetuned")
    cross = stir(reranker.make_cross_encoder(dual_encoder.load_model(dual_folder), SETTINGS | {"mlp": 128}))
    reranker.save_reranker(cross, dual_folder, tmp_path / "reranked")
    return tmp_path / "reranked"


@pytest.mark.parametrize("compressed", [None, {"count": 3, "width": 64}])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_what_is_saved_is_loaded_bit_for_bit_beside_a_whole_dual_encoder(
    tmp_path: Path, fusion: str, compressed
) -> None:
    dual_folder = write_small_model(tmp_path / "finetuned")
    assert not reranker.has_reranker(dual_folder)
    dual = dual_encoder.load_model(dual_folder)
    cross = reranker.make_cross_encoder(dual, SETTINGS | {"fusion": fusion, "image_tokens": compressed})
    reranker.save_reranker(cross, dual_folder, tmp_path / "reranked")
    assert reranker.has_reranker(tmp_path / "reranked")
    again = reranker.load_reranker(tmp_path / "reranked")
    assert not again.cross.training
    for before, after in ((cross, again.cross), (dual, again.dual)):
        assert before.state_dict().keys() == after.state_dict().keys()
        assert [
            n for n, tensor in before.state_dict().items() if not torch.equal(tensor, after.state_dict()[n])
        ] == []
    first = (tmp_path / "reranked" / "cross_encoder.safetensors").read_bytes()
    reranker.save_reranker(again.cross, tmp_path / "reranked", tmp_path / "reranked")
    assert (tmp_path / "reranked" / "cross_encoder.safetensors").read_bytes() == first
    assert dual_encoder.load_model(tmp_path / "reranked").config == dual.config


def test_a_folder_without_a_re_ranker_says_so(tmp_path: Path) -> None:
    dual_folder = write_small_model(tmp_path / "finetuned")
    with pytest.raises(UserError, match=r"finetuned/cross_encoder\.json: missing; it holds no re-ranker"):
        reranker.load_reranker(dual_folder)


def test_a_broken_folder_is_named(folder: Path) -> None:
    config, weights = folder / "cross_encoder.json", folder / "cross_encoder.safetensors"
    whole = json.loads(config.read_text())
    for changes, fault in (
        ({"fusion": "early"}, "no layers can be built by it"),
        ({"layers": 3}, "these weights do not fit the model, and nothing was loaded"),
        ({"image": {"tokens": 5, "width": 128}}, "is for tokens of other widths"),
    ):
        config.write_text(json.dumps(whole | changes))
        with pytest.raises(UserError, match=rf"{re.escape(str(folder))}/cross_encoder\.\w+: {fault}"):
            reranker.load_reranker(folder)
    config.write_text("[]")
    with pytest.raises(UserError, match="expected a JSON object"):
        reranker.load_reranker(folder)
    config.write_text(json.dumps(whole))
    weights.unlink()
    with pytest.raises(UserError, match=r"cross_encoder\.safetensors: missing"):
        reranker.load_reranker(folder)
