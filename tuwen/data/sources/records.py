"""What a source yields: images, texts and the pairs of them, in any order, one record at a time.

A source module has one public function, `read(source) -> SourceSets`. It streams: of the whole source it holds
only ids. It judges nothing: an image that it cannot give has a fault (`ImageRecord.fault`), and only a file that
is not of its form at all is a UserError, which names file, line and fix.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple


class ImageRecord(NamedTuple):
    """One image. Where its bytes could not be had, `data` is None and `fault` is the reason (`pairs.FAULTS`)."""

    image_id: str
    data: bytes | None  # as encoded in the source
    file: str  # where the source has it: a path relative to its root, with / between folders
    row: int | None = None  # line or record in `file`, counted from 1; None where the file is the image
    fault: str | None = None
    positive_id: str | None = None  # the original image; None: image_id
    group: str | None = None
    category: str | None = None
    split: str | None = None


class TextRecord(NamedTuple):
    """One text."""

    text_id: str
    caption: str
    file: str
    row: int | None = None


class PairRecord(NamedTuple):
    """One pair."""

    pair_id: str
    image_id: str
    text_id: str
    file: str
    row: int | None = None
    label: int = 1  # 0: a matching set says that the caption does not fit


class NoteRecord(NamedTuple):
    """What a person should know of the source though no row is bad; ingest counts and shows it (notes.json)."""

    what: str  # equal ones are counted together
    example: str  # where it was seen


Record = ImageRecord | TextRecord | PairRecord | NoteRecord
SourceSets = Mapping[str, Iterator[Record]]  # "labelled", and "t2i" and "i2t" where the source has task files

# What data sets call their splits -> the pipeline's names.
SPLIT_NAMES = {"train": "train", "valid": "valid", "val": "valid", "dev": "valid", "test": "test"}


def map_official_splits(splits: Collection[str]) -> dict[str, str | None]:
    """Return the split that each split of a data set becomes; None where it becomes none.

    splits: train, valid and test, those that the data set has; one alone splits nothing. Where test is missing or
    its answers are secret (MUGE, ICR, IQR), results are published on valid: then valid becomes the test split, and
    `data/quality/split.py` takes a valid of its own out of train.
    """
    if len(set(splits)) < 2:
        return dict.fromkeys(splits)
    return {split: "test" if split == "valid" and "test" not in splits else split for split in splits}
