"""Run all stages anew: seconds per stage, peak memory, and whether the outs are the same.

    .venv/bin/python benchmarks/pipeline.py

Run it alone on the machine, after `make run`. Memory is the sum of the proportional set sizes (PSS) of all
processes below this one, read once a second. The last line says whether dvc.lock names the same bytes as before.
"""

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
from ruamel.yaml import YAML

BIN = Path(sys.executable).parent
LOCK = Path("dvc.lock")


def main() -> None:
    """Run the pipeline twice and print what was measured."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if not LOCK.is_file():
        sys.exit(f"{LOCK} is missing; `make run` comes first")
    before = outs()
    shutil.rmtree(".cache", ignore_errors=True)
    peak, done = [0], threading.Event()
    watcher = threading.Thread(target=watch, args=(peak, done), daemon=True)
    watcher.start()
    seconds = repro("--force")
    done.set()
    watcher.join()
    total = sum(seconds.values())
    for stage, spent in seconds.items():
        print(f"{stage:24} {spent:7.1f} s")
    print(f"{'all stages':24} {total:7.1f} s, at most 600")
    print(f"{'peak memory (PSS)':24} {peak[0] / 1e9:7.2f} GB, at most 4")
    start = time.monotonic()
    again = repro()
    print(
        f"{'a second dvc repro':24} {time.monotonic() - start:7.1f} s, at most 3; it ran {len(again) - 1} stages"
    )
    print(f"outs equal those before: {outs() == before}")


def repro(*options: str) -> dict[str, float]:
    """Run `dvc repro`; return seconds per stage, from its own lines. What precedes the first counts as `dvc`."""
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
    command = [str(BIN / "dvc"), "repro", *options]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    stage, since, seconds = "dvc", time.monotonic(), {}
    for line in process.stdout:
        if line.startswith("Running stage '"):
            seconds[stage] = time.monotonic() - since
            stage, since = line.split("'")[1], time.monotonic()
    if process.wait():
        sys.exit(f"dvc repro ended with exit code {process.returncode}")
    return seconds | {stage: time.monotonic() - since}


def watch(peak: list[int], done: threading.Event) -> None:
    """Keep the largest sum of PSS, in bytes, of all processes below this one."""
    while not done.wait(1.0):
        total = 0
        for process in psutil.Process().children(recursive=True):
            try:
                lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
            except OSError:  # it ended meanwhile
                continue
            total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        peak[0] = max(peak[0], total)


def outs() -> dict[str, str]:
    """Return path -> hash of every out in dvc.lock."""
    stages = YAML(typ="safe").load(LOCK)["stages"]
    return {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}


if __name__ == "__main__":
    main()
