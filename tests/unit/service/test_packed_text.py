"""A text tower in bf16: nearly the same vectors, from weights that are shared but for its products'."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.small_model import write_small_model
from tuwen.data.formats.tokens.padding import make_attention_mask
from tuwen.model.text_towers.bert import ACTIVATIONS, Bert, BertShape
from tuwen.retrieval.few_captions import embed_few_captions
from tuwen.retrieval.retriever import load_retriever
from tuwen.service.packed_text import BF16_UNITS, PackedTextTower, pack_text_tower

CAPTIONS = ["猫", "海边的日落,海边的日落", "大熊猫", "一只橘猫趴在窗台上", "雨", "街道"]
needs_units = pytest.mark.skipif(
    not any(torch.cpu.get_capabilities().get(name, False) for name in BF16_UNITS), reason="no units for bf16"
)


@needs_units
def test_its_vectors_are_those_of_the_model_but_for_rounding(tmp_path: Path) -> None:
    retriever = load_retriever(write_small_model(tmp_path / "model"))
    before = embed_few_captions(retriever.model, retriever.tokenizer, CAPTIONS)
    packed = pack_text_tower(retriever.model, "bf16")
    found = embed_few_captions(packed, retriever.tokenizer, CAPTIONS)
    assert ((found * before).sum(axis=1) > 0.9999).all()
    assert not np.allclose(found, before, atol=1e-6)
    after = embed_few_captions(retriever.model, retriever.tokenizer, CAPTIONS)
    assert np.array_equal(after, before)


@pytest.mark.parametrize(
    ("dtype", "least"),
    [pytest.param(torch.bfloat16, 0.999, marks=needs_units), (torch.float32, 0.999999)],
    ids=["bf16", "fp32"],
)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("lengths", [[5, 5], [7, 2, 4]], ids=["whole", "padded"])
def test_its_states_are_those_of_a_bert_and_none_of_padding(
    activation: str, lengths: list[int], dtype: torch.dtype, least: float
) -> None:
    torch.manual_seed(0)
    bert = Bert(BertShape(50, 64, 2, 4, 96, 8, 0.1, 1e-12, activation)).eval()
    with torch.no_grad():  # as strongly drawn as trained ones: an activation left out would be seen
        for parameter in bert.parameters():
            parameter.normal_(0, 0.3)
    ids_BL = torch.randint(1, 50, (len(lengths), max(lengths)))
    mask_BL = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    with torch.inference_mode():
        mask = make_attention_mask(mask_BL, ids_BL.device)
        expected_BLW, found_BLW = bert(ids_BL, mask), PackedTextTower(bert, dtype)(ids_BL, mask)
    cosine_BL = torch.cosine_similarity(found_BLW, expected_BLW, dim=-1)
    assert (cosine_BL[mask_BL] > least).all()
    assert (found_BLW[~mask_BL] == 0).all()


def test_all_but_the_products_of_the_text_tower_is_shared(tmp_path: Path) -> None:
    model = load_retriever(write_small_model(tmp_path / "model")).model
    packed = pack_text_tower(model, "fp32")
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    assert all(id(parameter) in own for parameter in packed.parameters())
    kept = {id(parameter) for parameter in packed.parameters()}
    left_out = {name for one, name in own.items() if one not in kept}
    layers = [name for name, layer in model.text_tower.named_modules() if isinstance(layer, torch.nn.Linear)]
    assert left_out == {f"text_tower.{name}.{part}" for name in layers for part in ("weight", "bias")}
    assert layers


def test_a_processor_without_units_multiplies_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retriever = load_retriever(write_small_model(tmp_path / "model"))
    expected = embed_few_captions(retriever.model, retriever.tokenizer, CAPTIONS)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    packed = pack_text_tower(retriever.model, "bf16")
    assert isinstance(packed.text_tower, PackedTextTower)
    found = embed_few_captions(packed, retriever.tokenizer, CAPTIONS)
    assert found == pytest.approx(expected, abs=1e-6)


def test_where_torch_has_no_onednn_the_model_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_retriever(write_small_model(tmp_path / "model")).model
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert pack_text_tower(model, "bf16") is model
