"""What shows only between rows: pairs that stand twice, captions that contradict each other, sets that differ."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tuwen.core.params import Validate
from tuwen.data.formats.text import CHINESE
from tuwen.data.quality import quarantine, suites
from tuwen.data.quality.split import SPLITS

if TYPE_CHECKING:
    import pandas as pd

Flags = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.integer[Any]]

MIN_CHINESE = 8  # characters: shorter captions of one picture often share none
CODE_POINTS = 0x110000
NEIGHBOURS = 8  # captions of one picture that each is compared with: all up to nine, and never m² of them
MIN_ROWS_FOR_DRIFT = 100  # fewer say nothing about a distribution
MEASURES = {"chars": "texts", "latin_share": "texts", "aspect": "images"}


def find_inconsistencies(found: Sequence[quarantine.Judged], params: Validate) -> None:
    """Judge the clean pairs of the sets in `found` together: one that an earlier set holds too leaves the later.

    In the labelled set the pair of the latest split stays, so that a benchmark keeps its rows.

    Contradictions, and captions on many pictures, are reported for each set by itself.
    """
    import pandas as pd

    if not found:
        return
    described = _described(found)
    together = pd.concat(described, ignore_index=True)
    order = np.argsort(together["turn"].to_numpy(), kind="stable")
    repeated = np.zeros(len(together), bool)
    repeated[order] = duplicates(together.iloc[order])
    ends = np.cumsum([len(links) for links in described])
    for one, links, flags in zip(found, described, np.split(repeated, ends[:-1]), strict=True):
        one.links.frame["duplicate"] = False
        one.links.frame.loc[links.index[flags], "duplicate"] = True
        if one.links.judge(suites.duplicate_suite()):
            quarantine.settle(one)
        kept = links[~flags]
        for name, contradict in contradictions(kept).items():
            one.links.frame[name] = False
            one.links.frame.loc[kept.index[contradict], name] = True
        one.links.judge(suites.contradiction_suite())
        one.texts.frame["pictures"] = _spread(one, kept)
        one.texts.judge(suites.spread_suite(params))


def _described(found: Sequence[quarantine.Judged]) -> "list[pd.DataFrame]":
    """The clean pairs of each set with picture and wording, numbers that stand for the same in all of them."""
    import pandas as pd

    bytes_of = pd.concat([one.images.frame["measured_sha256"] for one in found], ignore_index=True).factorize()[0]
    form_of = pd.concat([one.texts.frame["normalised"] for one in found], ignore_index=True).factorize()[0]
    described, images, texts = [], 0, 0
    for one in found:
        stays = one.links.stays.to_numpy(bool)
        image_rows, text_rows = one.image_rows[stays], one.text_rows[stays]
        links = one.links.clean
        columns = {
            "picture": bytes_of[images + image_rows],
            "wording": form_of[texts + text_rows],
            "fits": links["label"].ne(0).fillna(True).to_numpy(bool),
            "caption": one.texts.frame["caption"].take(text_rows).to_numpy(),
            "turn": _turns(one)[image_rows],
        }
        described.append(pd.DataFrame(columns, index=links.index))
        images, texts = images + len(one.images.frame), texts + len(one.texts.frame)
    return described


def _turns(found: quarantine.Judged) -> Integers:
    """For every picture, where its pairs stand among equal ones, the first of which stays."""
    if found.images.set != "labelled":
        return np.zeros(len(found.images.frame), int)
    turn = found.images.frame["split"].map({name: number for number, name in enumerate(reversed(SPLITS))})
    return turn.fillna(len(SPLITS)).to_numpy(int)


def _spread(found: quarantine.Judged, links: "pd.DataFrame") -> Integers:
    """For every text of the set, the number of pictures under captions that are written as it is."""
    fits = links[links["fits"]]
    by_text = np.full(len(found.texts.frame), -1)
    by_text[found.text_rows[links.index]] = links["wording"]
    held = fits["wording"].to_numpy() << 32 | found.image_rows[fits.index]
    counts = np.bincount(np.unique(held) >> 32, minlength=int(by_text.max(initial=-1)) + 2)
    pictures: Integers = counts[by_text]  # the last count, for texts without a pair, is 0
    return pictures


def duplicates(links: "pd.DataFrame") -> Flags:
    """Whether each pair says what an earlier one does: equal bytes, equal normalised caption, the same verdict.

    links: picture, wording (numbers), fits (bool), one row per pair.
    """
    return links.duplicated(["picture", "wording", "fits"]).to_numpy(bool)


def contradictions(links: "pd.DataFrame") -> dict[str, Flags]:
    """Pairs of one picture, by its bytes, that cannot all be right; name -> one flag per row of `links`.

    opposite_sides: one caption says 左 alone and another 右 alone. opposite_labels: one caption both fits and does
    not. nothing_in_common: two captions of at least MIN_CHINESE Chinese characters have not one in common.
    links: picture, wording (numbers), fits (bool), caption, one row per pair.
    """
    picture, fits = links["picture"].to_numpy(np.int64), links["fits"].to_numpy(bool)
    captions = links["caption"].astype(str).str
    left, right = (captions.contains(word, regex=False).to_numpy(bool) & fits for word in "左右")
    said = np.unique(picture << 32 | links["wording"].to_numpy(np.int64), return_inverse=True)[1]
    return {
        "opposite_sides": _in_both(picture, left & ~right, right & ~left),
        "opposite_labels": _in_both(said, fits, ~fits),
        "nothing_in_common": _nothing_in_common(picture, links["caption"].to_numpy(object), fits),
    }


def _in_both(key: Integers, one: Flags, other: Flags) -> Flags:
    """The rows with either flag whose key has rows of both."""
    sizes = [np.bincount(key[flag], minlength=int(key.max(initial=-1)) + 1) for flag in (one, other)]
    return (one | other) & ((sizes[0] > 0) & (sizes[1] > 0))[key]


def _nothing_in_common(picture: Integers, captions: npt.NDArray[np.object_], fits: Flags) -> Flags:
    from scipy.sparse import csr_matrix

    found = np.zeros(len(picture), bool)
    several = np.flatnonzero(
        fits & (np.bincount(picture[fits], minlength=int(picture.max(initial=-1)) + 1)[picture] > 1)
    )
    if not len(several):
        return found
    rows = several[np.argsort(picture[several], kind="stable")]
    texts = captions[rows].tolist()
    points = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    chinese = _is_chinese()[points]
    points, owner = points[chinese], owner[chinese]
    counts = np.bincount(owner, minlength=len(texts))
    long = counts >= MIN_CHINESE
    points, counts, rows = points[long[owner]], counts[long], rows[long]
    if len(rows) < 2:
        return found
    starts = np.concatenate([[0], np.cumsum(counts)])
    common = _common_characters(points, starts)
    holds = csr_matrix((np.ones(len(points), np.int8), points.astype(np.int64), starts), (len(rows), CODE_POINTS))
    for step in range(1, min(NEIGHBOURS, len(rows) - 1) + 1):
        one = np.flatnonzero(
            (picture[rows[:-step]] == picture[rows[step:]]) & (common[:-step] & common[step:] == 0)
        )
        shared = holds[one].multiply(holds[one + step]).getnnz(axis=1)
        apart = one[shared == 0]
        found[rows[apart]] = found[rows[apart + step]] = True
    return found


def _common_characters(points: Integers, starts: Integers) -> Integers:
    """Which of the 64 commonest characters each text holds, as bits: texts that share one have one in common."""
    bits = np.zeros(CODE_POINTS, np.uint64)
    bits[np.bincount(points, minlength=CODE_POINTS).argsort()[-64:]] = np.uint64(1) << np.arange(
        64, dtype=np.uint64
    )
    return np.bitwise_or.reduceat(bits[points], starts[:-1])


def _is_chinese() -> Flags:
    """By code point."""
    table = np.zeros(CODE_POINTS, bool)
    table[[ord(c) for c in CHINESE.findall("".join(map(chr, range(0x3000, 0x32400))))]] = True
    return table


def drift(labelled: Mapping[str, "pd.DataFrame"], task: Mapping[str, "pd.DataFrame"]) -> "pd.DataFrame":
    """The Kolmogorov-Smirnov distance of a task set from the labelled one: columns measure, distance in [0, 1].

    Both: images, texts -> measured frame. A measure of which either side knows too few values is left out.
    """
    import pandas as pd
    from scipy.stats import ks_2samp

    rows = []
    for measure, table in MEASURES.items():
        known, asked = (frames[table][measure].dropna().to_numpy(float) for frames in (labelled, task))
        if min(len(known), len(asked)) >= MIN_ROWS_FOR_DRIFT:
            rows.append((measure, float(ks_2samp(known, asked, method="asymp").statistic)))
    return pd.DataFrame(rows, columns=["measure", "distance"])
