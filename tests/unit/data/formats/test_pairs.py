import pyarrow as pa
import pytest

from tests.support.pair_sets import EMPTY_SET
from tuwen.core.errors import UserError
from tuwen.data.formats import pairs

IMAGE = {"positive_id": "a", "group": None, "category": None, "shard": "s", "offset": 0, "size": 1, "sha256": "0"}


@pytest.fixture
def pair_set() -> pairs.PairSet:
    return pairs.PairSet(
        pa.Table.from_pylist([{"image_id": name, **IMAGE} for name in ("猫.jpg", "狗.jpg")], pairs.IMAGES),
        pa.Table.from_pylist(
            [{"text_id": "t1", "caption": '一只猫,"咪咪"\n'}, {"text_id": "t2", "caption": "动物"}], pairs.TEXTS
        ),
        pa.Table.from_pylist(
            [
                {"pair_id": "p1", "image_id": "狗.jpg", "text_id": "t2"},
                {"pair_id": "p2", "image_id": "猫.jpg", "text_id": "t1"},
                {"pair_id": "p3", "image_id": "猫.jpg", "text_id": "t2"},
            ],
            pairs.PAIRS,
        ),
    )


def test_a_set_is_read_back_as_it_was_written_and_gives_equal_bytes(pair_set, tmp_path) -> None:
    pairs.write_pair_set(tmp_path / "one", pair_set)
    pairs.write_pair_set(tmp_path / "two", pair_set)
    assert pairs.read_pair_set(tmp_path / "one") == pair_set
    for name in ("images", "texts", "pairs"):
        assert (tmp_path / f"one/{name}.parquet").read_bytes() == (tmp_path / f"two/{name}.parquet").read_bytes()


def test_the_truth_in_terms_of_rows(pair_set) -> None:
    image, text = pairs.find_true_rows(pair_set)
    assert image.tolist() == [1, 0, 0]
    assert text.tolist() == [1, 0, 1]
    nothing, _ = pairs.find_true_rows(EMPTY_SET)
    assert len(nothing) == 0


def test_a_missing_table_and_foreign_columns_are_named(pair_set, tmp_path) -> None:
    with pytest.raises(UserError, match=r"images\.parquet: this table is missing"):
        pairs.read_pair_set(tmp_path)
    pairs.write_pair_set(tmp_path, pair_set)
    pairs.write_table(tmp_path / "texts.parquet", pa.table({"text_id": ["t1"], "标题": ["猫"]}))
    with pytest.raises(UserError, match=r"texts\.parquet: columns \['text_id', '标题'\] found"):
        pairs.read_pair_set(tmp_path)
