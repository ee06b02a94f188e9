"""The dry run of pre-training, and the readers' benchmark, at sizes of seconds."""

import os
import re
import subprocess
import sys

from tests.support.checkout import ROOT


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_dry_run_shows_the_same_pairs_after_a_kill() -> None:
    printed = run("dry_run.py", "--pairs=330000", "--ranks=64")
    assert "330,000 pairs, process 5 of 64: 10 steps" in printed
    assert re.search(r"killed after step 5; first step \d+\.\d s after the next start", printed)
    assert "the same pairs in the same order; peak " in printed


def test_two_readers_are_measured_against_one() -> None:
    printed = run("streams.py", "readers", "stores", "remote", "--tiny")
    assert re.search(r"two \d+: \d+\.\d\d times", printed)
    assert re.search(r"s3, 0 GB of copies:\nby the clock: one reader \d+ pairs/s", printed)
    assert re.search(r"copied ahead, epoch 2: \d+ MB/s", printed)
