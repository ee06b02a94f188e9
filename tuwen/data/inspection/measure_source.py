"""The first pairs of a source, measured: sizes of the images, lengths of the captions."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tuwen.core.params.root import check_source
from tuwen.data.formats.images import open_image
from tuwen.data.formats.text_files import Reading
from tuwen.data.formats.tokens.spelling import make_folding
from tuwen.data.quality.text_stats import measure_captions
from tuwen.data.sources import read_source
from tuwen.data.sources.records import ImageRecord, TextRecord

MAX_IMAGES = 2000  # that are looked at


class SourceStats(NamedTuple):
    """What the first `MAX_IMAGES` images and their captions are like."""

    images: int
    faulty: int  # of them, that could not be had or opened
    first_fault: str  # the first of those, with its fault; empty where there is none
    captions: int
    whole: bool  # nothing is left that was not looked at
    short_px: Any  # short side of each image that could be opened
    pixels: Any  # of each
    tokens: Any  # of each caption, as `count_tokens` counts them
    chars: Any
    chinese: int  # captions that hold a Chinese character
    side_words: int  # captions with left or right
    repeated: int  # captions that another image has as well
    readings: list[Reading]  # of the text files that were begun


def measure_source(source: dict[str, Any]) -> SourceStats:
    """Read a source as `ingest` would, up to `MAX_IMAGES` images. Raises UserError as `ingest` does."""
    import pyarrow as pa

    captions: list[str] = []
    short, pixels, images, faulty, first_fault, whole = [], [], 0, 0, "", True
    readings = list[Reading]()
    for record in read_source(check_source(source), readings)["labelled"]:
        if isinstance(record, TextRecord):
            captions.append(record.caption)
        elif isinstance(record, ImageRecord):
            if images == MAX_IMAGES:
                whole = False
                break
            images += 1
            size = _measure_size(record.data)
            faulty += size is None
            if size is None and not first_fault:
                first_fault = f"{record.image_id:.200}: {record.fault or 'unreadable'}"
            if size:
                short.append(min(size))
                pixels.append(size[0] * size[1])
    texts = measure_captions(pa.table({"caption": pa.array(captions, pa.string())}))
    return SourceStats(
        images=images,
        faulty=faulty,
        first_fault=first_fault,
        captions=len(captions),
        whole=whole,
        short_px=np.array(short, int),
        pixels=np.array(pixels, int),
        tokens=count_tokens(captions),
        chars=texts["chars"].to_numpy(),
        chinese=int((texts["chinese_share"] > 0).sum()),
        side_words=int(texts["side_word"].sum()),
        repeated=int((texts["duplicates"] > 1).sum()),
        readings=readings,
    )


def count_tokens(captions: Sequence[str]) -> Any:
    """Return the tokens of each caption [N] for a fresh model, in valid or test, with [CLS] and [SEP].

    A character that no other caption has is unknown there, for the vocabulary is made of train: it is read as its
    UTF-8 bytes.
    """
    fold = make_folding().normalize_str
    spelled = ["".join(fold(caption).split()) for caption in captions]
    having = Counter(character for text in spelled for character in set(text))
    unknown = {character for character, count in having.items() if count == 1 and not character.isascii()}
    return np.array([2 + sum(len(c.encode()) if c in unknown else 1 for c in text) for text in spelled], int)


def _measure_size(data: bytes | None) -> tuple[int, int] | None:
    """Return (width, height) in pixels as the header says; None where there is no image."""
    try:
        return open_image(data).size if data else None
    except Exception:  # decoders raise a dozen kinds on bytes that are no image
        return None
