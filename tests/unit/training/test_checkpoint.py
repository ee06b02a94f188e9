"""Checkpoints: written whole or not at all, read with the random states, and keyed by what decides a training."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tuwen.core.errors import UserError
from tuwen.training import checkpoint, distributed
from tuwen.training.checkpoint import Checkpoint


def draw() -> tuple[float, float, float]:
    """Draw from every generator that a step may draw from."""
    return torch.rand(1).item(), random.random(), float(np.random.random())


def test_a_state_is_read_as_it_was_and_the_draws_go_on_where_they_stood(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "new/folder")
    assert kept.load() is None
    kept.save({"model": {"weight": torch.arange(3.0)}, "done": 5})
    following = [draw() for _ in range(3)]
    state = kept.load()
    assert state is not None
    assert set(state) == {"model", "done"}
    assert torch.equal(state["model"]["weight"], torch.arange(3.0))
    assert [draw() for _ in range(3)] == following


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_one_warning(tmp_path: Path, capsys) -> None:
    kept = Checkpoint(tmp_path)
    assert kept.write("state.pt", lambda part: part.write_bytes(b"old"))

    def fill(part: Path) -> None:
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    assert not kept.write("state.pt", fill)
    assert not kept.write("state.pt", fill)
    assert (tmp_path / "state.pt").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    assert capsys.readouterr().err.count("state.pt cannot be written ([Errno 28] No space left on device)") == 1


def test_another_number_of_processes_draws_anew_and_says_so(tmp_path: Path, monkeypatch, capsys) -> None:
    Checkpoint(tmp_path).save({"done": 1})
    following = torch.rand(1).item()
    monkeypatch.setattr(distributed, "count_ranks", lambda: 2)
    monkeypatch.setattr(distributed, "broadcast_first", lambda value: value)
    drawn = set()
    for rank in range(2):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        assert Checkpoint(tmp_path).load() == {"done": 1}
        drawn.add(torch.rand(1).item())
    assert len(drawn | {following}) == 3
    assert capsys.readouterr().out.count("begun by 1 processes and goes on with 2") == 1


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path, capsys) -> None:
    kept = Checkpoint(tmp_path)
    assert kept.write_together("shares-1", lambda part: (part / "0").write_bytes(b"one"))

    def fill(part: Path) -> None:
        (part / "0").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    assert not kept.write_together("shares-2", fill)
    assert [path.name for path in tmp_path.iterdir()] == ["shares-1"]
    assert "shares-2 cannot be written" in capsys.readouterr().err
    assert kept.write_together("shares-3", lambda part: (part / "0").write_bytes(b"three"))
    kept.remove_others("shares-*", "shares-3")
    assert [path.name for path in tmp_path.iterdir()] == ["shares-3"]


def test_a_process_that_does_not_see_the_folder_of_the_first_says_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(distributed, "broadcast_first", lambda value: True)
    monkeypatch.setattr(distributed, "get_rank", lambda: 3)
    with pytest.raises(UserError, match=r"state\.pt: process 0 sees this checkpoint, process 3 does not; .*share"):
        Checkpoint(tmp_path).load()


def test_the_checkpoint_is_keyed_by_inputs_and_params(tmp_path: Path) -> None:
    (tmp_path / "views.parquet").write_bytes(b"one")
    one = checkpoint.locate_checkpoint("finetuned", {"augmented": tmp_path}, {"lr": 1})
    assert one == checkpoint.locate_checkpoint("finetuned", {"augmented": tmp_path}, {"lr": 1})
    assert one != checkpoint.locate_checkpoint("finetuned", {"augmented": tmp_path}, {"lr": 2})
    (tmp_path / "views.parquet").write_bytes(b"two")
    assert one != checkpoint.locate_checkpoint("finetuned", {"augmented": tmp_path}, {"lr": 1})


def test_a_removed_checkpoint_is_gone_and_one_that_never_was_is_no_error(tmp_path: Path) -> None:
    Checkpoint(tmp_path / "a").save({"done": 1})
    checkpoint.remove_checkpoint(tmp_path / "a")
    checkpoint.remove_checkpoint(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_the_interval_is_ten_minutes_unless_a_variable_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUWEN_CHECKPOINT_SECONDS", raising=False)
    assert checkpoint.read_interval_seconds() == 600
    monkeypatch.setenv("TUWEN_CHECKPOINT_SECONDS", "0.5")
    assert checkpoint.read_interval_seconds() == 0.5
    monkeypatch.setenv("TUWEN_CHECKPOINT_SECONDS", "often")
    with pytest.raises(UserError, match="TUWEN_CHECKPOINT_SECONDS must be a number of seconds, got 'often'"):
        checkpoint.read_interval_seconds()
