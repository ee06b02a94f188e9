"""A small real DVC repository for flows, and a stage in it that never ends by itself."""

import os
import select
from pathlib import Path

from flows.cards import take_cards

END_SECONDS = 60  # a cancelled flow and all it started are gone within this; within 15 where nothing else runs

# Every stage notes in ran.txt (no out of DVC's) that it really ran.
STAGES = """\
stages:
  words:
    cmd: echo words >> ran.txt && cp params.yaml words.txt
    params: [words]
    outs: [words.txt]
  baseline:
    cmd: echo baseline >> ran.txt && {baseline}
    meta: {{gpu: {gpu}}}
    deps: [words.txt]
    outs: [model.txt]
  measure:
    foreach: [left, right]
    do:
      cmd: echo measure ${{item}} >> ran.txt && cat model.txt > ${{item}}.txt
      deps: [model.txt]
      outs: ["${{item}}.txt"]
  other:
    cmd: echo other >> ran.txt && echo 另外 > other.txt
    outs: [other.txt]
"""
ALL = ["words", "baseline", "measure left", "measure right", "other"]

# A stage whose process starts a child in a session of its own, writes both pids, and then waits for ever.
STUBBORN = """\
import os, pathlib, signal, subprocess, sys
from tests.support.checkout import ROOT
if pathlib.Path("go").exists():
    sys.exit()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
with open("started", "w") as fifo:
    fifo.write(f"{os.getpid()} {child.pid}")
signal.pause()
"""


def make_repository(folder: Path) -> Path:
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    (folder / "params.yaml").write_text("words: 一只橘猫\nunused: 0\n", encoding="utf-8")
    write_stages("cp words.txt model.txt", folder)
    return folder


def write_stages(baseline: str, folder: Path = Path(), *, gpu: bool = True) -> None:
    """Write dvc.yaml; baseline: the command of the stage of that name, gpu: whether it computes on the GPU."""
    text = STAGES.format(baseline=baseline, gpu=str(gpu).lower())
    (folder / "dvc.yaml").write_text(text, encoding="utf-8")


def ran() -> list[str]:
    """Return the stages that ran since the last call."""
    path = Path("ran.txt")
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def is_free(card: str) -> bool:
    """Return whether no stage of this machine holds that GPU."""
    held = take_cards([card], 1)
    if held is not None:
        held.release()
    return held is not None


def read_when_written(fifo: str) -> str:
    """Return what a stage writes to the fifo; fail when it writes nothing for long."""
    source = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert select.select([source], [], [], 400)[0], f"nothing was written to {fifo}"
    return os.read(source, 1000).decode()


def wait_for_ever_in_a_stage(stage: str) -> None:
    Path("stubborn.py").write_text(STUBBORN)
    os.mkfifo("started")
    path = Path("dvc.yaml")
    path.write_text(
        path.read_text(encoding="utf-8").replace(f"echo {stage} >", f"python stubborn.py && echo {stage} >")
    )
