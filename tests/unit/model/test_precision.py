"""What is computed in which numbers."""

import pytest
import torch

from tuwen.model import precision
from tuwen.model.precision import choose_inference_precision, choose_precision, set_precision


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
