"""The model in service: loaded while the service says already that it lives, and replaced without a pause.

A new one is loaded beside the old one and tried; only then do requests go to it. Requests that the old one began
end there, and it is let go when the last of them has ended.
"""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tuwen.core.environment import locate_cache
from tuwen.core.errors import UserError
from tuwen.data.formats.manifest import MANIFEST, hash_file
from tuwen.service.answers import LiveAnswers
from tuwen.service.engine import Engine, Query
from tuwen.service.index.build import choose_answering_model
from tuwen.service.index.item_index import ItemIndex, MismatchError
from tuwen.service.index.store import ItemFilter
from tuwen.service.messages import RequestError
from tuwen.service.pictures import Thumbnails
from tuwen.service.search_metrics import SearchMetrics
from tuwen.service.settings import SearchSettings

MODELS_FOLDER = Path("models")
PROBES = 4  # items of each side that are embedded anew
LEAST_COSINE = 0.99  # of an item's vector and the one that the model gives it now
DRAIN_SECONDS = 0.1
_Result = TypeVar("_Result")
_log = logging.getLogger("tuwen.search")


class LiveModel:
    """What answers now."""

    def __init__(self, settings: SearchSettings, metrics: SearchMetrics, fail: Callable[[str], None]) -> None:
        """fail: is told why where the first model cannot be loaded."""
        self._settings, self._metrics, self._fail = settings, metrics, fail
        self._current: LiveAnswers | None = None
        self._thumbnails = Thumbnails(settings.data)
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        """Begin to load, and to look for new champions after that."""
        self._begin(self._load_first())

    @asynccontextmanager
    async def use(self) -> AsyncIterator[LiveAnswers]:
        """Yield what answers now, which stays until the block ends. Raises RequestError before it is loaded."""
        if (answers := self._current) is None:
            words = "the model is being loaded; try again in a moment"
            raise RequestError(503, "not_ready", words, {"Retry-After": "2"})
        answers.users += 1
        try:
            yield answers
        finally:
            answers.users -= 1

    async def reload(self) -> dict[str, Any]:
        """Load model and index anew, try them, and let them take over; return what answers then.

        Raises RequestError where they cannot be loaded or fail the trial: the old ones answer on. Who gives up
        waiting does not end it: the thread that loads cannot be stopped, and no other load begins beside it.
        """
        try:
            engine = await self._replace()
        except UserError as error:
            raise RequestError(409, "not_taken", f"the model in service answers on: {error}") from None
        return {"model": engine.about, "index": {"digest": engine.index.digest}}

    async def close(self) -> None:
        """End what answers, once its requests have ended."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._current is not None:
            await self._current.close()

    async def _replace(self) -> Engine:
        return await asyncio.shield(self._begin(self._load_next()))

    async def _load_next(self) -> Engine:
        async with self._turn:
            try:
                engine = await asyncio.to_thread(load_checked_engine, self._settings)
            except UserError as error:
                self._metrics.swaps.labels("refused").inc()
                _log.warning("not taken: %s", error)
                raise
            self._take(engine)
        return engine

    async def _load_first(self) -> None:
        try:
            self._take(await asyncio.to_thread(load_checked_engine, self._settings))
            freeze_what_stays()
        except UserError as error:
            self._fail(str(error))
            return
        except Exception as error:  # a service that can never be ready must not stay
            _log.exception("the model cannot be loaded")
            self._fail(f"the model cannot be loaded: {error!r}")
            return
        if self._settings.is_registered and self._settings.poll_seconds:
            await self._follow_champion()

    async def _follow_champion(self) -> None:
        """Reload as often as the address means another version, or its index was made, until they are taken.

        What is not of each other is tried once; what else fails may be there at the next look.
        """
        found = refused = self._describe_current()
        while True:
            await asyncio.sleep(self._settings.poll_seconds)
            try:
                found = await asyncio.to_thread(describe_wanted, self._settings)
                if found not in (refused, self._describe_current()):
                    await self._replace()
            except MismatchError:
                refused = found
            except UserError as error:
                _log.warning("champion not taken, it is looked up again: %s", error)
            except Exception:  # the next look may find what this one did not
                _log.exception("champion not taken, it is looked up again")

    def _describe_current(self) -> tuple[str | None, str]:
        assert self._current is not None
        engine = self._current.engine
        return engine.version, engine.index.digest

    def _take(self, engine: Engine) -> None:
        old, self._current = self._current, LiveAnswers(engine, self._settings, self._metrics, self._thumbnails)
        self._metrics.swaps.labels("taken").inc()
        counts = {side: len(table) for side, table in engine.index.tables.items()}
        for side, count in counts.items():
            self._metrics.items.labels(side).set(count)
        named = engine.name if engine.version is None else f"{engine.name}, version {engine.version}"
        _log.info("ready: %s, %s", named, ", ".join(f"{count} {side}" for side, count in counts.items()))
        if old is not None:
            self._begin(_end_when_idle(old))

    def _begin(self, work: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _end_when_idle(answers: LiveAnswers) -> None:
    """Let go of what answered before, when the last of its requests has ended."""
    try:
        while answers.users:
            await asyncio.sleep(DRAIN_SECONDS)
    finally:
        try:
            await answers.close()
        finally:
            del answers
            freeze_what_stays()


def freeze_what_stays() -> None:
    """Keep modules and model out of the garbage collector's later rounds, each of which halts all answers."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def describe_wanted(settings: SearchSettings) -> tuple[str, str]:
    """Return the version that the address means now, and the digest of the index as it lies there."""
    from tuwen.tracking.published import find_published  # MLflow takes its time and memory

    place = settings.index / MANIFEST
    return find_published(settings.model).version, hash_file(place) if place.is_file() else ""


def load_checked_engine(settings: SearchSettings) -> Engine:
    """Load the model and its index, and try them.

    Raises UserError where they cannot be had, of which MismatchError where they are not of each other.
    """
    version: str | None = None
    if settings.is_registered:
        from tuwen.tracking.published import fetch_published, find_published, remove_superseded

        published = find_published(settings.model)
        name, version = published.name, published.version
        model = fetch_published(published, locate_cache("search"))
    else:
        model = Path(settings.model) if settings.model else choose_answering_model(MODELS_FOLDER)
        name = model.name
    engine = Engine(model, name, version, ItemIndex(settings.index), settings.data, settings.precision)
    try:
        check_engine(engine)
        engine.store.take_over()
        if settings.is_registered:
            remove_superseded(model)
    except BaseException:
        engine.close()
        raise
    return engine


def check_engine(engine: Engine) -> None:
    """Embed a few texts of the index anew and search by them. Raises MismatchError where others come out."""
    index = engine.index
    count = len(index.tables["texts"])
    rows = np.linspace(0, count - 1, min(PROBES, count)).astype(int)
    texts = [index.read_row("texts", int(row))["caption"] for row in rows]
    asked = texts if engine.encodes else list(index.read_vectors("texts", rows))
    answers = engine.answer([Query(one, side, 1, ItemFilter()) for one in asked for side in index.tables])
    vectors = np.stack([answer.vector for answer in answers[:: len(index.tables)]])
    cosines = (vectors * index.read_vectors("texts", rows)).sum(axis=1)
    if not (cosines >= LEAST_COSINE).all() or not all(len(answer.hits.rows) for answer in answers):
        raise MismatchError(
            f"{index.folder}: the model gives {texts[int(cosines.argmin())]!r} another vector than the index has "
            f"(cosine {cosines.min():.3f}); make the index anew: `dvc repro index`"
        )
