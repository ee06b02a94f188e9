import pytest

from tuwen.data.sources.records import SPLIT_NAMES, map_official_splits


def test_the_names_of_data_sets_mean_train_valid_or_test() -> None:
    assert set(SPLIT_NAMES.values()) == {"train", "valid", "test"}
    assert SPLIT_NAMES["val"] == SPLIT_NAMES["dev"] == "valid"


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (["train", "valid", "test"], {"train": "train", "valid": "valid", "test": "test"}),
        (["train", "test"], {"train": "train", "test": "test"}),
        (["train", "valid"], {"train": "train", "valid": "test"}),  # measured on valid, as MUGE is
        (["train"], {"train": None}),  # one split alone splits nothing
        (["valid", "valid"], {"valid": None}),
        ([], {}),
    ],
)
def test_official_splits_are_kept_and_valid_stands_in_for_a_secret_test(
    splits: list[str], expected: dict[str, str | None]
) -> None:
    assert map_official_splits(splits) == expected
