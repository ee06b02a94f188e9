"""Files of weights and the names in them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tuwen.core.errors import UserError
from tuwen.model.state_dict import Counterpart, convert_to_ours, convert_to_theirs, fill_layers, read_state

FILE = Path("clip.pt")


def test_a_file_gives_its_tensors_as_float32_whatever_its_kind(tmp_path: Path) -> None:
    half = {"weight": torch.tensor([[0.5, -2.0]], dtype=torch.float16), "count": torch.tensor(7)}
    torch.save(half, tmp_path / "a.pt")
    torch.save(
        {"state_dict": {f"module.{name}": tensor for name, tensor in half.items()}, "epoch": 3}, tmp_path / "b.bin"
    )
    save_file(half, tmp_path / "c.safetensors")
    for name in ("a.pt", "b.bin", "c.safetensors"):
        state = read_state(tmp_path / name)
        assert state.keys() == half.keys()
        assert state["weight"].dtype == torch.float32
        assert state["weight"].tolist() == [[0.5, -2.0]]
        assert state["count"].dtype == torch.int64


def test_the_prefix_of_a_parallel_training_is_kept_where_not_all_names_have_it(tmp_path: Path) -> None:
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "a.pt")
    assert set(read_state(tmp_path / "a.pt")) == {"module.a", "b"}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.pt: missing; expected a file of weights"):
        read_state(tmp_path / "gone.pt")


def test_nothing_is_copied_where_one_tensor_does_not_fit() -> None:
    layer = torch.nn.Linear(2, 3)
    before = layer.weight.clone()
    with pytest.raises(UserError, match=r"clip\.pt: .*1 of another shape \(bias: expected \(3,\), got \(4,\)\)"):
        fill_layers(layer, {"weight": torch.ones(3, 2), "bias": torch.ones(4)}, FILE)
    assert torch.equal(layer.weight, before)
    fill_layers(layer, {"weight": torch.ones(3, 2), "bias": torch.ones(3)}, FILE)
    assert torch.equal(layer.weight, torch.ones(3, 2))


def test_tensors_are_stacked_and_transposed_on_the_way_in_and_back_on_the_way_out() -> None:
    q, k, proj = torch.randn(2, 3), torch.randn(2, 3), torch.randn(4, 5)
    theirs = {"q": q, "k": k, "proj": proj}
    counterparts = {"qk": Counterpart(("q", "k")), "projection": Counterpart(("proj",), transposed=True)}
    ours = convert_to_ours(theirs | {"pooler.bias": q}, counterparts, FILE, r"pooler\..*")
    assert torch.equal(ours["qk"], torch.cat([q, k]))
    assert torch.equal(ours["projection"], proj.T)
    back = convert_to_theirs(ours, counterparts)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.items())


def test_every_kind_of_misfit_is_listed_by_the_names_of_the_file() -> None:
    counterparts = {"qk": Counterpart(("q", "k")), "v": Counterpart(("v",))}
    state = {"q": torch.zeros(2, 3), "k": torch.zeros(1, 3)} | {f"extra.{n}": torch.zeros(1) for n in range(8)}
    listed = (
        r"1 missing \(v\); 8 unexpected \(extra\.0, .*extra\.5, and 2 more\); 2 that should have one shape \(q: "
    )
    with pytest.raises(UserError, match=rf"^clip\.pt: .*nothing was loaded: {listed}"):
        convert_to_ours(state, counterparts, FILE, "")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_one_number_among_many_that_is_none_is_found(number: float) -> None:
    layer = torch.nn.Linear(64, 64)
    before = layer.weight.detach().clone()
    weight = torch.randn(64, 64)
    weight[40, 7] = number
    with pytest.raises(UserError, match=r"1 with NaN or infinite numbers[^;]*\(weight\)"):
        fill_layers(layer, {"weight": weight, "bias": torch.zeros(64)}, FILE)
    assert torch.equal(layer.weight, before)


def test_a_matrix_of_zeros_is_refused_and_one_number_is_enough() -> None:
    layer, weight = torch.nn.Linear(64, 64), torch.zeros(64, 64)
    with pytest.raises(UserError, match=r"1 of zeros alone[^;]*\(weight\)"):
        fill_layers(layer, {"weight": weight, "bias": torch.zeros(64)}, FILE)
    weight[3, 3] = -1e-30
    fill_layers(layer, {"weight": weight, "bias": torch.zeros(64)}, FILE)
    assert torch.equal(layer.weight, weight)
