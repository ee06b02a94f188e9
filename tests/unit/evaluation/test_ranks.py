import numpy as np
import pyarrow as pa
import pytest

from tests.support.vectors import unit
from tuwen.core.errors import UserError
from tuwen.core.params import Evaluate
from tuwen.data.formats import pairs
from tuwen.evaluation.answers import answer_set
from tuwen.evaluation.embedded_set import EmbeddedSet
from tuwen.evaluation.ranks import make_ranks_table, read_ranks

PARAMS = Evaluate(ks=[1, 5], bootstrap_samples=100, seed=0)
NONE = np.zeros(0, np.int64)


def make_set(images=6, texts=9):
    """Text t shows image t % images; the last image has no text."""
    random = np.random.default_rng(0)
    vectors = unit(random.normal(size=(images, 4)))
    text = np.arange(texts)
    image = text % (images - 1)
    return EmbeddedSet(
        images=vectors,
        texts=unit(vectors[image] + 0.8 * random.normal(size=(texts, 4))),
        image=image,
        text=text,
        image_groups=np.array([f"概念{n // 2}" for n in range(images)], object),
        unfit=(NONE, NONE),
        ids={"images": [f"图{n}" for n in range(images)], "texts": [f"文{n}" for n in range(texts)]},
    )


def test_what_was_written_is_read_by_direction(tmp_path):
    embedded = make_set()
    answers = answer_set(embedded, PARAMS)
    pairs.write_table(tmp_path / "ranks.parquet", make_ranks_table(embedded, answers, PARAMS.ks))
    ranks = read_ranks(tmp_path / "ranks.parquet", PARAMS.ks)
    assert list(ranks) == ["t2i", "i2t"]
    assert ranks["t2i"].query_ids.to_pylist() == [f"文{n}" for n in range(9)]
    assert ranks["i2t"].query_ids.to_pylist() == [f"图{n}" for n in range(5)]  # those that have a true text
    assert ranks["i2t"].groups.tolist() == ["概念0", "概念0", "概念1", "概念1", "概念2"]
    for direction, ranked in ranks.items():
        for name in ("best_rank", "true_items", "found"):
            expected = getattr(answers[direction].judged, name)
            np.testing.assert_array_equal(getattr(ranked.judged, name), expected)


def test_ks_that_were_not_measured_leave_found_empty(tmp_path):
    embedded = make_set()
    table = make_ranks_table(embedded, answer_set(embedded, PARAMS), PARAMS.ks)
    pairs.write_table(tmp_path / "ranks.parquet", table)
    judged = read_ranks(tmp_path / "ranks.parquet", [1, 2])["t2i"].judged
    assert judged.found.shape == (9, 0)
    assert len(judged.best_rank) == 9
    with pytest.raises(UserError, match="this table is missing"):
        read_ranks(tmp_path / "none.parquet", PARAMS.ks)


def test_the_columns_are_named_and_typed(tmp_path):
    embedded = make_set()
    table = make_ranks_table(embedded, answer_set(embedded, PARAMS), PARAMS.ks)
    assert table.schema.names[-2:] == ["found_at_1", "found_at_5"]
    assert {str(table.schema.field(name).type) for name in ("direction", "query_id", "group")} == {"string"}
    assert table.schema.field("best_rank").type == pa.int64()
