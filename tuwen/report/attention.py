"""What the words of the shown queries read in their true picture, in the eyes of the re-ranker."""

from pathlib import Path
from typing import NamedTuple

from tuwen.data.formats import pairs, shards
from tuwen.evaluation.models import SHIPPED
from tuwen.report.examples import Example, Examples
from tuwen.report.heat import draw_heat
from tuwen.report.html.page import decode_thumbnail, encode_uri
from tuwen.retrieval.attention.entity_maps import load_attention_reader, map_entities
from tuwen.retrieval.encode import decode_row, list_image_rows

WORDS_SHOWN = 6  # of a caption: as many as answers stand beside each other


class ShownWords(NamedTuple):
    """The probability of a match, and the first words of the caption, each with the `data:` URI of its map."""

    match: float
    tiles: list[tuple[str, str]]


class AttentionSection(NamedTuple):
    """The maps of all shown queries, or why there are none."""

    reason: str
    words: dict[str, dict[int, ShownWords]]  # direction -> row of the query


def collect_attention(data: Path, pair_set: pairs.PairSet, shown: Examples, model: Path) -> AttentionSection:
    """Return the maps of the shown queries by the re-ranker in the folder `model`; data: the data root.

    A text is read beside its best true picture, a picture beside the caption that is shown with it. One whose
    caption has no entity has no maps. Raises UserError where the re-ranker is missing or broken.
    """
    reader = load_attention_reader(model)
    section = AttentionSection(reader.reason, {direction: {} for direction in shown.queries})
    if reader.reason:
        return section
    images = list_image_rows(pair_set)
    for direction, kinds in shown.queries.items():
        for example in {one.row: one for examples in kinds.values() for one in examples}.values():
            row, caption = _choose_pair(direction, example, shown)
            read = map_entities(reader, decode_row(data, reader.picture_rule, images[row]), caption)
            picture = decode_thumbnail(shards.read_member(data, shards.Place.of(images[row])))
            tiles = [(one.word, encode_uri(draw_heat(picture, one.patches))) for one in read.maps[:WORDS_SHOWN]]
            if tiles:
                section.words[direction][example.row] = ShownWords(read.match, tiles)
    return section


def _choose_pair(direction: str, example: Example, shown: Examples) -> tuple[int, str]:
    """Return the row of the image and the caption that are read for a query."""
    if direction == "i2t":
        return example.row, shown.first_captions[example.row]
    return next(answer.row for answer in example.answers[SHIPPED] if answer.is_true), shown.captions[example.row]
