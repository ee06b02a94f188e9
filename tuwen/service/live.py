"""The model in service: loaded while the service answers already that it lives, and replaced without a pause."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tuwen.core.errors import UserError
from tuwen.service.answers import LiveAnswers
from tuwen.service.engine import Engine
from tuwen.service.index.build import choose_answering_model
from tuwen.service.index.item_index import ItemIndex
from tuwen.service.request_error import RequestError
from tuwen.service.search_metrics import SearchMetrics
from tuwen.service.settings import SearchSettings

MODELS_FOLDER = Path("models")
_log = logging.getLogger("tuwen.search")


class LiveModel:
    """What answers now."""

    def __init__(self, settings: SearchSettings, metrics: SearchMetrics, fail: Callable[[str], None]) -> None:
        """fail: is told why where the first model cannot be loaded."""
        self._settings, self._metrics, self._fail = settings, metrics, fail
        self._current: LiveAnswers | None = None
        self._loading: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to load."""
        self._loading = asyncio.create_task(self._load_first())

    @asynccontextmanager
    async def use(self) -> AsyncIterator[LiveAnswers]:
        """Yield what answers now, which stays until the block ends. Raises RequestError before it is loaded."""
        if (answers := self._current) is None:
            raise RequestError(
                503, "not_ready", "the model is being loaded; try again in a moment", {"Retry-After": "2"}
            )
        answers.users += 1
        try:
            yield answers
        finally:
            answers.users -= 1

    async def reload(self) -> dict[str, Any]:
        """Load model and index anew and let them take over; return what answers then."""
        raise RequestError(404, "unknown", "not yet")

    async def close(self) -> None:
        """End what answers, once its requests have ended."""
        if self._loading is not None:
            self._loading.cancel()
        if self._current is not None:
            await self._current.close()

    async def _load_first(self) -> None:
        try:
            engine = await asyncio.to_thread(load_engine, self._settings)
        except UserError as error:
            self._fail(str(error))
            return
        self._take(engine)

    def _take(self, engine: Engine) -> None:
        self._current = LiveAnswers(engine, self._settings, self._metrics)
        for side, table in engine.index.tables.items():
            self._metrics.items.labels(side).set(len(table))
        _log.info(
            "ready: %s, %d images, %d texts", engine.name, *(len(one) for one in engine.index.tables.values())
        )


def load_engine(settings: SearchSettings) -> Engine:
    """Load the model and its index. Raises UserError where they are missing, broken or not of each other."""
    index = ItemIndex(settings.index)
    model = Path(settings.model) if settings.model else choose_answering_model(MODELS_FOLDER)
    return Engine(model, model.name, None, index, settings.data)
