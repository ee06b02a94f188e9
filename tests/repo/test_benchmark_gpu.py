"""What is asked of a lent GPU runs whole on a CPU, and the model of memory says what was counted."""

import itertools
import os
import re
import runpy
import subprocess
import sys
from typing import Any

import pytest

from tests.support.checkout import ROOT

SCRIPT = ROOT / "benchmarks/gpu.py"


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return runpy.run_path(str(SCRIPT.with_name("memory.py")))


def test_every_part_but_the_tests_runs_at_tiny_shapes() -> None:
    command = [sys.executable, str(SCRIPT), "step", "memory", "waits", "search", "rerank", "waiting", "--tiny"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"times Hugging Face's loop +([\d.]+)", done.stdout)[1]) > 0
    assert len(re.findall(r"^peak, batch .* modelled [\d.]+ GB$", done.stdout, re.MULTILINE)) == 3
    assert re.search(r"exact search, 500 × 500, both directions +[\d.]+ s, 20/20", done.stdout)
    assert "no GPU" in done.stdout
    for shape, k in itertools.product(("text_image", "both"), (2, 4)):
        rate = rf"{shape} re-ranks, k {k}, pairs/s +\d+"
        spent = r"… ms a query, of all together and of one alone +[\d.]+, "
        assert re.search(rf"{rate} *\n{spent}", done.stdout), rate
    assert "tuwen from shards" in done.stdout


def test_modelled_bytes_are_the_counted_ones_within_a_tenth(memory: dict[str, Any]) -> None:
    assert memory["check_model"](memory["make_sizes"](True)) < 0.1


def test_checkpointing_keeps_the_input_of_each_block_alone(memory: dict[str, Any]) -> None:
    config, tokens = memory["make_sizes"](True)["small"]
    for side in ("image", "text"):
        plain, checkpointed = (memory["measure_kept"](side, config, tokens, True, on) for on in (False, True))
        assert checkpointed < plain / 4


def test_each_preset_for_a_card_fits_into_it(memory: dict[str, Any]) -> None:
    for preset, (_, _, card_gb) in memory["CARDS"].items():
        parts = memory["estimate_bytes"](memory["read_setting"](preset), memory["measure_tokens"]())
        assert sum(parts.values()) < card_gb * 1e9, preset


def test_every_batch_size_of_a_preset_is_marked_measured_or_estimated() -> None:
    for path in sorted((ROOT / "presets").glob("*.yaml")):
        lines = ["", *path.read_text(encoding="utf-8").splitlines()]
        for before, line in itertools.pairwise(lines):
            if re.search(r"\bbatch_size: \d", line.partition("#")[0]):
                marked = re.search(r"# .*(measured|estimated)", line) or re.match(
                    r" *# .*(measured|estimated)", before
                )
                assert marked, f"{path.name}: {line}"
