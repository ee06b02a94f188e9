"""A text tower in bf16: nearly the same vectors, from weights that are shared but for its products'."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.small_model import write_small_model
from tuwen.retrieval.few_captions import embed_few_captions
from tuwen.retrieval.retriever import load_retriever
from tuwen.service.packed_text import BF16_UNITS, PackedLinear, pack_text_tower

CAPTIONS = ["猫", "海边的日落,海边的日落", "大熊猫", "一只橘猫趴在窗台上", "雨", "街道"]
needs_units = pytest.mark.skipif(
    not any(torch.cpu.get_capabilities().get(name, False) for name in BF16_UNITS), reason="no units for bf16"
)


@needs_units
def test_its_vectors_are_those_of_the_model_but_for_rounding(tmp_path: Path) -> None:
    retriever = load_retriever(write_small_model(tmp_path / "model"))
    before = embed_few_captions(retriever.model, retriever.tokenizer, CAPTIONS)
    packed = pack_text_tower(retriever.model)
    found = embed_few_captions(packed, retriever.tokenizer, CAPTIONS)
    assert ((found * before).sum(axis=1) > 0.9999).all()
    assert not np.allclose(found, before, atol=1e-6)
    after = embed_few_captions(retriever.model, retriever.tokenizer, CAPTIONS)
    assert np.array_equal(after, before)


@needs_units
def test_all_but_the_products_of_the_text_tower_is_shared(tmp_path: Path) -> None:
    model = load_retriever(write_small_model(tmp_path / "model")).model
    packed = pack_text_tower(model)
    own = dict(model.named_parameters())
    assert all(parameter is own[name] for name, parameter in packed.named_parameters())
    left_out = set(own) - set(dict(packed.named_parameters()))
    layers = [name for name, layer in packed.text_tower.named_modules() if isinstance(layer, PackedLinear)]
    assert left_out == {f"text_tower.{name}.{part}" for name in layers for part in ("weight", "bias")}
    assert layers


def test_a_processor_without_units_keeps_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_retriever(write_small_model(tmp_path / "model")).model
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert pack_text_tower(model) is model
