"""Torch, numpy, pillow, transformers and safetensors are enough to use a model, and to step on tensors."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.broken import encode, landscape
from tests.support.small_model import write_small_model

BLOCK = """
import sys

ABSENT = {"pyarrow", "pandas", "pydantic", "ruamel", "albumentations", "cv2", "open_clip", "torchvision", "timm",
          "mlflow", "dvc", "prefect", "great_expectations", "rich", "rjieba", "simplejpeg",
          "typer"}

class Bare:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else self.finder.find_spec(name, path, target)

    def find_distributions(self, *asked):
        find = getattr(self.finder, "find_distributions", None)
        return find(*asked) if find else []

sys.meta_path[:] = [Bare(finder) for finder in sys.meta_path]
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", BLOCK + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_model_loss_and_step_are_imported_without_the_extras() -> None:
    done = python("""
import tuwen.data.formats.images, tuwen.data.formats.sides, tuwen.data.formats.text, tuwen.model.dual_encoder
import tuwen.retrieval.match_pairs, tuwen.training.loss, tuwen.training.step
print("all there")
""")
    assert done.stdout == "all there\n", done.stderr


def test_a_model_is_loaded_encodes_and_is_searched_without_the_extras(tmp_path: Path) -> None:
    folder = write_small_model(tmp_path / "finetuned")
    (tmp_path / "cat.jpg").write_bytes(encode(landscape(), "JPEG"))
    code = """
import sys

import tuwen
from PIL import Image

retriever = tuwen.load(sys.argv[1])
texts = retriever.encode_texts(["一只橘猫趴在窗台上", "海边的日落"])
path = sys.argv[2]
images = retriever.encode_images([path, open(path, "rb").read(), Image.open(path)])
rows, cosines = tuwen.top_k(texts, images, k=3)
print(texts.shape, images.shape, rows.tolist(), cosines.dtype)
"""
    done = python(code, str(folder), str(tmp_path / "cat.jpg"))
    assert done.stdout == "(2, 16) (3, 16) [[0, 1, 2], [0, 1, 2]] float32\n", done.stderr


@pytest.mark.parametrize(
    ("name", "package"), [("evaluate", "pydantic"), ("predict", "pyarrow"), ("Params", "pydantic")]
)
def test_what_needs_an_extra_names_it(name: str, package: str) -> None:
    done = python(f"import tuwen\ntuwen.{name}")
    due = f"ImportError: tuwen.{name} needs {package}, which is not installed: pip install 'tuwen[data]'"
    assert done.stderr.splitlines()[-1] == due


def test_a_result_file_is_checked_against_csv_tables_without_the_extras(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("text_id\n甲\n", encoding="utf-8")
    (tmp_path / "g.csv").write_text("image_id\n一.jpg\n二.jpg\n", encoding="utf-8")
    rows = "甲,1,二.jpg\n甲,2,一.jpg\n"
    (tmp_path / "r.csv").write_text(f"text_id,similarity_ranking,result_image_id\n{rows}", encoding="utf-8")
    files = [str(tmp_path / name) for name in ("r.csv", "q.csv", "g.csv")]
    done = python("import sys, tuwen\nprint(tuwen.check(*sys.argv[1:], k=2))", *files)
    assert done.stdout.splitlines()[-1] == "True", done.stderr
    done = python("import sys, tuwen\ntuwen.check(sys.argv[1], 'q.parquet', sys.argv[3])", *files)
    assert done.stderr.splitlines()[-1].endswith("needs pyarrow: pip install 'tuwen[data]'")


def test_an_open_clip_tower_names_the_extra() -> None:
    done = python("""
from tuwen.core.errors import UserError
from tuwen.model.dual_encoder import DualEncoder
vision = {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8}
image = {"kind": "open_clip", "size_px": 16, "embed_dim": 24, "vision_cfg": vision, "quick_gelu": False}
text = {"width": 64, "layers": 1, "dropout": 0.0, "max_tokens": 8}
try:
    DualEncoder({"dim": 8, "image": image, "text": text, "vocabulary": 10})
except UserError as error:
    print(error)
""")
    assert "tuwen[towers]" in done.stdout, done.stderr


def test_a_step_is_made_without_the_extras_on_tensors_that_the_caller_gives() -> None:
    done = python("""
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import nn

from tuwen.training import optim, step

class Batch(NamedTuple):
    pixels: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor
    positive_id: torch.Tensor
    caption_id: torch.Tensor

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.image_tower, self.text_tower = nn.Linear(48, 8), nn.EmbeddingBag(20, 8)
        self.log_scale = nn.Parameter(torch.tensor(2.0))

    scale = property(lambda self: self.log_scale.exp())

    def encode_image(self, pixels):
        return nn.functional.normalize(self.image_tower(pixels.flatten(1)), dim=-1)

    def encode_text(self, ids, mask):
        return nn.functional.normalize(self.text_tower(ids), dim=-1)

torch.manual_seed(0)
rows = torch.arange(6)
batch = Batch(torch.randn(6, 3, 4, 4), rows[:, None] * 3 + torch.arange(3), torch.ones(6, 3).long(), rows, rows)
fit = SimpleNamespace(batch_size=6, chunk=4, precision="bf16", freeze="none", siblings="positives", compile=False,
                      shard="none", gradient_checkpointing=False, max_grad_norm=1.0, lr=0.05, deterministic=True,
                      matryoshka=[], muon_lr=None, weight_decay=0.0)
model = Encoder()
step.prepare_model(model, fit)
optimizers = optim.make_optimizers(model, fit)
losses = [step.step(model, optimizers, batch, 1.0, fit) for _ in range(40)]
print(losses[0] > 1, losses[-1] < 0.2)
""")
    assert done.stdout.splitlines()[-1] == "True True", done.stderr
