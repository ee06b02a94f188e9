import numpy as np
import pyarrow as pa
import pytest

from tuwen.core.params import Evaluate
from tuwen.data.formats import pairs
from tuwen.evaluation.ranks import split_ranks
from tuwen.report import slices

# caption -> how many texts are like it; how many of them the baseline and the fine-tuned model answer
KINDS = {
    "小{}猫": (10, 4, 10),
    "第{}辆公共汽车停在路边等": (12, 12, 6),  # holds no digit but a Chinese numeral
    "穿着12号球衣的球员在足球场上奔跑{}次": (11, 0, 11),
    "<人名>站在iphone专卖店的门口招手示意{}": (10, 5, 5),
    "Ａ{}型": (9, 9, 9),  # counts as Latin letters; too few for a kind by themselves
}
NUMERALS = "一二三四五六七八九十百千"


def world():
    """A PairSet of one picture a text and the ranks tables of both models, rows of the queries shuffled."""
    captions, best = [], {"baseline": [], "finetuned": []}
    for caption, (count, first, second) in KINDS.items():
        captions += [caption.format(NUMERALS[n]) for n in range(count)]
        best["baseline"] += [1 if n < first else 6 for n in range(count)]
        best["finetuned"] += [5 if n < second else 9 for n in range(count)]
    number = len(captions)
    names = [f"{n:02d}" for n in range(number)]
    categories = ["动物" if n < 20 else None if n < 30 else "<b>物品</b>" for n in range(number)]
    images = [{"image_id": f"图{n}", "category": c} for n, c in zip(names, categories, strict=True)]
    texts = [{"text_id": f"文{n}", "caption": c} for n, c in zip(names, captions, strict=True)]
    test = pairs.PairSet(
        pa.Table.from_pylist(images, pairs.IMAGES),
        pa.Table.from_pylist(texts, pairs.TEXTS),
        pairs.PAIRS.empty_table(),
    )
    order = np.random.default_rng(0).permutation(number)
    rows = [(way, sign, n) for way, sign in (("i2t", "图"), ("t2i", "文")) for n in order]
    ranked = {
        model: pa.table(
            {
                "direction": [way for way, _, _ in rows],
                "query_id": [sign + names[n] for _, sign, n in rows],
                "group": [names[n] for _, _, n in rows],
                "best_rank": [ranks[n] for _, _, n in rows],
                "true_items": [1] * len(rows),
            }
        )
        for model, ranks in best.items()
    }
    return test, ranked


def collect(test, ranked):
    """The slices by hit@5, of both models' ranks tables."""
    ranks = {model: split_ranks(table, [5]) for model, table in ranked.items()}
    return slices.collect_slices(test, ranks, 5, Evaluate(ks=[5], bootstrap_samples=200, seed=0))


def test_every_kind_has_its_queries_and_both_models_share_of_hits():
    made = collect(*world())
    found = {
        (one.direction, one.title): (one.queries, *(round(p.value, 6) for p in one.models.values()))
        for one in made
    }
    assert found == {
        ("t2i", "up to 5 characters"): (19, round(1300 / 19, 6), 100),
        ("t2i", "6 to 15 characters"): (12, 100, 50),
        ("t2i", "over 15 characters"): (21, round(500 / 21, 6), round(1600 / 21, 6)),
        ("t2i", "with digits"): (11, 0, 100),
        ("t2i", "with Latin letters"): (19, round(1400 / 19, 6), round(1400 / 19, 6)),
        ("t2i", "with a mask"): (10, 50, 50),
        ("i2t", "动物"): (20, 5 * (4 + 10), 5 * (10 + 6)),
        ("i2t", "<b>物品</b>"): (22, round(1400 / 22, 6), round(1700 / 22, 6)),
    }
    for one in made:
        before, after = one.models.values()
        (gain,) = one.gains.values()
        assert gain.value == pytest.approx(after.value - before.value)
        assert gain.low <= gain.value <= gain.high
    (digits,) = (one for one in made if one.title == "with digits")
    # all 11 queries gain, of which the bootstrap sees no spread: the low end is Clopper and Pearson's
    assert tuple(digits.gains["finetuned"]) == pytest.approx((100, 100 * (2 * 0.025 ** (1 / 11) - 1), 100))


def test_a_kind_that_holds_every_query_is_the_headline_and_left_out():
    test, ranked = world()
    short = test.texts.set_column(1, "caption", pa.array(["短句"] * len(test.texts)))
    plain = test.images.set_column(3, "category", pa.nulls(len(test.images), pa.string()))
    assert collect(pairs.PairSet(plain, short, test.pairs), ranked) == []


@pytest.mark.parametrize(
    ("caption", "other", "kind"),
    [
        ("字" * 5, "字" * 6, "up to 5 characters"),
        ("字" * 6, "字" * 5, "6 to 15 characters"),
        ("字" * 15, "字" * 16, "6 to 15 characters"),
        ("字" * 16, "字" * 15, "over 15 characters"),
        ("９号", "九号", "with digits"),
    ],
)
def test_the_bounds_of_a_kind_belong_to_it(caption, other, kind):
    test, ranked = world()
    captions = [caption] * 10 + [other] * (len(test.texts) - 10)
    texts = test.texts.set_column(1, "caption", pa.array(captions))
    made = collect(pairs.PairSet(test.images, texts, test.pairs), ranked)
    assert [one.queries for one in made if one.title == kind] == [10]


def test_the_intervals_are_drawn_by_group():
    test, ranked = world()
    as_one = {
        model: table.set_column(2, "group", pa.array(["同"] * len(table))) for model, table in ranked.items()
    }
    for one in collect(test, as_one):
        gain = one.gains["finetuned"]
        assert gain.high - gain.low > 97  # of one group nothing is known: not the interval of as many queries
