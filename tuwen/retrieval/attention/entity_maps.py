"""A map over an image for each entity of a caption: what its words read there that speaks for a match.

Shapes: L tokens of a caption, P tokens of an image, S patches a side, X pixels a side.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from tuwen.data.formats.images import Pixels, make_pixel_tensor
from tuwen.data.formats.picture_rule import PictureRule
from tuwen.data.formats.text import load_tokenizer, locate_tokens, simplify_for, tokenize
from tuwen.model.attention_map import explain_no_map, map_attention
from tuwen.model.device import choose_device
from tuwen.model.reranker import ReRanker, load_reranker
from tuwen.retrieval.attention.entities import Entity, list_entities
from tuwen.retrieval.encode import use_one_thread_of_torch

PatchMap = npt.NDArray[np.float32]


class EntityMap(NamedTuple):
    """A word of a caption and its map, [S, S] of sum 1; all 0 where nothing that it reads speaks for a match."""

    word: str
    patches: PatchMap


class ReadPair(NamedTuple):
    """The probability of a match, and a map for each entity that the model reads."""

    match: float
    maps: list[EntityMap]


class AttentionReader(NamedTuple):
    """A re-ranker and its tokenizer; `reason`: why it has no maps, empty where it has."""

    reranker: ReRanker
    tokenizer: Any
    reason: str

    @property
    def picture_rule(self) -> PictureRule:
        """How a picture becomes what it sees."""
        return self.reranker.dual.picture_rule


def load_attention_reader(model: Path) -> AttentionReader:
    """Load the re-ranker in a model folder. Raises UserError where there is none, or a broken one."""
    dual, cross = load_reranker(model)
    reranker = ReRanker(dual.to(choose_device()), cross.to(choose_device()))
    return AttentionReader(reranker, load_tokenizer(model / "vocab.txt"), explain_no_map(cross))


def map_entities(reader: AttentionReader, square: Pixels, caption: str) -> ReadPair:
    """Return what the re-ranker says of one image, uint8 [X, X, 3], and one caption, and what it reads there.

    Words are those of the caption as the model reads it, in simplified characters where it does. An entity beyond
    `max_tokens` has no map. Raises UserError where this re-ranker has no maps.
    """
    (dual, cross), tokenizer = reader.reranker, reader.tokenizer
    (read,), max_tokens = simplify_for(tokenizer, [caption]), dual.config["text"]["max_tokens"]
    ids_1L, mask_1L = (one.to(choose_device()) for one in tokenize(tokenizer, [caption], max_tokens))
    with use_one_thread_of_torch():
        with torch.no_grad():
            _, image_1PW = dual.encode_image_tokens(make_pixel_tensor([square]).to(choose_device()))
            _, text_1LW = dual.encode_text_tokens(ids_1L, mask_1L)
            match = cross.score_pairs(cross.compress_image(image_1PW), text_1LW, mask_1L).item()
        map_LSS = map_attention(cross, image_1PW[0], text_1LW[0]).cpu().numpy()
    places = locate_tokens(tokenizer, read, max_tokens)
    rows = {entity.word: _find_rows(entity, places) for entity in list_entities(read)}
    return ReadPair(match, [EntityMap(word, _join_rows(map_LSS[at])) for word, at in rows.items() if at])


def _find_rows(entity: Entity, places: list[tuple[int, int]]) -> list[int]:
    """Return the tokens that spell an entity, of tokens that stand at these places of its caption."""
    return [
        row
        for row, (start, end) in enumerate(places)
        if any(start < last and first < end for first, last in entity.spans)
    ]


def _join_rows(map_RSS: PatchMap) -> PatchMap:
    """Return the mean of a word's tokens as shares of the whole, [S, S]."""
    mean_SS = map_RSS.mean(0, dtype=np.float64)
    return np.asarray(mean_SS / (mean_SS.sum() or 1.0), np.float32)
