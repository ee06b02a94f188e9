"""train / valid / test with no leak: what belongs together goes together, by the hash of its name."""

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tuwen.errors import UserError
from tuwen.pairs import IMAGES, PairSet
from tuwen.params import Split

if TYPE_CHECKING:
    import pandas as pd

Integers = np.ndarray[Any, np.dtype[np.integer[Any]]]

NEAR_COLOUR = 8  # levels of 255 by which the mean colours of one picture's copies differ at most
MIN_CAPTION_CHARS = 8  # shorter captions are equal by chance
MAX_CAPTION_PICTURES = 20  # a caption on more pictures is boilerplate


def split_groups(pictures: "pd.DataFrame", captions: "pd.DataFrame") -> list[str]:
    """The split group of every picture: the connected component of pictures that must not be parted.

    pictures: image_id, positive_id, group, sha256, dhash, red, green, blue. captions: image_id and normalised,
    one row per pair. The source's `group`, its `positive_id` and equal bytes always join. Near-equal pictures
    and equal captions join only where the source leaves a group unknown: they are our guess at its knowledge.
    A component is named by its smallest source group, else by its smallest image_id, so the order of the rows
    does not matter.
    """
    keys = [pictures["group"], pictures["positive_id"], pictures["sha256"]]
    edges = [_edges(key) for key in keys]
    if pictures["group"].isna().any():
        rows = dict(zip(pictures["image_id"], range(len(pictures)), strict=True))
        shared = _shared_captions(captions)
        edges += [
            _edges(near_clusters(pictures)),
            (shared["image_id"].map(rows).to_numpy(), _codes(shared["normalised"])),
        ]
    component = _join(len(pictures), edges)
    by_image = pictures["image_id"].groupby(component).min()
    by_source = pictures["group"].dropna().groupby(component[pictures["group"].notna().to_numpy()]).min()
    names = by_source.reindex(by_image.index).fillna(by_image)
    return [str(name) for name in names.loc[component.tolist()]]


def near_clusters(pictures: "pd.DataFrame") -> "pd.Series[int]":
    """A number per picture, shared by pictures of equal dhash whose mean colours are a chain of near steps."""
    import pandas as pd
    from scipy.spatial import cKDTree

    codes = _codes(pictures["dhash"]).astype(float) * 1000  # farther apart than any two colours
    points = np.column_stack([codes, pictures[["red", "green", "blue"]].to_numpy(float)])
    unique, place = np.unique(points, axis=0, return_inverse=True)
    near = cKDTree(unique).query_pairs(NEAR_COLOUR, p=np.inf, output_type="ndarray")
    return pd.Series(_components(len(unique), near[:, 0], near[:, 1])[place], pictures.index)


def assign(groups: Iterable[str], params: Split) -> dict[str, str]:
    """group -> "train" | "valid" | "test": the groups in the order of sha256("seed:group") are dealt out.

    Raises UserError where a split that was asked for gets no group.
    """
    ordered = sorted(set(groups), key=lambda group: hashlib.sha256(f"{params.seed}:{group}".encode()).hexdigest())
    test, valid = int(len(ordered) * params.test), int(len(ordered) * params.valid)
    for name, share, count in (("test", params.test, test), ("valid", params.valid, valid)):
        if share > 0 and count == 0:
            raise UserError(
                f"params.yaml: split.{name}: {share} of {len(ordered)} groups is none; raise it or add pictures"
            )
    if test + valid >= len(ordered):
        raise UserError(
            f"params.yaml: split: {len(ordered)} groups leave none for train; lower split.valid or split.test"
        )
    names = ["test"] * test + ["valid"] * valid + ["train"] * (len(ordered) - test - valid)
    return dict(zip(ordered, names, strict=True))


def subset(pair_set: PairSet, image_ids: list[str]) -> PairSet:
    """The pictures `image_ids` with their pairs, and the texts of those; every table keeps its order."""
    chosen = pair_set.pairs.filter(_in(pair_set.pairs["image_id"], image_ids))
    return PairSet(
        pair_set.images.filter(_in(pair_set.images["image_id"], image_ids)),
        pair_set.texts.filter(_in(pair_set.texts["text_id"], chosen["text_id"].to_pylist())),
        chosen,
    )


def merge_captions(pair_set: PairSet, normalised: dict[str, str]) -> PairSet:
    """Texts of equal normalised caption become the first of them; the pairs then are many-to-many, each once.

    normalised: text_id -> normalised caption.
    """
    first: dict[str, str] = {}
    for text_id in pair_set.texts["text_id"].to_pylist():
        first.setdefault(normalised[text_id], text_id)
    rows = pair_set.pairs.to_pandas()
    rows["text_id"] = [first[normalised[text_id]] for text_id in rows["text_id"]]
    rows = rows.drop_duplicates(["image_id", "text_id"])
    return PairSet(
        pair_set.images,
        pair_set.texts.filter(_in(pair_set.texts["text_id"], list(first.values()))),
        pa.Table.from_pandas(rows, pair_set.pairs.schema, preserve_index=False),
    )


def with_groups(images: pa.Table, groups: list[str]) -> pa.Table:
    """The images table with its `group` column replaced."""
    return images.set_column(IMAGES.get_field_index("group"), IMAGES.field("group"), pa.array(groups, pa.string()))


def _shared_captions(captions: "pd.DataFrame") -> "pd.DataFrame":
    rows = captions[captions["normalised"].str.len() >= MIN_CAPTION_CHARS]
    pictures = rows.groupby("normalised")["image_id"].transform("nunique")
    return rows[pictures <= MAX_CAPTION_PICTURES]


def _edges(key: "pd.Series[Any]") -> tuple[Integers, Integers]:
    """(row, number of its key) of every row that has one."""
    known = key.notna().to_numpy()
    return np.flatnonzero(known), _codes(key[known])


def _codes(key: "pd.Series[Any]") -> Integers:
    return key.factorize()[0]


def _join(nodes: int, edges: list[tuple[Integers, Integers]]) -> Integers:
    """The component number of each of `nodes` [N]; every key of every kind is a node of its own beside the N."""
    size, keys = nodes, []
    for _, codes in edges:
        keys.append(codes + size)
        size += int(codes.max(initial=-1)) + 1
    return _components(size, np.concatenate([rows for rows, _ in edges]), np.concatenate(keys))[:nodes]


def _components(size: int, ends: Integers, other_ends: Integers) -> Integers:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(ends), bool), (ends, other_ends)), shape=(size, size))
    labels: Integers = connected_components(graph, directed=False)[1]
    return labels


def _in(column: Any, values: list[str]) -> Any:
    return pc.is_in(column, value_set=pa.array(values, pa.string()))
