"""What is computed in which numbers."""

from collections.abc import Iterator

import pytest
import torch

from tuwen.core.errors import UserError
from tuwen.model import precision
from tuwen.model.precision import (
    choose_frozen_precision,
    choose_inference_precision,
    choose_precision,
    set_float32_products,
    set_precision,
    use_full_float32,
)


@pytest.mark.parametrize(
    ("wanted", "units", "chosen"), [("bf16", True, "bf16"), ("bf16", False, "fp32"), ("fp32", True, "fp32")]
)
def test_half_precision_is_for_machines_with_units_for_it(wanted, units, chosen, monkeypatch) -> None:
    monkeypatch.setattr(precision, "has_bf16", lambda device: units)
    assert choose_precision(wanted) == chosen
    with set_precision(wanted):
        assert torch.ones(2, 2).mm(torch.ones(2, 2)).dtype == (
            torch.bfloat16 if chosen == "bf16" else torch.float32
        )
    assert torch.ones(2, 2).mm(torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("device", "units", "chosen"), [("cuda", True, "bf16"), ("cuda", False, "fp32"), ("cpu", True, "fp32")]
)
def test_vectors_are_computed_in_half_precision_on_a_gpu_alone(device, units, chosen, monkeypatch) -> None:
    monkeypatch.setattr(precision, "choose_device", lambda: device)
    monkeypatch.setattr(precision, "has_bf16", lambda device: units)
    assert choose_inference_precision() == chosen
    assert choose_frozen_precision("fp32") == chosen  # as they embed, whatever is trained over them


@pytest.mark.parametrize(
    ("wanted", "units", "chosen"),
    [("bf16", True, "bf16"), ("bf16", False, "fp16"), ("tf32", True, "tf32"), ("tf32", False, "fp32")],
)
def test_a_card_without_bf16_computes_in_fp16_and_not_in_tf32(wanted, units, chosen, monkeypatch) -> None:
    monkeypatch.setattr(precision, "choose_device", lambda: "cuda")
    monkeypatch.setattr(precision, "has_bf16", lambda device: units)
    assert choose_precision(wanted) == chosen
    assert choose_precision("fp32") == "fp32"


@pytest.fixture
def torchs_own() -> Iterator[None]:
    """Put back what torch multiplies in."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def test_products_are_shortened_where_tf32_is_asked_for_alone(torchs_own, monkeypatch) -> None:
    monkeypatch.setattr(precision, "choose_precision", lambda wanted: wanted)
    for wanted, expected in (("tf32", ("high", True)), ("bf16", ("highest", False)), ("fp32", ("highest", False))):
        set_float32_products(wanted)
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == expected


def test_a_search_after_a_training_in_tf32_multiplies_in_float32(torchs_own, monkeypatch) -> None:
    torch.set_float32_matmul_precision("high")
    with use_full_float32():
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == "high"
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda wanted: None)  # as an image may hold it
    with pytest.raises(UserError, match="unset TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"), use_full_float32():
        pass
