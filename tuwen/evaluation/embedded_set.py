"""One set as `evaluate` measures it: unit vectors of its images and texts, and which of them belong together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from tuwen.core.errors import UserError
from tuwen.data.formats import manifest, pairs
from tuwen.data.formats.directions import Direction
from tuwen.retrieval.metrics import check_ks
from tuwen.retrieval.vectors import Flags, Floats, RetrievalTask, Rows, Vectors, read_set_vectors

Groups = npt.NDArray[Any]

PAIRS_AT_ONCE = 1 << 14  # multiplied in float64


class EmbeddedSet(NamedTuple):
    """I images and T texts as unit vectors, P true pairs."""

    images: Vectors  # [I, D]
    texts: Vectors  # [T, D]
    image: Rows  # [P] image row image[p] and text row text[p] are a true pair
    text: Rows  # [P]
    image_groups: Groups  # [I] what the bootstrap draws
    unfit: tuple[Rows, Rows]  # image and text rows of pairs known not to fit: a matching set's label 0
    ids: Mapping[str, Sequence[str]]  # images and texts -> ids of the rows
    seen_texts: Flags | None = None  # [T] whether the caption stands in train; None: unknown
    match: Floats | None = None  # [P + N] a re-ranker's probability of the P true pairs, then of the N unfit ones

    def make_task(self, direction: Direction) -> RetrievalTask:
        """Return the set as queries and gallery."""
        return make_task(direction, self.images, self.texts, self.image, self.text)

    def list_groups(self, direction: Direction) -> Groups:
        """Return the group of each query, [Q]; a text has that of its first image."""
        if direction.queries == "images":
            return self.image_groups
        groups = np.empty(len(self.texts), self.image_groups.dtype)
        groups[self.text[::-1]] = self.image_groups[self.image[::-1]]  # backwards: a text's first image stays
        return groups

    def list_seen(self, direction: Direction, query: Rows) -> Flags | None:
        """Return whether each of these queries has a true caption that stands in train; None where none has."""
        if self.seen_texts is None:
            return None
        of_image = np.zeros(len(self.images), bool)
        of_image[self.image[self.seen_texts[self.text]]] = True
        seen = (of_image if direction.queries == "images" else self.seen_texts)[query]
        return seen if seen.any() else None


def read_embedded_set(embedded: Path, folder: Path, model: Path | None, ks: Sequence[int] = ()) -> EmbeddedSet:
    """Read the set in `folder` with its vectors in `embedded`.

    model: folder of the model that the embeddings must have been made by; ks: those that it will be measured at.
    Raises UserError for missing or unsound embeddings, those of another model or set, a set without pairs, and a k
    over a gallery.
    """
    if model is not None:
        manifest.require_inputs(embedded, {"model": model, "set": folder})
    tables = pairs.read_pair_set(folder)
    images, texts = read_set_vectors(embedded, folder, tables)
    image, text = pairs.find_true_rows(tables)
    if not len(image):
        raise UserError(
            f"{folder / 'pairs.parquet'}: no pair, so there is no truth to measure by; "
            "take more data or a larger share of it (params.yaml: source, split)"
        )
    if ks:
        for name, gallery in (("images", images), ("texts", texts)):
            check_ks(ks, len(gallery), f"params.yaml: evaluate.ks, {folder / name}.parquet")
    groups = pc.coalesce(tables.images["group"], tables.images["image_id"]).to_numpy(zero_copy_only=False)
    ids = {"images": tables.images["image_id"].to_pylist(), "texts": tables.texts["text_id"].to_pylist()}
    return EmbeddedSet(images, texts, image, text, groups, pairs.find_unfit_rows(tables), ids)


def make_task(direction: Direction, images: Vectors, texts: Vectors, image: Rows, text: Rows) -> RetrievalTask:
    """Return images [I, D] and texts [T, D] as queries and gallery; image and text [P]: rows of the true pairs."""
    sides = {"images": (images, image), "texts": (texts, text)}
    (queries, query), (gallery, item) = sides[direction.queries], sides[direction.gallery]
    return RetrievalTask(queries, gallery, query, item)


def score_pairs(images: Vectors, texts: Vectors, image: Rows, text: Rows) -> Floats:
    """Return the float64 cosine [P] of image image[p] and text text[p]; images [I, D], texts [T, D]: unit."""
    cosine = np.empty(len(image))
    for start in range(0, len(image), PAIRS_AT_ONCE):
        p = slice(start, start + PAIRS_AT_ONCE)
        cosine[p] = (images[image[p]].astype(np.float64) * texts[text[p]]).sum(axis=1)
    return cosine
