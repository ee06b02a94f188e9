"""The registered model: texts or pictures in, ranked ids of a gallery and embeddings out.

MLflow runs this very file where it loads the model (models from code); what it imports of tuwen travels with it.
"""

import base64
import binascii
import io
import json
import logging
import threading
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel

import tuwen
from tuwen.tracking import runs

NAME = "tuwen"
SIDES = {"text": "images", "image": "texts"}  # what asks -> what answers
ANSWERS = 10
BATCH_SIZE = 64
# What the model's own code imports, besides what these bring along.
REQUIRED = (
    *("mlflow", "numpy", "open_clip_torch", "pillow", "pyarrow", "pydantic", "rich", "ruamel.yaml", "safetensors"),
    *("simplejpeg", "torch", "torchvision", "transformers"),
)


class Retriever(PythonModel):  # type: ignore[misc]  # mypy skips mlflow, so its base is Any
    """A model folder and a gallery: `images.npy`, `texts.npy` and the ids of their rows in `ids.json`."""

    def load_context(self, context: Any) -> None:
        """Read the model and the vectors."""
        from tuwen.data.formats.text import load_tokenizer
        from tuwen.model.device import choose_device
        from tuwen.model.dual_encoder import load_model

        model, gallery = (Path(context.artifacts[name]) for name in ("model", "gallery"))
        self.model = load_model(model).to(choose_device())
        self.tokenizer = load_tokenizer(model / "vocab.txt")
        self.ids = json.loads((gallery / "ids.json").read_text(encoding="utf-8"))
        self.vectors = {side: np.load(gallery / f"{side}.npy", allow_pickle=False) for side in SIDES.values()}
        self.turn = threading.Lock()  # a tokenizer answers one at a time, a server asks by threads

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answer each row, which has either `text` or `image`, a picture file as base64.

        A text is answered by pictures, a picture by texts. Returns a frame of the same index: `ids` and `scores`
        (cosines), the best first, `k` of them; with `embeddings` also `embedding`, the row's unit vector. Raises
        ValueError, naming the row, for one with both or neither and for a picture that cannot be decoded.
        """
        from tuwen.retrieval.search import top_k

        asked = _asked(model_input)
        answers: list[dict[str, Any]] = [{} for _ in asked]
        with self.turn:
            for kind, side in SIDES.items():
                rows = [n for n, (given, _) in enumerate(asked) if given == kind]
                if not rows:
                    continue
                vectors = self._embed(kind, {n: asked[n][1] for n in rows})
                found, scores = top_k(vectors, self.vectors[side], (params or {}).get("k", ANSWERS))
                for n, vector, items, cosines in zip(rows, vectors, found.tolist(), scores.tolist(), strict=True):
                    answers[n] = {"ids": [self.ids[side][item] for item in items], "scores": cosines}
                    if (params or {}).get("embeddings"):
                        answers[n]["embedding"] = vector.tolist()
        return pd.DataFrame(answers, index=model_input.index)

    def _embed(self, kind: str, given: Mapping[int, str]) -> Any:
        from tuwen.retrieval.encode import embed_captions, embed_images

        if kind == "text":
            return embed_captions(self.model, self.tokenizer, list(given.values()), BATCH_SIZE)
        size_px = self.model.config["image"]["size_px"]
        return embed_images(self.model, [_picture(n, text, size_px) for n, text in given.items()], BATCH_SIZE)


def _asked(model_input: Any) -> list[tuple[str, str]]:
    """(`text` or `image`, its value) for each row."""
    columns = {kind: model_input[kind].tolist() for kind in SIDES if kind in model_input.columns}
    asked = []
    for n in range(len(model_input)):
        given = [(kind, values[n]) for kind, values in columns.items() if isinstance(values[n], str)]
        if len(given) != 1:
            raise ValueError(f"row {n}: either text or image expected, got {'both' if given else 'neither'}")
        asked += given
    return asked


def _picture(row: int, text: str, size_px: int) -> Any:
    """The square of a base64 picture file; never of a path: whoever may ask a server must not read its files."""
    from tuwen.data.formats.images import decode_pixels, resize_to_square

    try:
        return resize_to_square(decode_pixels(base64.b64decode(text, validate=True)), size_px)
    except (binascii.Error, OSError) as error:
        raise ValueError(f"row {row}: image must be a picture file in base64 ({error})") from None


def log_model(run_id: str, experiment: str, model: Path, gallery: Path) -> str:
    """Log the model with its gallery to the run that made it; the id by which MLflow knows what was logged."""
    from mlflow.models import Model

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    mlflow.set_tracking_uri(runs.get_address())
    mlflow.set_experiment(experiment_id=experiment)
    ids = json.loads((gallery / "ids.json").read_text(encoding="utf-8"))
    logged = Model.log(
        None,
        mlflow.pyfunc,
        name=NAME,
        run_id=run_id,
        python_model=__file__,
        artifacts={"model": str(model), "gallery": str(gallery)},
        code_paths=[str(Path(tuwen.__file__).parent)],
        signature=_signature(min(ANSWERS, *map(len, ids.values()))),
        input_example=_example(),
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIRED],
    )
    return str(logged.model_id)


def _signature(answers: int) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, name, required=False) for name in SIDES]),
        outputs=Schema(
            [
                ColSpec(Array(DataType.string), "ids"),
                ColSpec(Array(DataType.double), "scores"),
                ColSpec(Array(DataType.double), "embedding", required=False),
            ]
        ),
        params=ParamSchema(
            [ParamSpec("k", DataType.long, answers), ParamSpec("embeddings", DataType.boolean, False)]
        ),
    )


def _example() -> Any:
    """A text and a picture that ask."""
    from PIL import Image

    encoded = io.BytesIO()
    Image.new("RGB", (16, 16), "orange").save(encoded, "PNG")
    picture = base64.b64encode(encoded.getvalue()).decode()
    return pd.DataFrame({"text": ["一只橘猫趴在窗台上", None], "image": [None, picture]})


mlflow.models.set_model(Retriever())
