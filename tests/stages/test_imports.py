"""What a stage imports before its work: nothing that takes seconds and that it may not need."""

import json
import subprocess
import sys
from ast import literal_eval
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.frozen import VOCABULARY, make_encoder
from tests.support.reranking import SETTINGS
from tests.support.training import settings, write_set
from tuwen.data.formats import manifest
from tuwen.data.formats.json_file import write_json
from tuwen.model.dual_encoder import save_model
from tuwen.training.selection import Choice

STAGES = sorted(path.stem for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__")
# seconds each, for one class or function of theirs
HEAVY = ("torchvision", "scipy", "sympy", "torch._dynamo", "torch._inductor", "torch.distributed.fsdp")
HEAVY += ("open_clip", "timm", "transformers", "mlflow", "great_expectations", "albumentations", "matplotlib")
WITHOUT_TORCH = ("augment", "corpus", "embed", "ingest", "refit", "rerank", "validate")


def list_heavy(code: str, *arguments: str) -> list[str]:
    """Return what of HEAVY and torch a process has imported after `code`."""
    named = f"import sys\nprint([name for name in {(*HEAVY, 'torch')} if name in sys.modules])"
    command = [sys.executable, "-c", f"{code}\n{named}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: list[str] = literal_eval(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_that_starts_has_imported_little(name: str) -> None:
    assert list_heavy(f"import stages.{name}") == ([] if name in WITHOUT_TORCH else ["torch"])


ENCODE = """
import sys
from pathlib import Path
from tuwen.data.formats.text import load_tokenizer
from tuwen.model.dual_encoder import load_model
from tuwen.retrieval.encode import embed_captions

folder = Path(sys.argv[1])
embed_captions(load_model(folder), load_tokenizer(folder / "vocab.txt"), ["一个红色的圆"], 4)
"""
TRAIN = """
from tests.support.frozen import make_encoder
from tuwen.training import trainer

make_encoder()
"""


def test_a_model_of_our_own_towers_encodes_without_a_library_of_models(tmp_path: Path) -> None:
    save_model(make_encoder(), tmp_path / "m", VOCABULARY)
    assert list_heavy(ENCODE, str(tmp_path / "m")) == ["torch"]


def test_a_training_in_one_process_imports_nothing_of_several() -> None:
    assert list_heavy(TRAIN) == ["torch"]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("baseline", "has no pair"),
        ("finetune", "views.parquet"),
        ("refit", "views.parquet"),
        ("rerank", "views.parquet"),
    ],
)
def test_a_training_opens_its_tables_before_it_imports_mlflow(
    name: str,
    fault: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_stage: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    """Tables that cannot be opened end the stage, so that a run in MLflow shows what came first."""
    for part in ("corpus", "train", "valid", "test"):
        write_set(tmp_path / "data", part, {"": range(0 if part == "corpus" else 4)})
    (tmp_path / "data/augmented").mkdir()
    manifest.write_manifest(tmp_path / "data/augmented", {}, {})
    for model in ("baseline", "finetuned"):
        save_model(make_encoder(), tmp_path / "models" / model, VOCABULARY)
        write_json(tmp_path / "models" / model / "training.json", {"selected": Choice(1, False, 0.0).describe()})
        manifest.write_manifest(tmp_path / "models" / model, {}, {})
    trained = {"augment": {"splits": ["train", "valid"]}, "finetune": {"refit_all": True}, "rerank": SETTINGS}
    params = settings(**trained).model_dump(by_alias=True)
    (tmp_path / "params.yaml").write_text(json.dumps(params), encoding="utf-8")
    monkeypatch.setenv("TUWEN_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")

    ended = run_stage(tmp_path, name)

    assert ended.returncode == 1
    assert fault in ended.stderr
    assert not (tmp_path / "mlflow.db").exists()
