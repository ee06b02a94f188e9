"""train / valid / test with no leak: what belongs together goes together, by the hash of its name."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from tuwen.core.errors import UserError
from tuwen.core.params import Split
from tuwen.data.formats.pairs import PairSet

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "valid", "test")  # the later one wins a group that the source put into several


def deal_images(images: "pd.DataFrame", params: Split) -> "tuple[pd.Series[str], pd.Series[Any]]":
    """Return (the split of every image, the later split that its group reaches, None where it reaches none).

    images: split_group, and split, which is the source's own. Where params.official is set and the source names
    any split, its splits are kept: a group goes where its last image goes, an image without a split counts as
    train's, and a split that the source does not name is dealt out of train's groups. Else all groups are dealt
    out.
    Raises UserError where a split that the params give a share gets no group.
    """
    import pandas as pd

    groups, official = images["split_group"], images["split"]
    if not params.official or official.isna().all():
        return groups.map(assign_groups(groups, params)), pd.Series(None, images.index, dtype=object)
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
        dealt = dealt.where(dealt != "train", left.map(assign_groups(left, params, unnamed)))
    return dealt, reaches


def assign_groups(
    groups: Iterable[str], params: Split, names: Iterable[str] = ("test", "valid")
) -> dict[str, str]:
    """Return group -> one of `names`, else "train"; the groups are dealt out in the order of sha256("seed:group").

    Raises UserError where a split that the params give a share gets no group.
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


def count_prevented_leaks(images: "pd.DataFrame", params: Split) -> int:
    """Count the images that have no copy in another split, and would, if each were dealt out alone by its hash.

    images: image_id, copies (see `groups.number_copies`) and dealt, the split of each.
    """
    shares = {"test": params.test, "valid": params.valid}
    alone = images["image_id"].map(_deal_out(images["image_id"], params.seed, shares))
    would_leak = find_copies_across_splits(alone, images["copies"])
    return int((would_leak & ~find_copies_across_splits(images["dealt"], images["copies"])).sum())


def find_copies_across_splits(dealt: "pd.Series[str]", copies: "pd.Series[int]") -> "pd.Series[bool]":
    """Return whether each image has a copy in another split; dealt: the split of each, copies: as above."""
    return dealt.groupby(copies).transform("nunique") > 1


def select_images(pair_set: PairSet, image_ids: list[str]) -> PairSet:
    """Return the images `image_ids` with their pairs, and the texts of those; every table keeps its order."""
    chosen = pair_set.pairs.filter(_is_in(pair_set.pairs["image_id"], image_ids))
    return PairSet(
        pair_set.images.filter(_is_in(pair_set.images["image_id"], image_ids)),
        pair_set.texts.filter(_is_in(pair_set.texts["text_id"], chosen["text_id"].to_pylist())),
        chosen,
    )


def merge_captions(pair_set: PairSet, normalised: Mapping[str, str]) -> PairSet:
    """Return the set with one text for all captions of the same letters; pairs get many-to-many, each once.

    The first text stays as it is. Captions of equal normalised form whose letters differ (Ｑ and q) stay texts of
    their own, and each is true for the images of all: of such pairs, those that no row of the source holds come
    last, and their pair_id ends in `~` and the text. normalised: text_id -> normalised caption. Where a caption
    both fits an image and does not, it fits.
    """
    import pandas as pd

    first = find_first_texts(pair_set.texts)
    rows = pair_set.pairs.to_pandas(integer_object_nulls=True)
    rows["text_id"] = rows["text_id"].map(first)
    rows["denied"] = pc.fill_null(pc.equal(pair_set.pairs["label"], 0), False).to_numpy()
    together = pd.concat([rows, _link_variants(rows, normalised)], ignore_index=True)
    kept = together.sort_values("denied", kind="stable").drop_duplicates(["image_id", "text_id"]).sort_index()
    texts = pair_set.texts.filter(_is_in(pair_set.texts["text_id"], list(first.values())))
    merged = pa.Table.from_pandas(kept.drop(columns="denied"), pair_set.pairs.schema, preserve_index=False)
    return PairSet(pair_set.images, texts, merged.replace_schema_metadata(None))


def find_first_texts(texts: pa.Table) -> dict[str, str]:
    """Return text_id -> the first text whose caption has the same letters; blanks do not count."""
    by_letters: dict[str, str] = {}
    return {
        text_id: by_letters.setdefault(" ".join((caption or "").split()), text_id)
        for text_id, caption in zip(texts["text_id"].to_pylist(), texts["caption"].to_pylist(), strict=True)
    }


def _link_variants(rows: "pd.DataFrame", normalised: Mapping[str, str]) -> "pd.DataFrame":
    """Return the pairs that are true because another caption of equal normalised form is the image's."""
    true = rows[~rows["denied"]].assign(form=lambda frame: frame["text_id"].map(normalised))
    variants = true[["form", "text_id"]].drop_duplicates()
    variants = variants[variants.duplicated("form", keep=False)]
    linked = true.merge(variants.rename(columns={"text_id": "other"}), on="form")
    linked = linked[linked["text_id"] != linked["other"]]
    names = linked["pair_id"] + "~" + linked["other"]
    return linked.assign(pair_id=names, text_id=linked["other"])[rows.columns]


def _is_in(column: Any, values: list[str]) -> Any:
    return pc.is_in(column, value_set=pa.array(values, pa.string()))
