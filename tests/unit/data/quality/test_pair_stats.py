import pyarrow as pa
import pytest

from tuwen.data.formats import pairs
from tuwen.data.quality.pair_stats import find_ends, measure_pairs


@pytest.fixture
def pair_set() -> pairs.PairSet:
    """An image, a text, and pairs of them and of others that are not there."""
    images = pa.Table.from_pylist([{"image_id": "鱼.png"}, {"image_id": "猫.png"}], pairs.IMAGES)
    texts = pa.Table.from_pylist([{"text_id": "句-1", "caption": "窗台上的猫"}], pairs.TEXTS)
    ends = [("猫.png", "句-1"), ("狗.png", "句-1"), ("猫.png", "句-2"), (None, "句-1")]
    rows = [{"pair_id": str(n), "image_id": i, "text_id": t} for n, (i, t) in enumerate(ends)]
    return pairs.PairSet(images, texts, pa.Table.from_pylist(rows, pairs.PAIRS))


def test_pairs_know_whether_their_ends_exist(pair_set: pairs.PairSet) -> None:
    measured = measure_pairs(pair_set)
    assert measured["pair_id"].tolist() == ["0", "1", "2", "3"]
    assert measured["picture_exists"].tolist() == [True, False, True, False]
    assert measured["caption_exists"].tolist() == [True, True, False, True]


def test_the_ends_of_a_pair_are_rows_of_the_other_tables(pair_set: pairs.PairSet) -> None:
    image_rows, text_rows = find_ends(pair_set)
    assert image_rows.tolist() == [1, -1, 1, -1]
    assert text_rows.tolist() == [0, 0, -1, 0]
