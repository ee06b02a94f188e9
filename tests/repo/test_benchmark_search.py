"""The benchmark of the search service runs over a small project: both servers, the store, memory and swaps."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.checkout import ROOT
from tests.support.search_project import build_index, build_search_project


def test_every_part_runs_for_a_moment(tmp_path: Path) -> None:
    build_index(build_search_project(tmp_path, reranked=False))
    command = [sys.executable, str(ROOT / "benchmarks/search_service.py"), "--tiny"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines()]
    values = {row[0].removeprefix("| "): row[1] for row in rows}
    for server in ("tuwen.service", "mlflow models serve"):
        assert all(re.fullmatch(r"p50 .*/s", values[f"{server}, {n} clients"]) for n in (1, 8, 32)), done.stdout
    assert float(values["throughput at 32 clients"].removesuffix(" times")) > 0
    assert len([name for name in values if name.startswith("store, ")]) == 16
    (swapped,) = (name for name in values if name.startswith("failed of 200 under "))
    assert values[swapped] == "0"
    assert {"start to ready", "memory after a load", "growth over 500 queries"} <= set(values)
