"""Requests as they are answered: the steps of each, between the event loop and the threads that compute."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import Any, TypeAlias, TypeVar

import numpy as np

from tuwen.core.cores import count_cores
from tuwen.core.errors import UserError
from tuwen.model.device import choose_device
from tuwen.retrieval.attention.entity_maps import map_entities
from tuwen.retrieval.rerank import Reordered
from tuwen.retrieval.retriever import read_square
from tuwen.service.batches import Batcher
from tuwen.service.describe import SCORE_DIGITS, describe_hits, describe_maps
from tuwen.service.engine import Engine, GivenVector, Query, QueryAnswer
from tuwen.service.feedback import Feedback, remove_rows
from tuwen.service.index.store import Hits, ItemFilter
from tuwen.service.messages import AttentionBody, EmbedBody, RequestError, SearchBody, make_invalid
from tuwen.service.pictures import SIZES_PX, Thumbnails, make_tag, read_picture
from tuwen.service.read_request import decode_upload, read_base64
from tuwen.service.search_metrics import SearchMetrics, StageTimes
from tuwen.service.settings import SearchSettings

DECODERS = 2  # threads that decode uploads and draw thumbnails
DIRECTION = {("text", "images"): "t2i", ("image", "texts"): "i2t"}  # what a re-ranker judges
ItemPlace: TypeAlias = tuple[str, int]  # of an item: its side and its row
Returned = TypeVar("Returned")
_log = logging.getLogger("tuwen.search")


class LiveAnswers:
    """An engine in service: its queue, its threads, and how many requests use it now."""

    def __init__(
        self, engine: Engine, settings: SearchSettings, metrics: SearchMetrics, thumbnails: Thumbnails
    ) -> None:
        self.engine, self.users, self._thumbnails = engine, 0, thumbnails
        self._settings, self._metrics = settings, metrics
        wait_seconds, threads = settings.batch_wait_ms / 1000, count_cores() if choose_device() == "cpu" else 1
        self._batches = Batcher(self._compute, settings.batch_size, wait_seconds, threads)
        self._slow = ThreadPoolExecutor(1, "rerank")
        self._decoders = ThreadPoolExecutor(DECODERS, "decode")

    async def search(self, body: SearchBody, upload: bytes | None) -> dict[str, Any]:
        """Answer POST /search. Raises RequestError."""
        start, times, engine = perf_counter(), StageTimes(self._metrics), self.engine
        self._check_limits(body)
        kind, asked, own = await self._prepare(body, upload, times)
        of = body.of or ("texts" if kind == "image" else "images")
        marks = self._find_marks(body)
        direction = "" if any(marks) else DIRECTION.get((kind, of), "")
        depth = self._choose_depth(body, direction)
        keep = body.filter.to_filter()
        unwanted = set(marks.less if of == "images" else ())
        if own is not None and own[0] == of:
            unwanted.add(own[1])  # nobody looks for what he asks with
        wanted = max(body.offset + body.k, depth) + len(unwanted)
        answer = await self._submit(Query(asked, of, wanted, keep, marks))
        times.add("encode", answer.encode_seconds)
        times.add("search", answer.search_seconds)
        hits, total = remove_rows(engine.index, of, unwanted, keep, answer.hits, answer.total)
        reordered = await self._reorder(direction, asked, own, hits, depth, times)
        probability = engine.estimate_probability(direction, hits, total, reordered)
        self._metrics.queries.labels(kind, of).inc()
        page = slice(body.offset, body.offset + body.k)
        answers = describe_hits(engine.index, of, hits, reordered, page)
        times.add("total", perf_counter() - start)
        return {
            "of": of,
            "model": engine.about,
            "index": {"digest": engine.index.digest},
            "probability": None if probability is None else round(probability, SCORE_DIGITS),
            "total": total,
            "answers": answers,
            "milliseconds": times.milliseconds,
        }

    async def read_thumbnail(self, image_id: str, size_px: int, known_tags: str) -> tuple[str, bytes | None]:
        """Return the tag of an image's thumbnail and its JPEG, None where the client has it."""
        if size_px not in SIZES_PX:
            raise make_invalid(f"size: one of {', '.join(map(str, SIZES_PX))} is expected, got {size_px}")
        item = self._find_item("images", image_id)
        tag = make_tag(item, size_px)
        if tag in known_tags:
            return tag, None
        with StageTimes(self._metrics).measure("thumbnail"):
            return tag, await self._run(self._decoders, partial(self._thumbnails.make, item, size_px))

    async def map_words(self, body: AttentionBody) -> dict[str, Any]:
        """Answer POST /attention. Raises RequestError."""
        reader, engine = self.engine.reader, self.engine
        reason = reader.reason if reader else "this model has no re-ranker; train one (params.yaml: rerank)"
        if reader is None or reason:
            raise RequestError(404, "no_attention", reason)
        self._check_text(body.text)
        item = self._find_item("images", body.image_id)
        picture = await self._run(self._decoders, partial(read_picture, engine.data, item))
        read = partial(read_square, (body.image_id, picture), engine.picture_rule)
        square = await self._run(self._decoders, read)
        times = StageTimes(self._metrics)
        with times.measure("attention"):
            maps = await self._run(self._slow, partial(map_entities, reader, square, body.text))
        return await self._run(self._decoders, partial(describe_maps, picture, maps))

    async def embed(self, body: EmbedBody) -> dict[str, Any]:
        """Answer POST /embed. Raises RequestError."""
        asked: list[Any] = []
        self._require_encoder("texts" if body.texts else "images")
        for text in body.texts or ():
            self._check_text(text)
            asked.append(text)
        for number, image in enumerate(body.images or ()):
            asked.append(await self._decode(read_base64(image, f"images[{number}]"), f"images[{number}]"))
        queries = (Query(one, "images", 0, ItemFilter()) for one in asked)
        vectors = await asyncio.gather(*map(self._submit, queries))
        return {"model": self.engine.about, "vectors": [answer.vector.tolist() for answer in vectors]}

    async def close(self) -> None:
        """End the threads, once nobody uses them."""
        await self._batches.close()
        for threads in (self._slow, self._decoders):
            await asyncio.to_thread(threads.shutdown)  # what nobody waits for any more may still be computed
        try:
            await asyncio.to_thread(self.engine.close)  # a store on another machine takes its time
        except UserError as error:
            _log.warning("not closed in order: %s", error)

    def _compute(self, queries: Sequence[Query]) -> list[QueryAnswer]:
        self._metrics.batches.observe(len(queries))
        return self.engine.answer(queries)

    def _check_limits(self, body: SearchBody) -> None:
        if body.k > (most := self._settings.max_k):
            raise make_invalid(f"k: {body.k} answers asked, at most {most} are given; page by offset")
        if body.text is not None:
            self._check_text(body.text)

    def _check_text(self, text: str) -> None:
        if len(text) > self._settings.max_chars:
            raise make_invalid(f"text: {len(text)} characters, at most {self._settings.max_chars} are read")

    async def _prepare(
        self, body: SearchBody, upload: bytes | None, times: StageTimes
    ) -> tuple[str, Any, ItemPlace | None]:
        """Return text, image or marks, what is asked as the engine takes it, and its place where it is an item."""
        for kind, numbers in (("text", body.text_vector), ("image", body.image_vector)):
            if numbers is not None:
                return kind, self._read_vector(kind, numbers), None
        if body.text is not None:
            self._require_encoder("text")
            return "text", self.engine.fold(body.text) if body.simplify else body.text, None
        if body.image is not None:
            self._require_encoder("image")
            data = upload if upload is not None else read_base64(body.image)
            with times.measure("decode"):
                return "image", await self._decode(data, "image"), None
        for side, item_id in (("images", body.image_id), ("texts", body.text_id)):
            if item_id is not None:
                row = self._find_row(side, item_id)
                (vector,) = self.engine.index.read_vectors(side, np.array([row]))
                return side.removesuffix("s"), vector, (side, row)
        return "marks", np.zeros(self.engine.dim, np.float32), None

    def _read_vector(self, kind: str, numbers: list[float]) -> GivenVector:
        if len(numbers) != self.engine.dim:
            raise make_invalid(
                f"{kind}_vector: {self.engine.dim} numbers are expected, as the index has, got {len(numbers)}"
            )
        return GivenVector(kind, np.asarray(numbers, np.float32))

    def _require_encoder(self, name: str) -> None:
        """Raise RequestError where only another program can encode what is asked."""
        if not self.engine.encodes:
            raise make_invalid(
                f"{name}: the index holds vectors of another program, and only that can encode a new text or "
                "picture; send its vector as text_vector or image_vector, or ask by text_id or image_id"
            )

    def _choose_depth(self, body: SearchBody, direction: str) -> int:
        """Return how many hits are re-ranked, 0 where none are. Raises RequestError where none can be."""
        if not body.rerank:
            return 0
        if not self.engine.reader:
            raise make_invalid("rerank: this model has no re-ranker; ask without it")
        if body.text_vector or body.image_vector or body.more or body.less:
            raise make_invalid("rerank: a re-ranker reads words and patches, not a vector or marks; ask without")
        if not direction:
            raise make_invalid(
                "rerank: a re-ranker judges a picture and a text; ask for the other kind, or without"
            )
        return self.engine.choices[direction].k

    async def _reorder(
        self,
        direction: str,
        asked: Any,
        own: ItemPlace | None,
        hits: Hits,
        depth: int,
        times: StageTimes,
    ) -> Reordered | None:
        if not depth or not len(hits.rows):
            return None
        query = asked
        if own is not None:
            item = self.engine.index.read_row(*own)
            query = item["caption"] if own[0] == "texts" else item
        first = Hits(hits.rows[:depth], hits.cosines[:depth])
        with times.measure("rerank"):
            return await self._run(self._slow, partial(self.engine.reorder, direction, query, first))

    def _find_marks(self, body: SearchBody) -> Feedback:
        rows = ({self._find_row("images", one) for one in ids} for ids in (body.more, body.less))
        return Feedback(*(tuple(sorted(side)) for side in rows))

    def _find_row(self, side: str, item_id: str) -> int:
        row = self.engine.index.find_row(side, item_id)
        if row is None:
            raise RequestError(404, "unknown_item", f"the index has no {side.removesuffix('s')} of this id")
        return row

    def _find_item(self, side: str, item_id: str) -> dict[str, Any]:
        return self.engine.index.read_row(side, self._find_row(side, item_id))

    async def _decode(self, data: bytes, name: str) -> Any:
        work = partial(decode_upload, data, self.engine.picture_rule, self._settings.max_pixels, name)
        return await self._run(self._decoders, work)

    async def _submit(self, query: Query) -> QueryAnswer:
        try:
            return await self._batches.submit(query)
        except UserError as error:
            raise _make_unanswered(error) from None

    async def _run(self, threads: ThreadPoolExecutor, work: Callable[[], Returned]) -> Returned:
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        except UserError as error:
            raise _make_unanswered(error) from None


def _make_unanswered(error: UserError) -> RequestError:
    return RequestError(503, "not_answered", f"{error}")
