"""A model folder ready to use: texts and images become unit vectors that a gallery can be searched with.

It needs torch, numpy, pillow, transformers and safetensors alone.
Shapes: T texts, I images, D dimensions, Q queries, G gallery items.
"""

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from tuwen.core.errors import UserError
from tuwen.data.formats.images import Pixels, decode_pixels, make_upright
from tuwen.data.formats.picture_rule import PictureRule, resize_by_rule
from tuwen.data.formats.text import load_tokenizer
from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import DualEncoder, load_model
from tuwen.model.stored_model import is_adapter
from tuwen.retrieval.encode import embed_captions, stream_vectors
from tuwen.retrieval.few_captions import embed_few_captions
from tuwen.retrieval.search import top_k
from tuwen.retrieval.vectors import Vectors

ImageInput: TypeAlias = str | Path | bytes | Image.Image
ENCODE_BATCH = 64

_LOADING = threading.Lock()  # two items may be one PIL image, whose pixels and EXIF are read when first needed


class Retriever:
    """A dual encoder with its tokenizer, on the GPU where there is one.

    Several threads may use one retriever; it serves them one after another.
    """

    def __init__(self, model: DualEncoder, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._turn = threading.Lock()  # torch's number of threads serves one call at a time

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Return a unit vector per text, [T, D] float32.

        A text of more than the model's `max_tokens` tokens is cut there. Raises UserError for what is no list of
        strings.
        """
        if isinstance(texts, str):
            raise UserError(f"texts: a list of strings expected, got one string; write [{texts!r}]")
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise UserError(f"texts[{number}]: a string expected, got {type(text).__name__}")
        with self._turn:
            if len(texts) <= ENCODE_BATCH:
                return embed_few_captions(self.model, self.tokenizer, list(texts))
            return embed_captions(self.model, self.tokenizer, list(texts), ENCODE_BATCH)

    def encode_images(self, images: Sequence[ImageInput], names: Sequence[str] | None = None) -> Vectors:
        """Return a unit vector per image, [I, D] float32.

        images: paths, encoded bytes (JPEG, PNG, …) or PIL images. Each is turned upright by its EXIF
        orientation, put on white where it is transparent, and resized as the model was trained
        (data/formats/picture_rule.py). They are read while others are encoded, so that only a few are held at
        once. names: what an error calls each image; by default its position, and its path where it has one.
        Raises UserError, naming the image, for one that is missing or cannot be decoded.
        """
        if isinstance(images, str | Path | bytes | Image.Image):
            raise UserError("images: a list expected, got one image; write [image]")
        names = names or [_name_image(number, image) for number, image in enumerate(images)]
        named = list(zip(names, images, strict=True))
        read = partial(read_square, rule=self.model.picture_rule)
        none = np.empty((0, self.model.config["dim"]), np.float32)
        with self._turn:
            return np.concatenate([none, *stream_vectors(self.model, named, read, ENCODE_BATCH)])


class Gallery(NamedTuple):
    """Items to search among: a unit vector and an id for each."""

    vectors: Vectors  # [G, D]
    ids: Sequence[str]  # [G]

    def search(self, queries: Vectors, k: int) -> tuple[list[list[str]], Vectors]:
        """Return the ids of the k best items per query, best first, and their cosines [Q, k].

        queries [Q, D]. Exact, and errors, as `search.top_k`.
        """
        rows, cosines = top_k(queries, self.vectors, k)
        return [[self.ids[row] for row in rows_k] for rows_k in rows.tolist()], cosines


def load_retriever(folder: Path | str) -> Retriever:
    """Load the model in `folder`, such as models/finetuned, with its tokenizer.

    Raises UserError when files are missing or do not fit each other, and for vectors of another program.
    """
    folder = Path(folder)
    if is_adapter(folder):
        raise UserError(
            f"{folder}: holds vectors of another program, and only that can encode a new text or picture; search "
            "among what `embed` wrote by vectors of its own with tuwen.top_k"
        )
    return Retriever(load_model(folder).to(choose_device()), load_tokenizer(folder / "vocab.txt"))


def _name_image(number: int, image: ImageInput) -> str:
    return f"images[{number}], {image}" if isinstance(image, str | Path) else f"images[{number}]"


def read_square(named: tuple[str, ImageInput], rule: PictureRule) -> Pixels:
    """Return the model's view of a named image, uint8 [S, S, 3]."""
    name, image = named
    try:
        if isinstance(image, Image.Image):
            with _LOADING:
                upright = make_upright(image)
            return resize_by_rule(upright, rule)
        if isinstance(image, str | Path):
            image = Path(image).read_bytes()
        if isinstance(image, bytes):
            return resize_by_rule(decode_pixels(image), rule)
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read as an image ({error.strerror or error})") from None
    raise UserError(f"{name}: a path, bytes or a PIL image expected, got {type(image).__name__}")
