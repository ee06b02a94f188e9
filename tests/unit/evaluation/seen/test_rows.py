import numpy as np
import pytest

from tests.support.vectors import unit
from tuwen.core.params import Evaluate
from tuwen.data.formats import pairs
from tuwen.evaluation.answers import answer_set
from tuwen.evaluation.embedded_set import EmbeddedSet
from tuwen.evaluation.figures import measure_figures
from tuwen.evaluation.ranks import make_ranks_table, read_ranks
from tuwen.retrieval.metrics import compute_hits

PARAMS = Evaluate(ks=[1, 5], bootstrap_samples=200, seed=0)
NONE = np.zeros(0, np.int64)


@pytest.fixture
def embedded() -> EmbeddedSet:
    """Thirty images; each has a text of its own, the first ten one more."""
    random = np.random.default_rng(3)
    images, image = unit(random.normal(size=(30, 6))), np.array([*range(30), *range(10)])
    return EmbeddedSet(
        images=images,
        texts=unit(images[image] + 0.6 * random.normal(size=(40, 6))),
        image=image,
        text=np.arange(40),
        image_groups=np.array([f"组{n // 2}" for n in range(30)], object),
        unfit=(NONE, NONE),
        ids={"images": [f"图{n}" for n in range(30)], "texts": [f"句{n}" for n in range(40)]},
    )


def measure(embedded: EmbeddedSet) -> dict[str, float]:
    return measure_figures(embedded, answer_set(embedded, PARAMS), PARAMS).values


def test_seen_and_unseen_captions_are_measured_apart_with_intervals(embedded: EmbeddedSet) -> None:
    seen = np.isin(np.arange(40), [3, 4, 30, 35])  # of the images 3, 4, 0 and 5
    marked = embedded._replace(seen_texts=seen)
    values, answers = measure(marked), answer_set(marked, PARAMS)
    seen_images = np.isin(np.arange(30), [0, 3, 4, 5])
    for name, flags in (("t2i", seen), ("i2t", seen_images)):
        hits = compute_hits(answers[name].judged, PARAMS.ks)
        assert values[f"{name}_seen_queries"] == 4
        for column, k in enumerate(PARAMS.ks):
            assert values[f"{name}_seen_hit_at_{k}"] == pytest.approx(hits[flags, column].mean(), abs=1e-6)
            unseen = values[f"{name}_unseen_hit_at_{k}"]
            assert unseen == pytest.approx(hits[~flags, column].mean(), abs=1e-6)
            assert values[f"{name}_unseen_hit_at_{k}_low"] <= unseen <= values[f"{name}_unseen_hit_at_{k}_high"]
            assert values[f"{name}_hit_at_{k}"] == pytest.approx(hits[:, column].mean(), abs=1e-6)
    parts = [values[f"{name}_unseen_hit_at_{k}"] for name in ("t2i", "i2t") for k in PARAMS.ks]
    assert values["unseen_mean_recall"] == pytest.approx(np.mean(parts), abs=1e-5)


def test_without_an_overlap_there_are_no_parts_and_where_all_was_seen_no_unseen_one(embedded: EmbeddedSet) -> None:
    for flags in (None, np.zeros(40, bool)):
        assert not any("seen" in name for name in measure(embedded._replace(seen_texts=flags)))
    values = measure(embedded._replace(seen_texts=np.ones(40, bool)))
    assert not any("unseen" in name for name in values)
    assert values["t2i_seen_hit_at_1"] == values["t2i_hit_at_1"]
    values = measure(embedded._replace(seen_texts=np.arange(40) < 30))  # every image has a text that was seen
    assert {"t2i_unseen_hit_at_1", "i2t_seen_hit_at_1"} <= set(values)
    assert not {"i2t_unseen_hit_at_1", "unseen_mean_recall"} & set(values)


def test_ranks_say_which_captions_stand_in_train(embedded: EmbeddedSet, tmp_path) -> None:
    marked = embedded._replace(seen_texts=np.arange(40) == 3)
    table = make_ranks_table(marked, answer_set(marked, PARAMS), PARAMS.ks)
    pairs.write_table(tmp_path / "ranks.parquet", table)
    ranks = read_ranks(tmp_path / "ranks.parquet", PARAMS.ks)
    assert np.flatnonzero(ranks["t2i"].seen).tolist() == np.flatnonzero(ranks["i2t"].seen).tolist() == [3]
    pairs.write_table(tmp_path / "ranks.parquet", table.drop_columns("caption_in_train"))  # of older code
    assert read_ranks(tmp_path / "ranks.parquet", PARAMS.ks)["t2i"].seen is None
