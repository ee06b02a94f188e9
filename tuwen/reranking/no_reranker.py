"""The model folder of `rerank: null`, which is written without torch."""

import shutil
from pathlib import Path

from tuwen.data.formats import manifest


def write_no_reranker(out: Path) -> None:
    """Write the folder of `rerank: null`: `manifest.json` alone."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    manifest.write_manifest(out, {}, {"rerank": None})
