"""The benchmark of a million rows builds, opens and serves an index of a few hundred."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.checkout import ROOT


def test_every_step_runs_over_a_few_hundred_pairs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.million_index", str(tmp_path), "make", "int8", "--pairs", "600"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"int8: recall@10 ([\d.]+) of 100 queries", done.stdout)[1]) > 0.9
    assert len(re.findall(r"p50 [\d.]+ ms, p95 [\d.]+ ms", done.stdout)) == 5
