"""On a bare GPU machine torch, numpy, pillow, transformers and safetensors are enough to step on tensors."""

import subprocess
import sys

BLOCK = """
import sys

ABSENT = {"pyarrow", "pandas", "pydantic", "ruamel", "albumentations", "cv2", "open_clip", "torchvision", "timm",
          "mlflow", "dvc", "prefect", "great_expectations", "rich", "simplejpeg",
          "typer"}

class Bare:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Bare(finder) for finder in sys.meta_path]
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCK + code], capture_output=True, text=True, timeout=300)


def test_model_loss_and_step_are_imported_without_the_extras() -> None:
    done = python("import tuwen.model, tuwen.loss, tuwen.train, tuwen.images, tuwen.text; print('all there')")
    assert done.stdout == "all there\n", done.stderr


def test_an_open_clip_tower_names_the_extra() -> None:
    done = python("""
from tuwen.errors import UserError
from tuwen.model import DualEncoder
image = {"size_px": 16, "patch_px": 8, "width": 64, "layers": 1, "patch_dropout": 0.0}
text = {"width": 64, "layers": 1, "dropout": 0.0, "max_tokens": 8}
try:
    DualEncoder({"dim": 8, "image": image, "text": text, "vocabulary": 10})
except UserError as error:
    print(error)
""")
    assert "tuwen[towers]" in done.stdout, done.stderr
