"""train / valid / test with no leak: what belongs together goes together, by the hash of its name."""

import hashlib
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tuwen.core.errors import UserError
from tuwen.core.params import Split
from tuwen.data.formats.pairs import IMAGES, PairSet
from tuwen.data.quality.near_duplicates import (
    KEPT_EDGES,
    Edges,
    Integers,
    components,
    look_at,
    near_clusters,
    near_pairs,
)

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "valid", "test")  # the later one wins a group that the source put into several
Flags = npt.NDArray[np.bool_]
MIN_CAPTION_CHARS = 8  # shorter captions are equal by chance
MAX_CAPTION_PICTURES = 20  # a caption on more pictures is boilerplate


def split_groups(pictures: "pd.DataFrame", captions: "pd.DataFrame") -> list[str]:
    """The split group of every picture: the connected component of pictures that must not be parted.

    pictures: image_id, positive_id, group, sha256, dhash, red, green, blue, blank. captions: image_id, text_id and
    normalised, one row per true pair. The source's `group`, its `positive_id` and equal bytes always join. Near
    pictures, one text and equal captions join two pictures only where the source leaves the group of at least one
    unknown: they are our guess at its knowledge. A component is named by its smallest source group, else by its
    smallest image_id, so the order of the rows does not matter.
    """
    keys = [pictures["group"], pictures["positive_id"], pictures["sha256"]]
    edges = [_edges(key) for key in keys]
    unknown = pictures["group"].isna().to_numpy(bool)
    if unknown.any():
        long = captions[captions["normalised"].str.len() >= MIN_CAPTION_CHARS]
        edges += [
            _near_edges(pictures, unknown),
            _shared(pictures["image_id"], unknown, captions["image_id"], captions["text_id"]),
            _shared(pictures["image_id"], unknown, long["image_id"], long["normalised"]),
        ]
    component = _join(len(pictures), edges)
    by_image = pictures["image_id"].groupby(component).min()
    by_source = pictures["group"].dropna().groupby(component[pictures["group"].notna().to_numpy()]).min()
    names = by_source.reindex(by_image.index).fillna(by_image)
    return [str(name) for name in names.loc[component.tolist()]]


def copies(pictures: "pd.DataFrame") -> "pd.Series[int]":
    """A number per picture, shared by those of equal bytes or joined by a chain of near ones; columns as above."""
    import pandas as pd

    edges = [_edges(pictures["sha256"]), _edges(near_clusters(pictures))]
    return pd.Series(_join(len(pictures), edges), pictures.index)


def deal(pictures: "pd.DataFrame", params: Split) -> "tuple[pd.Series[str], pd.Series[Any]]":
    """(the split of every picture, the split that its group reaches where the source put it into an earlier one).

    pictures: split_group, and split, which is the source's own. Where params.official is set and the source names
    any split, its splits are kept: a group goes where its last picture goes, one without a name is train's, and a
    split that the source does not name is dealt out of train's groups. Else all groups are dealt out.
    Raises UserError where a split that was asked for gets no group.
    """
    import pandas as pd

    groups, official = pictures["split_group"], pictures["split"]
    nowhere = pd.Series(None, pictures.index, dtype=object)
    if not params.official or official.isna().all():
        return groups.map(assign(groups, params)), nowhere
    rank = official.map({name: number for number, name in enumerate(SPLITS)}).fillna(0).astype(int)
    highest = rank.groupby(groups).transform("max")
    dealt = highest.map(dict(enumerate(SPLITS)))
    reaches = dealt.astype(object).where(rank < highest, None)
    unnamed = {"test", "valid"} - set(official.dropna())
    left = groups[dealt == "train"]
    if left.empty and (rank > 0).all():
        raise UserError(
            "params.yaml: split.official: the source names no split but valid and test; set it to false"
        )
    if unnamed and not left.empty:
        dealt = dealt.where(dealt != "train", left.map(assign(left, params, unnamed)))
    return dealt, reaches


def assign(groups: Iterable[str], params: Split, names: Iterable[str] = ("test", "valid")) -> dict[str, str]:
    """group -> one of `names`, else "train": the groups in the order of sha256("seed:group") are dealt out.

    Raises UserError where a split that was asked for gets no group.
    """
    distinct = set(groups)
    shares = {name: getattr(params, name) for name in ("test", "valid") if name in names}
    dealt = _deal_out(distinct, params.seed, shares)
    counts = {name: list(dealt.values()).count(name) for name in (*shares, "train")}
    for name, share in shares.items():
        if counts[name] == 0:
            raise UserError(
                f"params.yaml: split.{name}: {share} of {len(distinct)} groups is none; raise it or add pictures"
            )
    if counts["train"] == 0:
        raise UserError(
            f"params.yaml: split: {len(distinct)} groups leave none for train; lower split.valid or split.test"
        )
    return dealt


def _deal_out(names: Iterable[str], seed: int, shares: Mapping[str, float]) -> dict[str, str]:
    ordered = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest())
    dealt = dict.fromkeys(ordered, "train")
    start = 0
    for split, share in shares.items():
        end = start + int(len(ordered) * share)
        dealt |= dict.fromkeys(ordered[start:end], split)
        start = end
    return dealt


def leaks_prevented(pictures: "pd.DataFrame", params: Split) -> int:
    """How many pictures have no copy in another split, and would, if each were dealt out alone by its hash.

    pictures: image_id, copies (see `copies`) and dealt, the split of each.
    """
    shares = {"test": params.test, "valid": params.valid}
    alone = pictures["image_id"].map(_deal_out(pictures["image_id"], params.seed, shares))
    return int((across(alone, pictures["copies"]) & ~across(pictures["dealt"], pictures["copies"])).sum())


def across(dealt: "pd.Series[str]", clusters: "pd.Series[int]") -> "pd.Series[bool]":
    """Whether each picture has a copy in another split."""
    return dealt.groupby(clusters).transform("nunique") > 1


def join_copies(images: pa.Table) -> pa.Table:
    """The images table where pictures of equal bytes, and their siblings, have one positive_id: the first one's.

    First by image_id; a picture without bytes has no copy.
    """
    frame = images.select(["image_id", "positive_id", "sha256"]).to_pandas()
    component = _join(len(frame), [_edges(frame["positive_id"]), _edges(frame["sha256"])])
    first = frame.assign(component=component).sort_values("image_id").groupby("component")["positive_id"].first()
    return _with_column(images, "positive_id", first.loc[component.tolist()].tolist())


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

    normalised: text_id -> normalised caption. Where a caption both fits a picture and does not, it fits.
    """
    first: dict[str, str] = {}
    for text_id in pair_set.texts["text_id"].to_pylist():
        first.setdefault(normalised[text_id], text_id)
    rows = pair_set.pairs.to_pandas()
    rows["text_id"] = [first[normalised[text_id]] for text_id in rows["text_id"]]
    denied = pc.fill_null(pc.equal(pair_set.pairs["label"], 0), False).to_numpy()
    kept = rows.iloc[np.argsort(denied, kind="stable")].drop_duplicates(["image_id", "text_id"]).index
    texts = pair_set.texts.filter(_in(pair_set.texts["text_id"], list(first.values())))
    place = pair_set.pairs.schema.get_field_index("text_id")
    field = pair_set.pairs.schema.field(place)
    merged = pair_set.pairs.set_column(place, field, pa.array(rows["text_id"].tolist(), field.type))
    return PairSet(pair_set.images, texts, merged.take(pa.array(np.sort(kept.to_numpy()))))


def with_groups(images: pa.Table, groups: list[str]) -> pa.Table:
    """The images table with its `group` column replaced."""
    return _with_column(images, "group", groups)


def _with_column(images: pa.Table, name: str, values: list[str]) -> pa.Table:
    return images.set_column(IMAGES.get_field_index(name), IMAGES.field(name), pa.array(values, pa.string()))


def _shared(
    image_ids: "pd.Series[str]", unknown: Flags, carriers: "pd.Series[str]", key: "pd.Series[str]"
) -> Edges:
    """Pictures whose captions have one key, where one of them has no group: that one is joined with each."""
    import pandas as pd

    rows = carriers.map(pd.Series(range(len(image_ids)), image_ids.to_numpy())).to_numpy(int)
    joins = carriers.groupby(key).transform("nunique") <= MAX_CAPTION_PICTURES
    joins &= pd.Series(unknown[rows], key.index).groupby(key).transform("any")
    return rows[joins.to_numpy(bool)], _codes(key[joins])


def _near_edges(pictures: "pd.DataFrame", unknown: Flags) -> Edges:
    """Chains of near pictures in which no two neighbours both have a group of the source."""
    alone, grouped = look_at(pictures[unknown]), look_at(pictures[~unknown])
    middle, size = len(alone.hashes), len(alone.hashes) + len(grouped.hashes)
    edges, kept = list[Edges](), 0
    beside = ((one, other + middle) for one, other in near_pairs(alone, grouped))
    for pair in chain(near_pairs(alone, alone), beside):
        edges.append(pair)
        kept += len(pair[0])
        if kept > KEPT_EDGES:  # what they join is known by one edge per node
            labels = components(size, edges)
            edges, kept = [(np.arange(size), np.unique(labels, return_index=True)[1][labels])], 0
    labels = components(size, edges)
    key = np.full(len(pictures), -1)
    for looks, members, first in ((alone, unknown, 0), (grouped, ~unknown, middle)):
        rows, seen = np.flatnonzero(members), looks.place >= 0
        key[rows[seen]] = labels[looks.place[seen] + first]
    # alone in its component, a look of grouped pictures is near to none without a group
    joined = (key >= 0) & (unknown | np.append(np.bincount(labels) > 1, False)[key])
    return np.flatnonzero(joined), key[joined]


def _edges(key: "pd.Series[Any]") -> Edges:
    """(row, number of its key) of every row that has one."""
    known = key.notna().to_numpy()
    return np.flatnonzero(known), _codes(key[known])


def _codes(key: "pd.Series[Any]") -> Integers:
    return key.factorize()[0]


def _join(nodes: int, edges: list[Edges]) -> Integers:
    """The component number of each of `nodes` [N]; every key of every kind is a node of its own beside the N."""
    size, keyed = nodes, list[Edges]()
    for rows, codes in edges:
        keyed.append((rows, codes + size))
        size += int(codes.max(initial=-1)) + 1
    return components(size, keyed)[:nodes]


def _in(column: Any, values: list[str]) -> Any:
    return pc.is_in(column, value_set=pa.array(values, pa.string()))
