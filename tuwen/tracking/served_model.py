"""The registered model: texts or images in, ranked ids of a gallery and embeddings out.

A table around retriever.py. MLflow runs this very file where it loads the model (models from code); the package
`tuwen` travels with it.
"""

import base64
import io
import json
import logging
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel

import tuwen

LOGGED_NAME = "tuwen"
ANSWER_KINDS = {"text": "images", "image": "texts"}  # column of the query -> what answers it
DEFAULT_K = 10
# What answering imports besides the package itself, and besides what these bring along.
REQUIRED_PACKAGES = (
    *("mlflow", "numpy", "open_clip_torch", "pillow", "safetensors", "simplejpeg", "torch", "torchvision"),
    "transformers",
)


class ServedModel(PythonModel):  # type: ignore[misc]  # mypy skips mlflow, so its base is Any
    """A model folder and a gallery folder: `images.npy`, `texts.npy` and the ids of their rows in `ids.json`."""

    def load_context(self, context: Any) -> None:
        """Read the model and the vectors."""
        from tuwen.retrieval.packed_reranker import open_packed_reranker
        from tuwen.retrieval.retriever import Gallery, load_retriever

        folder = Path(context.artifacts["gallery"])
        ids = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
        self.retriever = load_retriever(context.artifacts["model"])
        self.packed = open_packed_reranker(Path(context.artifacts["model"]), folder)
        self.turn = threading.Lock()  # a server asks by threads, and exact search sets flags of the whole process
        self.galleries = {
            kind: Gallery(np.load(folder / f"{kind}.npy", allow_pickle=False), ids[kind])
            for kind in ANSWER_KINDS.values()
        }

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answer each row, which has either `text` or `image`, an image file in base64.

        A text is answered by images, an image by texts. Return a frame of the same index: `ids` and `scores`
        (cosines), the best first, `k` of them; with `embeddings` also `embedding`, the row's unit vector. With
        `rerank` the first answers stand in the order of the re-ranker, which the version must have; scores are
        cosines all the same. Raises ValueError, naming the row, for one with both or neither and for an image
        that cannot be decoded.
        """
        settings = params or {}
        if settings.get("rerank") and self.packed is None:
            raise ValueError(
                "rerank: this version has no re-ranker; register models/reranked, or leave rerank out"
            )
        queries = _read_queries(model_input)
        answers: list[dict[str, Any]] = [{} for _ in queries]
        for column, kind in ANSWER_KINDS.items():
            rows = [row for row, (name, _) in enumerate(queries) if name == column]
            if not rows:
                continue
            with self.turn:
                vectors = self._encode(column, rows, [queries[row][1] for row in rows])
                k = settings.get("k", DEFAULT_K)
                if settings.get("rerank"):
                    ids, cosines = self._search_reranked(
                        column, [queries[row][1] for row in rows], rows, vectors, k
                    )
                else:
                    ids, cosines = self.galleries[kind].search(vectors, k)
            for n, row in enumerate(rows):
                answers[row] = {"ids": ids[n], "scores": cosines[n].tolist()}
                if settings.get("embeddings"):
                    answers[row]["embedding"] = vectors[n].tolist()
        return pd.DataFrame(answers, index=model_input.index)

    def _search_reranked(
        self, column: str, values: Sequence[str], rows: Sequence[int], vectors: Any, k: int
    ) -> tuple[list[list[str]], Any]:
        """Search more than k where the re-ranker reads more, and return the first k of its order."""
        from tuwen.retrieval.packed_reranker import rerank_found
        from tuwen.retrieval.retriever import read_square
        from tuwen.retrieval.search import top_k

        assert self.packed is not None
        direction = "t2i" if column == "text" else "i2t"
        gallery = self.galleries[ANSWER_KINDS[column]]
        count = max(k, min(self.packed.choices[direction].k, len(gallery.ids)))
        found, cosine = top_k(vectors, gallery.vectors, count)
        asked: list[Any] = list(values)
        if column == "image":
            asked = [
                (f"row {row}: image", _decode_base64(row, value)) for row, value in zip(rows, values, strict=True)
            ]
        decode = partial(read_square, rule=self.retriever.model.picture_rule)
        ordered, cosines = rerank_found(self.packed, direction, asked, decode, (found, cosine))
        return [[gallery.ids[item] for item in items] for items in ordered[:, :k].tolist()], cosines[:, :k]

    def _encode(self, column: str, rows: Sequence[int], values: Sequence[str]) -> Any:
        if column == "text":
            return self.retriever.encode_texts(values)
        images = [_decode_base64(row, value) for row, value in zip(rows, values, strict=True)]
        return self.retriever.encode_images(images, [f"row {row}: image" for row in rows])


def _read_queries(model_input: Any) -> list[tuple[str, str]]:
    """Return (`text` or `image`, its value) for each row."""
    columns = {name: model_input[name].tolist() for name in ANSWER_KINDS if name in model_input.columns}
    queries = []
    for row in range(len(model_input)):
        filled = [(name, values[row]) for name, values in columns.items() if isinstance(values[row], str)]
        if len(filled) != 1:
            raise ValueError(f"row {row}: either text or image expected, got {'both' if filled else 'neither'}")
        queries += filled
    return queries


def _decode_base64(row: int, value: str) -> bytes:
    """Return the bytes of an image file. A path is never opened: a server's files are not for its users."""
    try:
        return base64.b64decode(value, validate=True)
    except ValueError as error:  # binascii.Error, and a plain one for what is not ASCII
        raise ValueError(f"row {row}: image must be a picture file in base64 ({error})") from None


def log_model(run_id: str, experiment: str, model: Path, gallery: Path) -> str:
    """Log the model with its gallery to the run that trained it, and return MLflow's id of what was logged."""
    from mlflow.models import Model

    from tuwen.tracking import runs

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    mlflow.set_tracking_uri(runs.get_address())
    mlflow.set_experiment(experiment_id=experiment)
    ids = json.loads((gallery / "ids.json").read_text(encoding="utf-8"))
    logged = Model.log(
        None,
        mlflow.pyfunc,
        name=LOGGED_NAME,
        run_id=run_id,
        python_model=__file__,
        artifacts={"model": str(model), "gallery": str(gallery)},
        code_paths=[str(Path(tuwen.__file__).parent)],
        signature=_signature(min(DEFAULT_K, *map(len, ids.values()))),
        input_example=_example(),
        pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIRED_PACKAGES],
    )
    return str(logged.model_id)


def fetch_model_folder(name: str, version_number: str, out: Path) -> Path:
    """Download a registered version into `out` and return the model folder in it, as `log_model` was given it."""
    from mlflow.artifacts import download_artifacts
    from mlflow.models import Model

    from tuwen.tracking import runs

    address = f"models:/{name}/{version_number}"
    folder = Path(download_artifacts(artifact_uri=address, dst_path=str(out), tracking_uri=runs.get_address()))
    logged = Model.load(str(folder)).flavors["python_function"]["artifacts"]["model"]
    return folder / str(logged["path"])


def _signature(default_k: int) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, name, required=False) for name in ANSWER_KINDS]),
        outputs=Schema(
            [
                ColSpec(Array(DataType.string), "ids"),
                ColSpec(Array(DataType.double), "scores"),
                ColSpec(Array(DataType.double), "embedding", required=False),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("k", DataType.long, default_k),
                ParamSpec("embeddings", DataType.boolean, False),
                ParamSpec("rerank", DataType.boolean, False),
            ]
        ),
    )


def _example() -> Any:
    """Return two queries, a text and an image."""
    from PIL import Image

    encoded = io.BytesIO()
    Image.new("RGB", (16, 16), "orange").save(encoded, "PNG")
    image = base64.b64encode(encoded.getvalue()).decode()
    return pd.DataFrame({"text": ["一只橘猫趴在窗台上", None], "image": [None, image]})


mlflow.models.set_model(ServedModel())
