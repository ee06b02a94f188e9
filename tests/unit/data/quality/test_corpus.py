from typing import Any

import pytest

from tests.support.checkout import ROOT
from tuwen.core.params import load_params
from tuwen.data.quality.corpus import choose_shards

PARAMS = load_params(ROOT / "params.yaml").validate_.model_copy(
    update={"full_doctor_pairs": 1000, "doctor_share": 0.1}
)


def list_shards(count: int, pairs: int) -> list[dict[str, Any]]:
    return [{"address": f"/{n}.tar", "sha256": f"{n * 7919 % 10007:064x}", "pairs": pairs} for n in range(count)]


def test_a_corpus_that_is_not_too_large_is_measured_whole() -> None:
    assert choose_shards(list_shards(10, 100), PARAMS) == list_shards(10, 100)


@pytest.mark.parametrize(
    ("count", "pairs", "chosen"),
    [(11, 100, 2), (20, 100, 2), (21, 100, 3), (100, 11, 10), (2, 900, 1), (1, 1001, 1)],
)
def test_of_a_large_corpus_a_share_is_measured_in_whole_shards(count: int, pairs: int, chosen: int) -> None:
    listed = list_shards(count, pairs)
    result = choose_shards(listed, PARAMS)
    assert len(result) == chosen
    assert result == sorted(listed, key=lambda row: str(row["sha256"]))[:chosen]
    elsewhere = [row | {"address": f"s3://bucket{row['address']}"} for row in reversed(listed)]
    assert [row["sha256"] for row in choose_shards(elsewhere, PARAMS)] == [row["sha256"] for row in result]
