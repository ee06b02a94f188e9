"""Stages that overlap, the cards they compute on, and what a stage is told that ran out of memory."""

import fcntl
import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from prefect.logging import disable_run_logger

from flows import cards
from flows.pipeline import pipeline
from flows.repro import bring_up_to_date
from flows.schedule import count_parallel_stages
from tests.flows.conftest import Start
from tests.support.flows import make_repository, read_when_written
from tuwen.core.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dvc's, mlflow's and prefect's own
PATIENCE = "timeout 240"  # of a stage that waits for another one; a test then fails, it does not hang
END_SECONDS = 300


def write_graph(*stages: tuple[str, str, str], folder: Path = Path()) -> None:
    """Write dvc.yaml with stages (name, command, meta), none of which needs another."""
    lines = [f"  {name}:\n    cmd: {command}\n    meta: {{{meta}}}\n" for name, command, meta in stages]
    (folder / "dvc.yaml").write_text("stages:\n" + "".join(lines))


def meet(own: str, other: str) -> str:
    """A stage's command that ends well only while the stage with the two fifos the other way round runs too."""
    return (
        f"{PATIENCE} sh -c 'echo here > {own}' & {PATIENCE} cat {other} && echo $CUDA_VISIBLE_DEVICES > {own}.txt"
    )


@pytest.fixture
def fifos(project: Path) -> None:
    for name in ("one", "two"):
        os.mkfifo(name)


@pytest.fixture
def card() -> str:
    """A card that no other process of this machine announces."""
    return f"GPU-test-{uuid.uuid4()}"


def test_stages_that_do_not_need_each_other_run_at_once(
    server: None, fifos: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUWEN_PARALLEL_STAGES", "2")
    write_graph(("left", meet("one", "two"), ""), ("right", meet("two", "one"), ""))
    state = pipeline(return_state=True)
    assert state.is_completed(), state.message


def test_one_stage_at_a_time_where_no_more_are_allowed(
    server: None, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUWEN_PARALLEL_STAGES", "1")
    alone = "mkdir busy && sleep 1 && rmdir busy"
    write_graph(("left", alone, ""), ("right", alone, ""))
    state = pipeline(return_state=True)
    assert state.is_completed(), state.message


def test_two_gpu_stages_at_once_have_a_card_each_and_others_see_none(
    server: None, fifos: None, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUWEN_PARALLEL_STAGES", "3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{card}-a,{card}-b")
    write_graph(
        ("left", meet("one", "two"), "gpu: true"),
        ("right", meet("two", "one"), "gpu: true"),
        ("on_the_cpu", "echo $CUDA_VISIBLE_DEVICES > none.txt", "gpu: {if: none, is: marian}"),
    )
    state = pipeline(return_state=True)
    assert state.is_completed(), state.message
    seen = sorted(Path(name).read_text().strip() for name in ("one.txt", "two.txt", "none.txt"))
    assert seen == ["", f"{card}-a", f"{card}-b"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == f"{card}-a,{card}-b"


def test_a_training_on_several_gpus_has_all_of_them(
    server: None, project: Path, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUWEN_GPUS", "2")
    monkeypatch.setenv("TUWEN_PARALLEL_STAGES", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"{card}-a,{card}-b")
    alone = "mkdir busy && sleep 1 && rmdir busy"
    write_graph(
        ("train", f"{alone} && echo $CUDA_VISIBLE_DEVICES > seen.txt", "gpu: TUWEN_GPUS"),
        ("embed", alone, "gpu: true"),
    )
    state = pipeline(return_state=True)
    assert state.is_completed(), state.message
    assert Path("seen.txt").read_text().strip() == f"{card}-a,{card}-b"


def test_a_card_has_one_stage_whatever_the_checkout_and_the_server(
    server: None, project: Path, tmp_path: Path, card: str, start: Start
) -> None:
    """The second flow has a Prefect server of its own, as `make pipeline` beside `make serve`."""
    other = make_repository(tmp_path / "other")
    os.mkfifo("started")
    os.mkfifo("gate")
    write_graph(
        ("left", f"mkdir {tmp_path}/busy && echo here > started && cat gate && rmdir {tmp_path}/busy", "gpu: true")
    )
    write_graph(
        ("right", f"mkdir {tmp_path}/busy && rmdir {tmp_path}/busy && touch done", "gpu: true"), folder=other
    )
    first = start("flows.pipeline", CUDA_VISIBLE_DEVICES=card)
    assert read_when_written("started") == "here\n"
    own_server = {"PREFECT_API_URL": "", "PREFECT_HOME": str(tmp_path / "prefect")}
    second = start("flows.pipeline", cwd=other, CUDA_VISIBLE_DEVICES=card, **own_server)
    assert second.stdout is not None
    waits = next(line for line in second.stdout if "waits for a GPU" in line)
    assert f"right waits for a GPU: {card} is held" in waits
    assert not (other / "done").exists()
    Path("gate").write_text("权重")
    assert first.wait(END_SECONDS) == 0
    output, _ = second.communicate(timeout=END_SECONDS)
    assert second.returncode == 0, output
    assert (other / "done").exists()


def test_a_failure_lets_the_stage_beside_it_end_and_starts_no_other(
    server: None, fifos: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUWEN_PARALLEL_STAGES", "2")
    write_graph(
        ("a_fails", f"{PATIENCE} cat one && exit 3", ""),
        ("b_goes_on", f"{PATIENCE} sh -c 'echo > one' && sleep 5 && touch ended", ""),
        ("c_is_not_started", "touch too_much", ""),
    )
    state = pipeline(return_state=True)
    assert state.is_failed()
    assert "stage a_fails: dvc ended" in state.message
    assert Path("ended").exists()
    assert not Path("too_much").exists()


@pytest.mark.parametrize(
    ("announced", "there"),
    [("0,2", ["0", "2"]), (" GPU-a , MIG-b", ["GPU-a", "MIG-b"]), ("", []), ("-1", []), ("1,-1,2", ["1"])],
)
def test_cuda_visible_devices_announces_the_cards(
    announced: str, there: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without nvidia-smi
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", announced)
    assert cards.list_cards() == there


def test_a_number_and_a_uuid_name_one_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is the one that nvidia-smi's manual gives for this question; no card is at hand."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n[ \"$1\" = --query-gpu=uuid,index ] && printf 'GPU-55aa-1, 0\\nGPU-77bb-2, 1\\n'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert cards.list_cards() == ["GPU-55aa-1", "GPU-77bb-2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-55aa,GPU-away")
    assert cards.list_cards() == ["GPU-77bb-2", "GPU-55aa-1", "GPU-away"]


def test_cards_are_taken_whole_or_not_at_all(card: str) -> None:
    both = [f"{card}-a", f"{card}-b"]
    first = cards.take_cards(both, 1)
    assert first is not None
    assert first.cards == both[:1]
    assert cards.take_cards(both, 2) is None
    second = cards.take_cards(both, 1)  # what could not be taken whole holds nothing
    assert second is not None
    assert second.cards == both[1:]
    assert cards.take_cards(both, 0) == cards.take_cards([], 1) == cards.Held([], [])
    first.release()
    second.release()
    every = cards.take_cards(both, 8)
    assert every is not None
    assert every.cards == both
    every.release()


def test_the_lock_of_a_card_is_open_to_every_user_of_the_machine(card: str) -> None:
    umask = os.umask(0o077)
    try:
        held = cards.take_cards([card], 1)
    finally:
        os.umask(umask)
    assert held is not None
    path = cards.FOLDER / card
    assert path.stat().st_mode & 0o777 == 0o644
    assert cards.FOLDER.stat().st_mode & 0o7777 == 0o1777
    with path.open("rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    held.release()


@pytest.mark.parametrize(
    ("number", "gpus", "wanted"), [("", True, 1), ("4", "TUWEN_GPUS", 4), ("vier", "TUWEN_GPUS", 1)]
)
def test_how_many_cards_a_stage_wants(
    number: str, gpus: object, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUWEN_GPUS", number)
    assert cards.count_wanted(gpus) == wanted
    assert cards.count_wanted(None) == cards.count_wanted({"if": "none", "is": "marian"}) == 0
    assert cards.count_wanted({"if": "marian", "is": "marian"}) == 1


def test_how_many_stages_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUWEN_PARALLEL_STAGES", "5")
    assert count_parallel_stages(0) == 5
    monkeypatch.setenv("TUWEN_PARALLEL_STAGES", "0")
    with pytest.raises(
        UserError, match=r"TUWEN_PARALLEL_STAGES: a number of stages from 1 on is expected, got '0'"
    ):
        count_parallel_stages(0)
    monkeypatch.delenv("TUWEN_PARALLEL_STAGES")
    command = "from flows.schedule import count_parallel_stages; print(*map(count_parallel_stages, (0, 1, 8)))"
    one_core = ["taskset", "-c", str(min(os.sched_getaffinity(0))), sys.executable, "-c", command]
    assert subprocess.run(one_core, capture_output=True, text=True, check=True).stdout == "1 1 1\n"


TORCH = "import torch; raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB')"
PYTHON = "import resource; resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9)); bytearray(10**10)"


@pytest.mark.parametrize(
    ("command", "trains", "told"),
    [
        (f'python -c "{TORCH}" || (seq 40; exit 1)', True, ["the GPU", "precision", "checkpointing", "fit.chunk"]),
        (f'python -c "{TORCH}"', False, ["the GPU", "embed.batch_size", "paraphrase.batch_size", "size_px"]),
        ("kill -9 $$", True, ["SIGKILL", "TUWEN_PARALLEL_STAGES=1", "TUWEN_WORKERS=1", "size_px", "fit.chunk"]),
        (
            f'python -c "{PYTHON}"',
            False,
            ["this machine", "TUWEN_PARALLEL_STAGES=1", "TUWEN_WORKERS=1", "size_px"],
        ),
    ],
    ids=["card while training", "card", "killed", "machine"],
)
def test_out_of_memory_is_told_with_the_settings_that_help(
    project: Path, command: str, trains: bool, told: list[str]
) -> None:
    Path("dvc.yaml").write_text(f"stages:\n  hungry:\n    cmd: >-\n      {command}\n")
    with disable_run_logger():
        state = bring_up_to_date.fn("hungry", trains=trains)
    lead = state.message.partition("\n")[0]
    assert [word for word in told if word not in lead] == [], state.message


def test_another_failure_is_not_called_out_of_memory(project: Path) -> None:
    Path("dvc.yaml").write_text("stages: {broken: {cmd: echo 显存不足 && exit 3}}\n", encoding="utf-8")
    with disable_run_logger():
        state = bring_up_to_date.fn("broken")
    assert state.message.startswith("stage broken: dvc ended with exit code ")
