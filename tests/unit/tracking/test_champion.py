"""The rule of the champion, on ranks alone: who is beaten, and who cannot be compared."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests.support.checkout import ROOT
from tests.support.registry_project import SETS
from tuwen.core import params
from tuwen.data.formats import pairs
from tuwen.tracking import registry


def write_measured(folder: Path, ranks: dict[str, list[int]], queries: int = 40) -> Path:
    """A folder as `register` keeps it: `ranks` has 40 ranks for t2i and 40 for i2t, of test and of valid."""
    for name in SETS:
        tables = []
        for way in ("t2i", "i2t"):
            names = [f"{way}-{n}" for n in range(queries)]
            best = np.array(ranks[f"{name}-{way}"], np.int64)
            columns = {"direction": [way] * queries, "query_id": names, "group": names}
            tables.append(pa.table({**columns, "best_rank": best, "true_items": np.ones(queries, np.int64)}))
        (folder / name).mkdir(parents=True)
        pairs.write_table(folder / name / "ranks.parquet", pa.concat_tables(tables).combine_chunks())
        images = [{"image_id": f"图{n}", "sha256": f"{n}"} for n in range(queries)]
        texts = [{"text_id": f"文{n}", "caption": f"第{n}张图"} for n in range(queries)]
        for kind, rows, schema in (("images", images, pairs.IMAGES), ("texts", texts, pairs.TEXTS)):
            pairs.write_table(folder / name / f"{kind}.parquet", pa.Table.from_pylist(rows, schema))
        pairs.write_table(folder / name / "pairs.parquet", pa.Table.from_pylist([], pairs.PAIRS))
    return folder


def ranked(hits: int) -> list[int]:
    """40 ranks, the first `hits` of them among the first five."""
    return [1] * hits + [50] * (40 - hits)


EQUAL = {f"{name}-{way}": ranked(20) for name in ("test", "valid") for way in ("t2i", "i2t")}


@pytest.mark.parametrize(
    ("changed", "rises", "reason"),
    [
        ({"test-t2i": ranked(24)}, True, "+2.50 points"),
        ({}, False, "+0.00 points"),  # nothing rises
        ({"test-t2i": ranked(19)}, False, "−0.6"),
        # the mean rises by far, but one set falls with its whole interval
        ({"test-t2i": ranked(40), "test-i2t": ranked(40), "valid-i2t": ranked(12)}, False, "valid: image → text"),
        # one set falls, but within its interval, and the mean rises
        ({"test-t2i": ranked(26), "valid-i2t": ranked(19)}, True, "+3.1"),
    ],
)
def test_a_champion_is_beaten_where_the_mean_rises_and_no_set_falls(
    tmp_path: Path, changed: dict[str, list[int]], rises: bool, reason: str
) -> None:
    champion = write_measured(tmp_path / "champion", EQUAL)
    challenger = write_measured(tmp_path / "challenger", EQUAL | changed)
    evaluate = params.load_params(ROOT / "params.yaml").evaluate
    takes_over, why = registry.judge_challenger(champion, challenger, evaluate)
    assert takes_over == rises
    assert reason in why


def test_another_test_set_is_not_comparable(tmp_path: Path) -> None:
    champion = write_measured(tmp_path / "champion", EQUAL)
    challenger = write_measured(tmp_path / "challenger", {name: [1] * 39 for name in EQUAL}, queries=39)
    evaluate = params.load_params(ROOT / "params.yaml").evaluate
    rises, why = registry.judge_challenger(champion, challenger, evaluate)
    assert not rises
    assert why.startswith("not comparable: ")
    better = write_measured(tmp_path / "better", EQUAL | {"test-t2i": ranked(24)})
    texts = pairs.read_table(better / "valid/texts.parquet").to_pylist()
    texts[7]["caption"] = "另一张图"  # the same ids, and another question
    pairs.write_table(better / "valid/texts.parquet", pa.Table.from_pylist(texts, pairs.TEXTS))
    rises, why = registry.judge_challenger(champion, better, evaluate)
    assert not rises
    assert re.match(r"not comparable: .*valid/texts\.parquet", why)
