"""What marking one result does to the others: searches by texts and pictures of valid and test, simulated.

    .venv/bin/python benchmarks/feedback.py [CHECKOUT]     # some minutes

Run it over a checkout of the sample whose `make run` has ended. A gallery is the index, and for valid its pictures
in place of test's. Pictures of one emoji (its group: OpenMoji's, Noto's and Twemoji's) are what is sought. A
person looks at the first 20: `more` marks the first that is sought, `less` the first one or three where the first
of all is wrong, `other kind` the first one or three of another category. What was marked is taken out before and
after, so that nothing is won by the marked pictures themselves: hit@k is that of the best sought one that is left,
and the share of the category that of the first 20 that are left.
"""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from tuwen.data.formats import pairs
from tuwen.retrieval.vectors import Flags, Rows, Vectors
from tuwen.service import feedback
from tuwen.service.index.item_index import ItemIndex

SEEN = 20  # results that a person looks at
MORE, LESS = (0, 0.25, 0.5, 0.75, 1, 1.5), (0, 0.03, 0.05, 0.1, 0.15, 0.3)
KS = (1, 5, 20)


class Gallery(NamedTuple):
    """Pictures [G], and the queries: vector, group, and the row of one that is a picture of the gallery."""

    vectors: Vectors
    group: Any  # [G]
    category: Any  # [G]
    queries: dict[str, list[tuple[Vectors, str, Rows]]]


def read_gallery(root: Path, name: str) -> Gallery:
    """Return the gallery of a split: valid or test."""
    index, clean = ItemIndex(root / "index"), root / "data/clean"
    sets = {one: pairs.read_pair_set(clean / one) for one in ("valid", "test", "bank", "corpus")}
    own, embedded = sets[name], root / "embeddings/finetuned" / name
    others = [row for row, split in enumerate(index.tables["images"]["split"].to_pylist()) if split != "test"]
    vectors = np.concatenate(
        [np.load(embedded / "images.npy"), index.read_vectors("images", np.array(others))], dtype=np.float32
    )
    rows = {row["image_id"]: row for one in sets.values() for row in one.images.to_pylist()}
    ids = own.images["image_id"].to_pylist()
    ids += index.tables["images"]["id"].take(others).to_pylist()
    group, category = (np.array([str(rows[one][column]) for one in ids]) for column in ("group", "category"))
    image, text = pairs.find_true_rows(own)
    first = dict(zip(text[::-1].tolist(), image[::-1].tolist(), strict=True))
    texts = np.load(embedded / "texts.npy")
    none = np.empty(0, np.int64)
    return Gallery(
        vectors,
        group,
        category,
        {
            "text": [(texts[row], group[one], none) for row, one in sorted(first.items())],
            "picture": [(vectors[row], group[row], np.array([row])) for row in range(len(own.images))],
        },
    )


def mark(kind: str, shown: Rows, is_sought: Flags, is_category: Flags) -> tuple[Rows, Rows] | None:
    """Return what a person marks among the rows shown, more and less; None where there is nothing to mark."""
    if kind == "more":
        found = shown[is_sought[shown]][:1]
        return (found, found[:0]) if len(found) else None
    count = int(kind[-1])
    good = is_sought if kind.startswith("less") else is_category
    wrong = shown[~good[shown]][:count]
    if len(wrong) < count or (kind.startswith("less") and good[shown[0]]):
        return None
    return wrong[:0], wrong


def simulate(gallery: Gallery, asked: str, kind: str, mean: Vectors) -> Iterator[list[float]]:
    """Yield hit@k, or the share of the category, after each query's marks; mean: is taken off marked vectors."""
    for query, group, own in gallery.queries[asked]:
        is_sought = gallery.group == group
        is_category = gallery.category == gallery.category[np.flatnonzero(is_sought)[0]]
        marked = mark(kind, rank(gallery.vectors @ query, own)[:SEEN], is_sought, is_category)
        if marked is None:
            continue
        more, less = (gallery.vectors[rows] - mean for rows in marked)
        gone = np.concatenate([own, *marked])
        order = rank(gallery.vectors @ feedback.move_query(query, more, less), gone)
        if kind.startswith("other"):
            yield [float(is_category[order[:SEEN]].mean())]
        elif is_sought[order].any():
            place = int(is_sought[order].argmax())
            yield [float(place < k) for k in KS]


def rank(scores: Vectors, gone: Rows) -> Rows:
    """Return the rows by their scores, best first, without those that are gone."""
    order = np.argsort(-scores, kind="stable")
    return order[~np.isin(order, gone)]


def print_rows(gallery: Gallery, asked: str, kind: str, weights: Iterable[float], name: str) -> None:
    """Print a row for each weight, with pictures as they are and, for more, with their mean taken off."""
    mean = gallery.vectors.mean(axis=0)
    for weight in weights:
        for centring, shift in (("", 0 * mean), (", centred", mean)):
            with mock.patch.object(feedback, name, weight):
                values = np.array(list(simulate(gallery, asked, kind, shift)))
            shown = " ".join(f"{100 * value:5.1f}" for value in values.mean(axis=0))
            print(f"{asked:8} {kind:12} {weight:4}{centring:10} {len(values):4} queries  {shown}")


def main() -> None:
    """Print hit@1, hit@5 and hit@20 in percent, or the category's share of the first 20."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
    for split in ("valid", "test"):
        gallery = read_gallery(root, split)
        print(f"\n{split}: {len(gallery.vectors)} pictures")
        for asked in gallery.queries:
            print_rows(gallery, asked, "more", MORE, "MORE_WEIGHT")
            for kind in ("less 1", "less 3", "other kind 1", "other kind 3"):
                print_rows(gallery, asked, kind, LESS, "LESS_WEIGHT")


if __name__ == "__main__":
    main()
