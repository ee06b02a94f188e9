"""What stands before `tuwen track register`, with models that answer; and real MLflow servers."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.support import retrieval
from tests.support.training import TINY
from tuwen.core import params
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.text import build_vocabulary
from tuwen.model import dual_encoder
from tuwen.retrieval.embed import embed_set

NOISE = {"baseline": 3.0, "finetuned": 0.5}  # of the embeddings that both are measured by
ANSWER_SECONDS = 90


def build(root: Path) -> Path:
    """A project whose two models are real and small, and have truly embedded the bank."""
    retrieval.build(root, noise=NOISE)
    captions = pairs.read_pair_set(root / "data/clean/bank").texts["caption"].to_pylist()
    vocabulary = build_vocabulary(captions)
    for seed, name in enumerate(NOISE):
        torch.manual_seed(seed)
        folder = root / "models" / name
        dual_encoder.save_model(
            dual_encoder.DualEncoder(TINY | {"vocabulary": len(vocabulary)}), folder, vocabulary
        )
        manifest.write_manifest(folder, {}, {"seed": seed})
        for measured in ("test", "valid"):
            retrieval.sign(root, name, measured)
        embed_set(
            folder, root / "data/clean/bank", root / "embeddings" / name / "bank", params.load_params().embed
        )
    return root


@contextlib.contextmanager
def serving(*arguments: str, cwd: Path, health: str = "health", **environment: str) -> Iterator[str]:
    """`mlflow ARGUMENTS --port P` as a process of its own; its address once it answers. Nothing of it is left."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    log = cwd / f"server-{port}.log"
    command = [sys.executable, "-m", "mlflow", *arguments, "--host", "127.0.0.1", "--port", str(port)]
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, cwd=cwd, env=os.environ | environment, stdout=file, stderr=file, start_new_session=True
        )
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + ANSWER_SECONDS
        while not _answers(f"{address}/{health}"):
            assert process.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
            time.sleep(0.2)  # a server tells nobody when it begins to answer
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
