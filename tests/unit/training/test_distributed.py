"""Two processes on two nodes, joined by torchrun's rendezvous, against one; and what is refused."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support import distributed_process
from tests.support.checkout import ROOT
from tests.support.ports import free_ports
from tests.support.training import TINY, fit
from tuwen.core.errors import UserError
from tuwen.model.dual_encoder import DualEncoder
from tuwen.training import distributed, step


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two processes write, each started by a torchrun of its own, as on two machines."""
    out = tmp_path_factory.mktemp("nodes")
    distributed_process.train(out / "checkpoint-of-one", until=1)
    distributed_process.write_far(out)
    rendezvous = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_ports(1)[0]}", "--rdzv-id=two"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *rendezvous]
    command += ["--local-addr=127.0.0.1", "-m", "tests.support.distributed_process", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    printed = [node.communicate(timeout=600)[0].decode() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], printed
    return out


@pytest.fixture(scope="module")
def both(nodes: Path) -> list[dict]:
    """What the two processes computed."""
    return [torch.load(nodes / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> dict:
    return distributed_process.compute_results()


@pytest.mark.parametrize("case", [*distributed_process.CASES, *distributed_process.GUIDED_CASES])
def test_the_gradients_of_two_processes_are_those_of_one(case: str, both: list[dict], alone: dict) -> None:
    loss, expected = alone[case]
    assert len(expected) > 10
    assert "log_scale" in expected
    for own_loss, gradients in (one[case] for one in both):
        assert own_loss == pytest.approx(loss, abs=1e-5)
        assert gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(
                gradients[name], gradient, atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize(("case", "seen"), [("plain", torch.float32), ("shares", torch.bfloat16)])
def test_in_bf16_the_gradients_of_two_processes_are_those_of_one(case, seen, both, alone) -> None:
    expected, _ = alone["bf16, plain"]
    _, exact = alone["plain"]
    assert max((expected[name] - gradient).abs().max().item() for name, gradient in exact.items()) > 1e-4
    for gradients, types in (one[f"bf16, {case}"] for one in both):
        assert types == {seen}  # shares are gathered in bf16, where autocast casts whole weights as it multiplies
        assert gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            assert gradients[name].dtype == torch.float32
            assert (gradients[name] - gradient).norm() < 0.05 * gradient.norm() + 1e-4, name


@pytest.mark.parametrize("case", distributed_process.DESCENTS)
def test_twenty_plain_steps_end_at_the_same_weights(case: str, both: list[dict], alone: dict) -> None:
    expected = alone[f"20 steps, {case}"]
    start = distributed_process.make_prepared(fit(batch_size=12))[0].state_dict()
    moved = max((expected[name] - start[name]).abs().max().item() for name in start)
    assert moved > 0.05  # a factor of two in the gradient would be seen
    for weights in (one[f"20 steps, {case}"] for one in both):
        for name, weight in expected.items():
            torch.testing.assert_close(weights[name], weight, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", ["distilled", "distilled, guided", *distributed_process.MASKED])
def test_what_another_model_says_in_two_processes_is_what_it_says_in_one(
    case: str, both: list[dict], alone: dict
) -> None:
    start = distributed_process.make_prepared(fit(batch_size=12))[0].state_dict()
    assert max((alone[case][name] - start[name]).abs().max().item() for name in start) > 1e-3
    for weights in (one[case] for one in both):
        for name, weight in alone[case].items():
            torch.testing.assert_close(weights[name], weight, atol=1e-4, rtol=0)


def test_a_training_in_shares_ends_as_one_process_does_and_measures_the_same(both, tmp_path) -> None:
    weights, average, records = distributed_process.train(tmp_path)
    assert (tmp_path / "state.pt").is_file()
    first, other = (one["trained"] for one in both)
    for name, weight in weights.items():
        torch.testing.assert_close(first[0][name], weight, atol=1e-4, rtol=0)
        torch.testing.assert_close(first[1][name], average[name], atol=1e-4, rtol=0)
    for record, own in zip(records, first[2], strict=True):
        assert own == pytest.approx(record, abs=2e-3)
    assert other[2] == first[2]


def test_shares_of_two_processes_are_taken_up_by_one(both: list[dict], nodes: Path, tmp_path, capsys) -> None:
    whole, average, records = distributed_process.train(tmp_path)
    assert [record["epoch"] for record in both[0]["half trained"][2]] == [1]
    shutil.copytree(nodes / "checkpoint", tmp_path / "again")
    resumed = distributed_process.train(tmp_path / "again")
    assert "begun by 2 processes and goes on with 1" in capsys.readouterr().out
    assert_trained_alike(resumed, (whole, average, records))


def assert_trained_alike(resumed: tuple, expected: tuple) -> None:
    """Compare the weights, their average and the last record of two trainings."""
    for states in zip(resumed[:2], expected[:2], strict=True):
        for name, weight in states[1].items():
            torch.testing.assert_close(states[0][name], weight, atol=1e-4, rtol=0)
    assert resumed[2][1] == pytest.approx(expected[2][1], abs=2e-3)


def test_a_training_in_shares_that_one_process_began_two_end(both: list[dict], tmp_path: Path) -> None:
    assert_trained_alike(both[0]["begun by one"], distributed_process.train(tmp_path))


def test_shares_of_two_processes_are_taken_up_by_three(nodes: Path, both: list[dict], tmp_path: Path) -> None:
    shutil.copytree(nodes / "checkpoint", tmp_path / "checkpoint")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "tests.support.distributed_process", str(tmp_path), "resume"],
        **{"cwd": ROOT, "env": environment, "timeout": 300, "capture_output": True, "text": True},
    )
    assert done.returncode == 0, done.stderr
    assert "begun by 2 processes and goes on with 3" in done.stdout
    resumed = torch.load(tmp_path / "resumed-0.pt", weights_only=True)
    assert_trained_alike(resumed, both[0]["trained"])


def test_a_folder_that_one_process_cannot_make_none_writes(both: list[dict], nodes: Path) -> None:
    assert [one["written"] for one in both] == [False, False]
    assert list((nodes / "kept").iterdir()) == []


def test_what_is_skipped_is_counted_over_both_processes(both: list[dict], nodes: Path) -> None:
    alone = [distributed_process.skip(nodes, apart) for apart in (False, True)]
    assert alone == [{"skipped_missing": 1, "skipped_unreadable": 2}] * 2
    for one in both:
        assert one["skipped"] == alone


def test_siblings_span_the_processes_and_count(alone: dict) -> None:
    batch = distributed_process.make_global_batch(1)
    halves = [set(batch.positive_id[part].tolist()) for part in (slice(6), slice(6, 12))]
    assert halves[0] & halves[1] == {100}
    assert alone["plain"][0] != pytest.approx(alone["negatives"][0], abs=1e-3)


def test_both_processes_see_the_same_losses_and_agree(both: list[dict], alone: dict) -> None:
    for rank, one in enumerate(both):
        assert one["losses"] == pytest.approx(alone["losses"], abs=1e-3)  # Muon computes in bf16
        assert one["gathered"] == [0, 1], rank
        assert one["from first"] == 0
        assert one["flags"] == [True, False]
        assert one["mean"] == 0.5


def test_alone_a_process_is_a_group_of_one() -> None:
    with distributed.join_group():
        assert (distributed.get_rank(), distributed.count_ranks(), distributed.is_first()) == (0, 1, True)
        assert distributed.gather_objects("图") == ["图"]
        rows = torch.ones(2, 3)
        assert distributed.gather_rows(rows) is rows


@pytest.mark.parametrize("number", ["two", "0", "-1", "1.5", ""])
def test_a_number_of_gpus_that_is_none_is_named(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUWEN_GPUS", number)
    with pytest.raises(UserError, match=f"TUWEN_GPUS must be a number from 1 on, got '{number}'"):
        distributed.start_processes("stages.finetune")


def test_a_batch_that_cannot_be_shared_and_a_batch_norm_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "count_ranks", lambda: 3)
    with pytest.raises(UserError, match="batch_size: 8 cannot be shared evenly by 3 processes"):
        step.prepare_model(DualEncoder(TINY), fit())
    model = DualEncoder(TINY)
    model.image_tower.stem = torch.nn.BatchNorm2d(3)
    with pytest.raises(UserError, match=r"3 processes without a GPU: image_tower\.stem is a BatchNorm"):
        step.prepare_model(model, fit(batch_size=9))
