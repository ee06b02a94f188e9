"""From views to a model folder: what lies in it, and which process writes it."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.support.distributed_process import GUIDED
from tests.support.training import SIZE_PX, TINY, caption, drawn, fit
from tuwen.core.errors import UserError
from tuwen.data.formats.images import decode_pixels, resize_to_square
from tuwen.data.formats.text import build_vocabulary
from tuwen.model import dual_encoder
from tuwen.training import distributed, runner
from tuwen.training.dataset import WHOLE, Decoder, ProcessShare, ViewSpec
from tuwen.training.selection import Choice, Measured

VOCABULARY = build_vocabulary(map(caption, range(16)))


class DrawnViews:
    """Sixteen drawn images with their captions, in the same order in every epoch."""

    dealt = False

    def __init__(self) -> None:
        self.decoders: list[Decoder] = [lambda number: resize_to_square(decode_pixels(drawn(number)), SIZE_PX)]

    def __len__(self) -> int:
        return 16

    def list_names(self, seed: int) -> pa.Table:
        return pa.table({"positive_id": list(map(str, range(16))), "caption": list(map(caption, range(16)))})

    def plan(self, seed: int, epoch: int, *, share: ProcessShare = WHOLE, skip: int = 0) -> Iterator[ViewSpec]:
        return (ViewSpec(str(n), str(n), caption(n), 0, n) for n in range(16))


def make_encoder() -> dual_encoder.DualEncoder:
    torch.manual_seed(7)
    return dual_encoder.DualEncoder(TINY | {"vocabulary": len(VOCABULARY)})


def measure(encoder: dual_encoder.DualEncoder, tokenizer: object) -> Measured:
    return Measured({"valid_t2i_hit_at_5": 0.25, "valid_i2t_hit_at_5": 0.5}, np.full(4, 0.09375))


def run(out: Path, **changes: object) -> dict:
    job = runner.Job(make_encoder(), VOCABULARY, DrawnViews(), fit(epochs=2, ema=0.9), 0)._replace(**changes)
    assert runner.run_training(job, out, out / "checkpoint", measure, lambda record, epoch: None)
    return json.loads((out / "training.json").read_text())


def test_a_training_writes_the_chosen_state_with_what_was_measured(tmp_path: Path) -> None:
    training = run(tmp_path, facts={"refit": ["train"]}, origin="drawn by chance")
    assert list(training) == ["pairs", "steps", "refit", "batch", "selected", "candidates", "ran", "epochs"]
    assert (training["pairs"], training["steps"], training["refit"]) == (16, 4, ["train"])
    assert training["batch"] == {
        **{"distinct_captions": 16.0, "equal_captions": 0.0, "siblings_per_row": 0.0},
        **{"false_negatives_per_row": 0.0, "lowest_loss": 0.0},
    }
    assert training["selected"] == {"epoch": 2, "ema": False, "wise_ft": 1.0}  # both tie: the plainer one
    assert [(one["epoch"], one["ema"], one["criterion"]) for one in training["candidates"]] == [
        (2, False, 0.375),
        (2, True, 0.375),
    ]
    assert [record["epoch"] for record in training["epochs"]] == [1, 2]
    assert dual_encoder.read_vocabulary(tmp_path) == VOCABULARY
    state = torch.load(tmp_path / "checkpoint/state.pt", weights_only=True)["model"]
    for name, tensor in dual_encoder.load_model(tmp_path).state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert "drawn by chance" in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("has_units", "precision"), [(True, "bf16"), (False, "fp32")])
def test_what_really_ran_is_recorded_and_not_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_units: bool, precision: str
) -> None:
    monkeypatch.setattr("tuwen.model.precision.has_bf16", lambda device: has_units)
    training = run(tmp_path, fit=fit(epochs=1, precision="bf16"))
    machine = {"device": "cpu", "processes": 1, "torch": torch.__version__}
    assert training["ran"] == {"precision": precision, **machine}


def test_a_state_that_was_chosen_elsewhere_is_taken_and_nothing_is_compared(tmp_path: Path) -> None:
    training = run(tmp_path, chosen=Choice(1, True, 1.0))
    assert training["selected"] == {"epoch": 1, "ema": True, "wise_ft": 1.0}
    assert training["candidates"] == []
    assert len(training["epochs"]) == 1
    average = torch.load(tmp_path / "checkpoint/state.pt", weights_only=True)["ema"]
    for name, tensor in dual_encoder.load_model(tmp_path).state_dict().items():
        assert torch.equal(tensor, average[name]), name


def test_an_untrained_model_is_written_as_it_is_and_measured_once(tmp_path: Path) -> None:
    encoder = make_encoder()
    assert runner.write_untrained(encoder, VOCABULARY, "drawn by chance", tmp_path, measure)
    assert json.loads((tmp_path / "training.json").read_text()) == {
        **{"pairs": 0, "steps": 0, "valid": {"valid_t2i_hit_at_5": 0.25, "valid_i2t_hit_at_5": 0.5}},
        **{"ran": {"device": "cpu", "processes": 1, "torch": torch.__version__}, "epochs": []},
    }
    for name, tensor in dual_encoder.load_model(tmp_path).state_dict().items():
        assert torch.equal(tensor, encoder.state_dict()[name].cpu()), name


def test_a_process_that_is_not_the_first_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "is_first", lambda: False)
    out = tmp_path / "out"
    assert not runner.write_untrained(make_encoder(), VOCABULARY, "drawn by chance", out, measure)
    assert not out.exists()


def test_siglips_loss_gives_a_model_its_bias_and_the_weights_it_is_mixed_with_too(tmp_path: Path) -> None:
    baseline = tmp_path / "baseline"
    dual_encoder.save_model(make_encoder(), baseline, VOCABULARY)
    siglip = fit(
        epochs=2, sigmoid=True, lr=0.1, muon_lr=None, select={"epochs": False, "wise_ft": [0.5], "soup": False}
    )
    training = run(tmp_path / "out", fit=siglip, baseline=baseline)
    assert {one["wise_ft"] for one in training["candidates"]} == {1.0, 0.5}
    model = dual_encoder.load_model(tmp_path / "out")
    assert model.config["sigmoid"]
    assert abs(model.logit_bias.item() - dual_encoder.START_BIAS) > 0.05
    assert "lowest_loss" not in training["batch"]


def test_a_student_that_reads_masked_texts_is_logged_and_needs_the_mask(tmp_path: Path) -> None:
    guided = fit(epochs=2, distil=GUIDED)
    assert all(record["fgd"] > 1 for record in run(tmp_path, fit=guided)["epochs"])
    unmasked = ["[unused1]" if token == "[MASK]" else token for token in VOCABULARY]
    with pytest.raises(UserError, match=r"distil\.fgd must be 0: the model's tokenizer has no \[MASK\]"):
        run(tmp_path / "unmasked", fit=guided, vocabulary=unmasked)
    assert not (tmp_path / "unmasked").exists()
