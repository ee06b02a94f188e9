"""The names that data sets give to their splits, and what the pipeline makes of them."""

from collections.abc import Collection

SPLIT_NAMES = {"train": "train", "valid": "valid", "val": "valid", "dev": "valid", "test": "test"}


def map_official_splits(found: Collection[str]) -> dict[str, str | None]:
    """Split of a data set, train, valid or test -> the split its pictures get.

    One split alone is none. Where test is missing or its answers are secret (MUGE, ICR, IQR), figures are
    published on valid: then valid is the test split, and the split stage takes a valid of its own out of train.
    """
    if len(set(found)) < 2:
        return dict.fromkeys(found)
    return {split: "test" if split == "valid" and "test" not in found else split for split in found}
