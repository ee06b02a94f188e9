import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binomtest

from tests.support.retrieval import make_set
from tuwen.core.errors import UserError
from tuwen.core.params import Evaluate
from tuwen.data.formats import pairs
from tuwen.evaluation.compare import compare_ranks, find_regressions, format_changes, require_same_test
from tuwen.evaluation.figures import FIGURES
from tuwen.evaluation.metric import OfQueries

PARAMS = Evaluate(ks=[1, 5], bootstrap_samples=1000, seed=0)
QUERIES = 200  # per direction, two to a group


def ranks(path, **best):
    """A ranks.parquet; best: direction -> rank of each query, 1 where not given."""
    rows = [
        {
            "direction": way,
            "query_id": f"图{n:03d}",
            "group": f"概念{n // 2:03d}",
            "best_rank": int(best.get(way, [1] * QUERIES)[n]),
            "true_items": 1,
        }
        for way in ("t2i", "i2t")
        for n in range(QUERIES)
    ]
    pairs.write_table(path, pa.Table.from_pylist(rows))
    return path


def of(changes):
    return {(change.direction, change.k): change for change in changes}


def test_equal_models_differ_by_nothing(tmp_path):
    base = ranks(tmp_path / "base.parquet")
    changes = compare_ranks(base, ranks(tmp_path / "head.parquet"), PARAMS)
    assert [(change.direction, change.k) for change in changes] == [("t2i", 1), ("t2i", 5), ("i2t", 1), ("i2t", 5)]
    unseen = 100 * binomtest(0, QUERIES // 2).proportion_ci().high  # of groups, none of which differs
    assert all(change.points == pytest.approx((0, -unseen, unseen)) for change in changes)
    assert find_regressions(changes, 0.0) == []


def test_the_interval_is_that_of_the_differences_by_group(tmp_path):
    random = np.random.default_rng(3)
    old, new = (random.integers(1, most, QUERIES // 2).repeat(2) for most in (12, 9))  # alike within a group
    found = of(compare_ranks(ranks(tmp_path / "a", t2i=old), ranks(tmp_path / "b", t2i=new), PARAMS))[("t2i", 5)]
    difference = (new <= 5).astype(float) - (old <= 5)
    assert found.base == pytest.approx(100 * (old <= 5).mean())
    assert found.head == pytest.approx(100 * (new <= 5).mean())
    assert found.points.value == pytest.approx(100 * difference.mean())
    by_group = difference.reshape(-1, 2).mean(axis=1)  # the normal approximation of the same interval
    half = 100 * 1.96 * by_group.std() / np.sqrt(len(by_group))
    assert found.points.low == pytest.approx(100 * difference.mean() - half, abs=0.1 * half)
    assert found.points.high == pytest.approx(100 * difference.mean() + half, abs=0.1 * half)


def test_a_fall_in_one_direction_is_a_regression_though_the_other_rises(tmp_path):
    fallen = [9] * 60 + [1] * (QUERIES - 60)
    base = ranks(tmp_path / "a", i2t=fallen)
    head = ranks(tmp_path / "b", t2i=fallen)
    why = find_regressions(compare_ranks(base, head, PARAMS), max_drop_points=50)
    assert len(why) == 1
    assert why[0].startswith("text → image R@5 fell by 30.0 points: even the upper end")
    assert len(find_regressions(compare_ranks(base, head, PARAMS), max_drop_points=2)) == 2


def test_a_fall_within_chance_counts_only_beyond_the_limit(tmp_path):
    old = [9] * 80 + [1] * (QUERIES - 80)
    new = [1] * 10 + [9] * 86 + [1] * (QUERIES - 96)  # as floats 3.000000000000007 points less
    changes = compare_ranks(ranks(tmp_path / "a", t2i=old), ranks(tmp_path / "b", t2i=new), PARAMS)
    assert of(changes)[("t2i", 5)].points.value == pytest.approx(-3)
    assert of(changes)[("t2i", 5)].points.high > 0
    assert -of(changes)[("t2i", 5)].points.value > 3
    assert find_regressions(changes, max_drop_points=3.0) == []
    assert len(find_regressions(changes, max_drop_points=2.9)) == 1


def test_a_fall_at_another_k_is_shown_and_decides_nothing(tmp_path):
    base = ranks(tmp_path / "a")
    changes = compare_ranks(base, ranks(tmp_path / "b", t2i=[2] * QUERIES), PARAMS)
    assert of(changes)[("t2i", 1)].points.value == -100
    assert find_regressions(changes, 0.0) == []
    assert "| text → image | 200 | R@1 | 100.0 | 0.0 | −100.0 [−100.0, −92.8] |" in format_changes(changes)


def test_the_order_of_the_rows_does_not_matter(tmp_path):
    random = np.random.default_rng(5)
    base, head = ranks(tmp_path / "a"), ranks(tmp_path / "b", i2t=random.integers(1, 9, QUERIES))
    expected = compare_ranks(base, head, PARAMS)
    table = pairs.read_table(head)
    pairs.write_table(head, table.take(random.permutation(table.num_rows)))
    assert compare_ranks(base, head, PARAMS) == expected


@pytest.mark.parametrize(("column", "value"), [("query_id", "别的"), ("group", "别的"), ("true_items", 2)])
def test_other_queries_are_not_comparable(tmp_path, column, value):
    base, head = ranks(tmp_path / "a"), tmp_path / "b"
    rows = pairs.read_table(base).to_pylist()
    rows[7][column] = value
    pairs.write_table(head, pa.Table.from_pylist(rows))
    with pytest.raises(UserError, match="other queries"):
        compare_ranks(base, head, PARAMS)


def test_a_missing_file_column_or_direction_is_named(tmp_path):
    base = ranks(tmp_path / "a")
    with pytest.raises(UserError, match="none"):
        compare_ranks(base, tmp_path / "none", PARAMS)
    table = pairs.read_table(base)
    for column in ("group", "best_rank"):
        pairs.write_table(tmp_path / "old", table.drop_columns([column]))
        with pytest.raises(UserError, match=f"no column '{column}'"):
            compare_ranks(tmp_path / "old", base, PARAMS)
    pairs.write_table(tmp_path / "half", table.slice(0, QUERIES))
    with pytest.raises(UserError, match="no query of i2t"):
        compare_ranks(tmp_path / "half", tmp_path / "half", PARAMS)


def test_a_test_set_is_the_same_wherever_its_rows_came_from(tmp_path):
    made = make_set(tmp_path, "base")
    moved = made.images.set_column(12, "row", pa.array(range(5, 17), pa.int64()))
    pairs.write_pair_set(
        tmp_path / "head", pairs.PairSet(moved, made.texts, made.pairs.take(list(range(35, -1, -1))))
    )
    require_same_test(tmp_path / "base", tmp_path / "head")


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("images", "image_id", "别的"),
        ("images", "sha256", "0" * 64),
        ("texts", "text_id", "别的"),
        ("texts", "caption", "一个黑色的圆形"),
        ("pairs", "image_id", "图11.png"),
        ("pairs", "text_id", "list-11"),
        ("pairs", "label", 0),
    ],
)
def test_another_picture_caption_or_truth_makes_another_test_set(tmp_path, table, column, value):
    made = make_set(tmp_path, "base")
    rows = getattr(made, table).to_pylist()
    rows[3][column] = value
    changed = {name: getattr(made, name) for name in ("images", "texts", "pairs")}
    changed[table] = pa.Table.from_pylist(rows, changed[table].schema)
    pairs.write_pair_set(tmp_path / "head", pairs.PairSet(**changed))
    with pytest.raises(UserError, match=rf"{table}.parquet: these test {table}"):
        require_same_test(tmp_path / "base", tmp_path / "head")


def test_a_metric_that_the_ranks_do_not_hold_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(FIGURES, "recall", FIGURES["recall"]._replace(in_gate=True))
    path = ranks(tmp_path / "old.parquet")
    table = pairs.read_table(path)
    for k in (1, 5):
        table = table.append_column(f"found_at_{k}", table["true_items"])
    pairs.write_table(tmp_path / "new.parquet", table)
    with pytest.raises(UserError, match=r"old\.parquet: not measured at k = \[1, 5\]"):
        compare_ranks(tmp_path / "new.parquet", path, PARAMS)
    same = compare_ranks(tmp_path / "new.parquet", tmp_path / "new.parquet", PARAMS)
    assert [change.title for change in same[:4]] == ["R@1", "R@5", "recall@1", "recall@5"]
    assert [change.title for change in same if change.decides] == ["R@5", "R@5"]


def test_every_metric_of_the_gate_is_of_queries():
    assert all(isinstance(metric.source, OfQueries) for metric in FIGURES.values() if metric.in_gate)
    assert all(metric.source.ranking == "plain" for metric in FIGURES.values() if metric.in_gate)
