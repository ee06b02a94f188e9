"""A model with its index, ready to answer: texts and pictures to vectors, those to hits, hits to their new order.

Everything here computes, in threads that the caller owns; encoding and searching in some, re-ranking in another.
Shapes: Q queries, D dimensions, k hits of one of them.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from tuwen.data.formats.images import Pixels
from tuwen.data.formats.picture_rule import PictureRule
from tuwen.data.formats.text import load_tokenizer
from tuwen.data.formats.tokens.spelling import simplify_captions
from tuwen.model.adapter import Adapter, load_adapter, map_query
from tuwen.model.attention_map import explain_no_map
from tuwen.model.device import choose_device
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.reranker import ReRanker, has_reranker, load_reranker
from tuwen.model.stored_model import is_adapter
from tuwen.retrieval.attention.entity_maps import AttentionReader
from tuwen.retrieval.calibration import Calibration, Growth
from tuwen.retrieval.encode import decode_row, embed_images
from tuwen.retrieval.few_captions import embed_few_captions
from tuwen.retrieval.match_pairs import PairSides
from tuwen.retrieval.rerank import Reordered, reorder_found
from tuwen.retrieval.rerank_choice import OrderChoice
from tuwen.retrieval.retriever import ENCODE_BATCH, Retriever, load_retriever
from tuwen.retrieval.vectors import Vectors
from tuwen.service.feedback import Feedback, move_query
from tuwen.service.index.item_index import ItemIndex
from tuwen.service.index.store import Hits, ItemFilter, Store
from tuwen.service.index.stores import open_store
from tuwen.service.packed_text import pack_text_tower
from tuwen.service.settings import Precision

SQUARE_NDIM = 3  # of a picture, [S, S, 3]; a vector has one
NO_FEEDBACK = Feedback()
NO_HITS = Hits(np.empty(0, np.int64), np.empty(0, np.float32))


class GivenVector(NamedTuple):
    """A vector that some program made of a query: for a model of such vectors, or of the model's own space."""

    kind: str  # text or image
    vector: Vectors  # [D], of any length but 0


Asked: TypeAlias = str | Pixels | Vectors | GivenVector


class Query(NamedTuple):
    """What is asked of one side of the index: a text, a picture as the model sees it, or a vector."""

    asked: Asked
    of: str  # images or texts
    k: int  # hits that are wanted, from the first on; 0: its vector alone
    keep: ItemFilter
    marks: Feedback = NO_FEEDBACK  # that move it


class QueryAnswer(NamedTuple):
    """What a query found, and the seconds that its batch took to encode and to search."""

    hits: Hits
    total: int  # items that the filter keeps
    vector: Vectors  # [D]
    encode_seconds: float
    search_seconds: float


class Engine:
    """A model folder and its index, in memory."""

    def __init__(
        self,
        model: Path,
        name: str,
        version: str | None,
        index: ItemIndex,
        data: Path,
        precision: Precision = "fp32",
    ) -> None:
        """Load the model. name, version: what answers call it. Raises UserError for an index of another model.

        precision: of the text tower's products where texts are searched by (packed_text.py).
        """
        index.require_model(model)
        self.name, self.version, self.index, self.data = name, version, index, data
        self.reader: AttentionReader | None = None
        self.choices: dict[str, OrderChoice] = {}
        self._retriever: Retriever | None = None
        self._heads: Adapter | None = None
        if is_adapter(model):
            self._heads = load_adapter(model)
        elif has_reranker(model) and index.params["reranking"]:
            loaded = load_reranker(model)
            dual, cross = loaded.dual.to(choose_device()), loaded.cross.to(choose_device())
            self._retriever = Retriever(dual, load_tokenizer(model / "vocab.txt"))
            reason = explain_no_map(cross)
            self.reader = AttentionReader(ReRanker(dual, cross), self._retriever.tokenizer, reason)
            self.choices = {name: OrderChoice(**one) for name, one in index.params["reranking"].items()}
        else:
            self._retriever = load_retriever(model)
        self._search_model: DualEncoder | None = None
        if self._retriever is not None:
            self._search_model = pack_text_tower(self._retriever.model, precision)
        self._curves = {
            direction: {order: Calibration(**one) for order, one in by.items()}
            for direction, by in index.params["calibration"].items()
        }
        self._growth = {direction: Growth(**one) for direction, one in index.params["growth"].items()}
        self.store: Store = open_store(index)

    @property
    def retriever(self) -> Retriever:
        """What encodes texts and pictures; only where `encodes`."""
        assert self._retriever
        return self._retriever

    @property
    def encodes(self) -> bool:
        """Whether texts and pictures can be encoded here: not where the vectors are another program's."""
        return self._retriever is not None

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return int(self.index.params["dimension"])

    @property
    def picture_rule(self) -> PictureRule:
        """How the model sees a picture; only where `encodes`."""
        return self.retriever.model.picture_rule

    @property
    def about(self) -> dict[str, str | None]:
        """What an answer says of the model."""
        return {"name": self.name, "digest": self.index.model_digest, "version": self.version}

    def answer(self, queries: Sequence[Query]) -> list[QueryAnswer]:
        """Answer queries that came together; each as if it had come alone, but for rounding.

        Several threads may ask at once where torch has one. The vector of a query for no hits is the library's,
        float32.
        """
        start = perf_counter()
        vectors = np.empty((len(queries), self.dim), np.float32)
        searching = [row for row, query in enumerate(queries) if query.k]
        others = [row for row, query in enumerate(queries) if not query.k]
        for encode, asking in ((self._encode_searched, searching), (self._encode_alone, others)):
            if asking:
                vectors[asking] = self._encode([queries[row].asked for row in asking], encode)
        for row in searching:
            if any(marks := queries[row].marks):
                more, less = (self.index.read_vectors("images", np.array(rows, np.int64)) for rows in marks)
                vectors[row] = move_query(vectors[row], more, less)
        encoded = perf_counter()
        groups: dict[tuple[str, ItemFilter], list[int]] = defaultdict(list)
        for row, query in enumerate(queries):
            if query.k:
                groups[query.of, query.keep].append(row)
        found, totals = dict.fromkeys(range(len(queries)), NO_HITS), dict.fromkeys(range(len(queries)), 0)
        for (side, keep), rows in groups.items():
            hits = self.store.search(side, vectors[rows], max(queries[row].k for row in rows), keep)
            found |= dict(zip(rows, hits, strict=True))
            totals |= dict.fromkeys(rows, self.store.count(side, keep))
        searched = perf_counter()
        answers = []
        for row, query in enumerate(queries):
            cut = Hits(found[row].rows[: query.k], found[row].cosines[: query.k])
            answers.append(QueryAnswer(cut, totals[row], vectors[row], encoded - start, searched - encoded))
        return answers

    def encode(self, asked: Sequence[Asked]) -> Vectors:
        """Return unit vectors [Q, D] of texts, squares and given vectors; one of the index stays as it is."""
        return self._encode(asked, self._encode_alone)

    def _encode_alone(self, texts: list[str]) -> Vectors:
        return self.retriever.encode_texts(texts)

    def _encode_searched(self, texts: list[str]) -> Vectors:
        assert self._search_model is not None
        return embed_few_captions(self._search_model, self.retriever.tokenizer, texts, shares_cores=True)

    def _encode(self, asked: Sequence[Asked], encode_texts: Callable[[list[str]], Vectors]) -> Vectors:
        vectors = np.empty((len(asked), self.dim), np.float32)
        texts: dict[int, str] = {}
        squares: dict[int, Pixels] = {}
        for row, one in enumerate(asked):
            if isinstance(one, str):
                texts[row] = one
            elif isinstance(one, GivenVector):
                vectors[row] = map_query(self._heads, one.kind, one.vector)
            elif one.ndim == SQUARE_NDIM:
                squares[row] = one.astype(np.uint8, copy=False)
            else:
                vectors[row] = one
        if texts:
            vectors[list(texts)] = encode_texts(list(texts.values()))
        if squares:
            vectors[list(squares)] = embed_images(self.retriever.model, squares.values(), ENCODE_BATCH)
        return vectors

    def reorder(self, direction: str, query: Any, hits: Hits) -> Reordered:
        """Return the new order of hits for a text (t2i), or for a square or an item of the index (i2t)."""
        assert self.reader is not None
        side = "images" if direction == "t2i" else "texts"
        items = self.index.read_rows(side, hits.rows)
        decode = partial(_decode, self.data, self.picture_rule)
        if direction == "t2i":
            sides = PairSides([_name_place(one) for one in items], decode, [query])
        else:
            asked = query if isinstance(query, np.ndarray) else _name_place(query)
            sides = PairSides([asked], decode, [one["caption"] for one in items])
        weight = self.choices[direction].weight
        return reorder_found(self.reader.reranker, self.reader.tokenizer, sides, hits.rows, hits.cosines, weight)

    def estimate_probability(
        self, direction: str, hits: Hits, total: int, reordered: Reordered | None
    ) -> float | None:
        """Return how likely the first of `total` items is right; None where nobody measured (alike pictures)."""
        order = "cosine" if reordered is None else "reranked"
        curve = self._curves.get(direction, {}).get(order)
        if curve is None or not len(hits.rows):
            return None
        growth, score = self._growth[direction], hits.cosines[0] if reordered is None else reordered.score[0]
        return curve.probability(float(score), growth.shift(max(total, growth.gallery)))  # fewer make it no surer

    def fold(self, text: str) -> str:
        """Return a text in simplified characters."""
        (simple,) = simplify_captions([text])
        return simple

    def close(self) -> None:
        """Let go of the store."""
        self.store.drop()


def _name_place(item: dict[str, Any]) -> dict[str, Any]:
    return {"image_id": item["image"]} | {name: item[name] for name in ("shard", "offset", "size")}


def _decode(data: Path, rule: PictureRule, image: Any) -> Pixels:
    return image if isinstance(image, np.ndarray) else decode_row(data, rule, image)
