"""What shows only between rows: repeated pairs, captions that contradict each other, sets that differ."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tuwen.core.params import Validate
from tuwen.data.formats.sides import list_sides
from tuwen.data.formats.text import CHINESE
from tuwen.data.quality import quarantine, suites
from tuwen.data.quality.duplicates import counterparts
from tuwen.data.quality.duplicates.components import Booleans, Integers
from tuwen.data.quality.split import SPLITS

if TYPE_CHECKING:
    import pandas as pd

EQUAL = ["image_key", "caption_key", "fits"]  # what a pair shares with one that it repeats
MIN_CHINESE = 8  # characters: shorter captions of one image often share none
CODE_POINTS = 0x110000
NEIGHBOURS = 8  # captions of one image that each is compared with: all up to nine, and never m² of them
MIN_ROWS_FOR_DRIFT = 100  # fewer say nothing about a distribution
MEASURES = {"chars": "texts", "latin_share": "texts", "aspect": "images"}


def find_inconsistencies(sets: Sequence[quarantine.ExaminedSet], params: Validate) -> None:
    """Examine the clean pairs of `sets` together: a pair that an earlier set holds too leaves the later one.

    In the labelled set the pair of the latest split stays, so that a benchmark keeps its rows.

    Contradictions, and captions on many images, are reported for each set by itself.
    """
    import pandas as pd

    if not sets:
        return
    described = _describe_pairs(sets)
    together = pd.concat(described, ignore_index=True)
    order = np.argsort(together["rank"].to_numpy(), kind="stable")
    repeated = np.zeros(len(together), bool)
    repeated[order] = find_duplicates(together.iloc[order])
    if repeated.any():
        _name_originals(sets, described, order)
    ends = np.cumsum([len(links) for links in described])
    for one, links, flags in zip(sets, described, np.split(repeated, ends[:-1]), strict=True):
        one.links.frame["duplicate"] = False
        one.links.frame.loc[links.index[flags], "duplicate"] = True
        if one.links.examine(suites.build_duplicate_suite()):
            quarantine.remove_torn_pairs(one)
        kept = links[~flags]
        for name, contradict in find_contradictions(kept).items():
            one.links.frame[name] = False
            one.links.frame.loc[kept.index[contradict], name] = True
        one.links.examine(suites.build_contradiction_suite())
        one.texts.frame["pictures"] = _count_images_per_caption(one, kept)
        one.texts.examine(suites.build_spread_suite(params))


def _name_originals(
    sets: Sequence[quarantine.ExaminedSet], described: "Sequence[pd.DataFrame]", order: Integers
) -> None:
    """Name for every pair that repeats another the first one; order: of all pairs, in which the first stays."""
    import pandas as pd

    owner = np.repeat(np.arange(len(sets)), [len(links) for links in described])
    label = np.concatenate([links.index.to_numpy() for links in described])
    keys = pd.concat([links[EQUAL] for links in described], ignore_index=True).iloc[order]
    original = np.empty(len(order), np.int64)
    original[order] = order[counterparts.find_originals(keys)]
    repeats = np.flatnonzero(original != np.arange(len(order)))
    for number, one in enumerate(sets):
        of_one = repeats[owner[original[repeats]] == number]
        for row, words in zip(of_one, one.links.describe_rows(label[original[of_one]].tolist()), strict=True):
            sets[owner[row]].links.counterparts[label[row]] = words


def _describe_pairs(sets: Sequence[quarantine.ExaminedSet]) -> "list[pd.DataFrame]":
    """Return the clean pairs of each set; in all of them equal keys mean equal bytes, or equal captions."""
    import pandas as pd

    frames = [one.frames for one in sets]
    image_keys = pd.concat([one["images"]["measured_sha256"] for one in frames], ignore_index=True).factorize()[0]
    caption_keys = pd.concat([one["texts"]["normalised"] for one in frames], ignore_index=True).factorize()[0]
    described, first_image, first_text = [], 0, 0
    for one in sets:
        stays = one.links.stays.to_numpy(bool)
        image_rows, text_rows = one.image_rows[stays], one.text_rows[stays]
        links = one.links.clean
        columns = {
            "image_key": image_keys[first_image + image_rows],
            "caption_key": caption_keys[first_text + text_rows],
            "fits": links["label"].ne(0).fillna(True).to_numpy(bool),
            "caption": one.texts.frame["caption"].take(text_rows).to_numpy(),
            "rank": _rank_images(one)[image_rows],
        }
        described.append(pd.DataFrame(columns, index=links.index))
        first_image, first_text = first_image + len(one.images.frame), first_text + len(one.texts.frame)
    return described


def _rank_images(examined: quarantine.ExaminedSet) -> Integers:
    """Return for every image the rank of its pairs among equal ones; the pair of the lowest rank stays."""
    if examined.images.set != "labelled":
        return np.zeros(len(examined.images.frame), int)
    rank = examined.images.frame["split"].map({name: number for number, name in enumerate(reversed(SPLITS))})
    return rank.fillna(len(SPLITS)).to_numpy(int)


def _count_images_per_caption(examined: quarantine.ExaminedSet, links: "pd.DataFrame") -> Integers:
    """Return for every text of the set the number of images under captions of equal normalised form."""
    fits = links[links["fits"]]
    caption_keys = np.full(len(examined.texts.frame), -1)
    caption_keys[examined.text_rows[links.index]] = links["caption_key"]
    caption_and_image = fits["caption_key"].to_numpy() << 32 | examined.image_rows[fits.index]
    counts = np.bincount(np.unique(caption_and_image) >> 32, minlength=int(caption_keys.max(initial=-1)) + 2)
    images: Integers = counts[caption_keys]  # the last count, for texts without a pair, is 0
    return images


def find_duplicates(links: "pd.DataFrame") -> Booleans:
    """Return whether each pair repeats an earlier one: equal bytes, equal caption, and both fit or do not.

    links: image_key, caption_key (numbers), fits (bool), one row per pair.
    """
    return links.duplicated(EQUAL).to_numpy(bool)


def find_contradictions(links: "pd.DataFrame") -> dict[str, Booleans]:
    """Return the pairs of one image, by its bytes, that cannot all be right: name -> one flag per row of `links`.

    opposite_sides: one caption names left alone as a place, another right alone. opposite_labels: one caption both
    fits and does not. nothing_in_common: two captions of at least MIN_CHINESE Chinese characters have not one in
    common.
    links: image_key, caption_key (numbers), fits (bool), caption, one row per pair.
    """
    image, fits = links["image_key"].to_numpy(np.int64), links["fits"].to_numpy(bool)
    named = [list_sides(str(caption)) for caption in links["caption"]]
    left, right = (np.array([side in one for one in named], bool) & fits for side in ("left", "right"))
    image_and_caption = image << 32 | links["caption_key"].to_numpy(np.int64)
    pair_key = np.unique(image_and_caption, return_inverse=True)[1]
    return {
        "opposite_sides": _flag_keys_with_both(image, left & ~right, right & ~left),
        "opposite_labels": _flag_keys_with_both(pair_key, fits, ~fits),
        "nothing_in_common": _flag_nothing_in_common(image, links["caption"].to_numpy(object), fits),
    }


def _flag_keys_with_both(key: Integers, one: Booleans, other: Booleans) -> Booleans:
    """Return the rows with either flag whose key has rows of both."""
    sizes = [np.bincount(key[flag], minlength=int(key.max(initial=-1)) + 1) for flag in (one, other)]
    return (one | other) & ((sizes[0] > 0) & (sizes[1] > 0))[key]


def _flag_nothing_in_common(image: Integers, captions: npt.NDArray[np.object_], fits: Booleans) -> Booleans:
    """Return the rows [N] whose fitting caption shares no Chinese character with a neighbour of the same image."""
    from scipy.sparse import csr_matrix

    flags = np.zeros(len(image), bool)
    several = fits & (np.bincount(image[fits], minlength=int(image.max(initial=-1)) + 1)[image] > 1)
    if not several.any():
        return flags
    rows, points, starts = _extract_chinese(np.flatnonzero(several), image, captions)
    if len(rows) < 2:
        return flags
    common = _mark_common_characters(points, starts)
    holds = csr_matrix((np.ones(len(points), np.int8), points.astype(np.int64), starts), (len(rows), CODE_POINTS))
    for step in range(1, min(NEIGHBOURS, len(rows) - 1) + 1):
        one = np.flatnonzero((image[rows[:-step]] == image[rows[step:]]) & (common[:-step] & common[step:] == 0))
        shared = holds[one].multiply(holds[one + step]).getnnz(axis=1)
        apart = one[shared == 0]
        flags[rows[apart]] = flags[rows[apart + step]] = True
    return flags


def _extract_chinese(
    rows: Integers, image: Integers, captions: npt.NDArray[np.object_]
) -> tuple[Integers, Integers, Integers]:
    """Return (the R rows with MIN_CHINESE characters, by image; their Chinese code points; starts [R + 1])."""
    rows = rows[np.argsort(image[rows], kind="stable")]
    texts = captions[rows].tolist()
    points = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    chinese = _make_chinese_table()[points]
    points, owner = points[chinese], owner[chinese]
    counts = np.bincount(owner, minlength=len(texts))
    long = counts >= MIN_CHINESE
    return rows[long], points[long[owner]], np.concatenate([[0], np.cumsum(counts[long])])


def _mark_common_characters(points: Integers, starts: Integers) -> Integers:
    """Return which of the 64 commonest characters each text holds [R], as bits."""
    bits = np.zeros(CODE_POINTS, np.uint64)
    commonest = np.bincount(points, minlength=CODE_POINTS).argsort()[-64:]
    bits[commonest] = np.uint64(1) << np.arange(64, dtype=np.uint64)
    return np.bitwise_or.reduceat(bits[points], starts[:-1])


def _make_chinese_table() -> Booleans:
    """Return code point -> whether it is Chinese [CODE_POINTS]."""
    table = np.zeros(CODE_POINTS, bool)
    table[[ord(c) for c in CHINESE.findall("".join(map(chr, range(0x3000, 0x32400))))]] = True
    return table


def measure_drift(labelled: Mapping[str, "pd.DataFrame"], task: Mapping[str, "pd.DataFrame"]) -> "pd.DataFrame":
    """Return the Kolmogorov-Smirnov distance of a task set from the labelled one: measure, distance in [0, 1].

    Both: images, texts -> measured frame. A measure of which either set has too few values is left out.
    """
    import pandas as pd
    from scipy.stats import ks_2samp

    rows = []
    for measure, table in MEASURES.items():
        ours, theirs = (frames[table][measure].dropna().to_numpy(float) for frames in (labelled, task))
        if min(len(ours), len(theirs)) >= MIN_ROWS_FOR_DRIFT:
            rows.append((measure, float(ks_2samp(ours, theirs, method="asymp").statistic)))
    return pd.DataFrame(rows, columns=["measure", "distance"])
