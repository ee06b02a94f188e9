"""A project ready for `tuwen track register`, with real small models; and real MLflow servers."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.support import retrieval
from tests.support.ports import free_ports, is_answering
from tests.support.training import TINY
from tuwen.core import params
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.text import build_vocabulary
from tuwen.model import dual_encoder
from tuwen.retrieval.embed import embed_set

NOISE = {"baseline": 3.0, "finetuned": 0.5}  # of the embeddings by which the models are measured
SETS = ("test", "valid")  # on which models are compared
ANSWER_SECONDS = 300


def build(root: Path) -> Path:
    """Make a project whose two models are real and small, and have really embedded the bank."""
    retrieval.build(root, noise=NOISE)
    captions = pairs.read_pair_set(root / "data/clean/bank").texts["caption"].to_pylist()
    vocabulary = build_vocabulary(captions)
    for seed, name in enumerate(NOISE):
        torch.manual_seed(seed)
        folder = root / "models" / name
        dual_encoder.save_model(
            dual_encoder.DualEncoder(TINY | {"vocabulary": len(vocabulary), "dim": 16}), folder, vocabulary
        )
        manifest.write_manifest(folder, {}, {"seed": seed})
        for measured in SETS:
            retrieval.sign(root, name, measured)
        embed_set(
            folder, root / "data/clean/bank", root / "embeddings" / name / "bank", params.load_params().embed
        )
    return root


@contextlib.contextmanager
def serving(*arguments: str, cwd: Path, health: str = "health", **environment: str) -> Iterator[str]:
    """Run `mlflow ARGUMENTS --port P`; yield its address once it answers, and kill its processes at the end."""
    (port,) = free_ports(1)
    log = cwd / f"server-{port}.log"
    command = [sys.executable, "-m", "mlflow", *arguments, "--host", "127.0.0.1", "--port", str(port)]
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, cwd=cwd, env=os.environ | environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + ANSWER_SECONDS
        while not is_answering(f"{address}/{health}"):
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
            time.sleep(0.2)  # a server does not report when it begins to answer
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
