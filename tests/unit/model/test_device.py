import os

import pytest
import torch

from tuwen.model import device
from tuwen.model.device import choose_device, count_processes, has_bf16


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_is_taken_where_there_is_one(there: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert choose_device() == device


@pytest.mark.parametrize(("cores", "asked"), [(2, [2]), (3, []), (16, [])])
def test_torch_has_no_more_threads_than_the_quota_has_cores(cores: int, asked: list[int], monkeypatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(device, "count_cores", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    device._bound_threads.cache_clear()
    choose_device()
    choose_device()
    assert calls == asked


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"bf16": True}, True),
        ({"avx2": True}, False),
        ({}, False),
    ],
)
def test_a_cpu_has_bf16_where_one_of_its_units_is(
    units: dict, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    assert has_bf16("cpu") is expected


def test_a_gpu_that_emulates_bf16_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert has_bf16("cuda") is False


@pytest.mark.parametrize(
    ("asked", "cards", "processes"), [(None, 8, 1), ("4", 8, 4), ("4", 1, 1), ("2", 0, 1), ("vier", 8, 1)]
)
def test_a_process_that_embeds_has_a_card(asked, cards, processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.delenv("TUWEN_GPUS", raising=False)
    if asked is not None:
        monkeypatch.setenv("TUWEN_GPUS", asked)
    assert count_processes() == processes


def test_no_test_sees_the_machines_gpu() -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert choose_device() == "cpu"


@pytest.mark.gpu
def test_a_test_that_needs_the_gpu_sees_it() -> None:
    assert os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    assert choose_device() == "cuda"
