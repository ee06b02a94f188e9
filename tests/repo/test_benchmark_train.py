"""The benchmark of training runs whole at tiny shapes: no hour of a GPU is spent on finding a typo."""

import os
import re
import runpy
import subprocess
import sys

import pytest

from tests.support.checkout import ROOT
from tests.unit.test_bare import python

SCRIPT = ROOT / "benchmarks/train.py"


def parse_rows(printed: str) -> dict[str, list[float]]:
    """Return, by name, pairs/s, MFU in percent, peak in GB, data wait in percent of every line of the tables."""
    lines = re.findall(r"^(\S.*?) {2,}([\d.]+) +([\d.]+)% +([\d.]+) +([\d.]+)%$", printed, re.MULTILINE)
    return {name: [float(figure) for figure in figures] for name, *figures in lines}


def test_the_part_for_a_gpu_runs_on_a_bare_machine() -> None:
    start = f"sys.argv = ['', 'gpu', '--tiny']; sys.path.insert(0, {str(SCRIPT.parent)!r})"
    done = python(f"{start}; import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')")
    assert done.returncode == 0, done.stderr
    rows = parse_rows(done.stdout)
    own = {"tuwen", "tuwen, checkpointing", "tuwen, GradCache in 2s"}
    assert {*own, "tuwen, GradCache in 2s, batch 64", "Hugging Face", "Hugging Face, checkpointing"} <= set(rows)
    assert "open_clip_train: not here" in done.stdout
    assert all(speed > 0 and mfu > 0 and peak > 0 for speed, mfu, peak, _ in rows.values())
    assert "the fastest of tuwen / Hugging Face: " in done.stdout


def test_the_other_parts_run_beside_all_peers() -> None:
    environment = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1])}
    command = [sys.executable, str(SCRIPT), "cpu", "switches", "input", "reading", "shards", "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    rows = parse_rows(done.stdout)
    assert {"tuwen", "Hugging Face", "open_clip_train", "tuwen from shards, 0 workers"} <= set(rows)
    assert rows["tuwen from shards, 0 workers"][3] > rows["tuwen"][3]  # that one has its batches at hand
    for peer in ("Hugging Face", "open_clip_train", "Hugging Face, trimmed", "open_clip_train, trimmed"):
        assert re.search(rf"^tuwen / {peer}: \d\.\d\d", done.stdout, re.MULTILINE), peer
    switches = re.findall(
        r"^(chunk|ema|freeze|gradient_checkpointing): .* ms +(\d\.\d\d)$", done.stdout, re.MULTILINE
    )
    assert len(switches) == 5
    assert re.search(r"batches, 0 workers: \d+ pairs/s", done.stdout)
    assert re.search(r"a core that decodes: \d+ pairs/s; planning and joining 64: [\d.]+ ms", done.stdout)
    assert len(re.findall(r"fetched [\d.]+ times the bytes of a view", done.stdout)) == 4


def test_the_flops_of_a_pair_are_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    measure = runpy.run_path(str(SCRIPT.with_name("train_measure.py")))
    script = runpy.run_path(str(SCRIPT))
    assert measure["count_flops"](script["make_large_scale"]().config, 52) == pytest.approx(0.51e12, rel=0.01)
