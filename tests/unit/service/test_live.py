"""The model in service, and what it does where loading another fails, is given up, or takes its time."""

import asyncio
import threading
from pathlib import Path

import pytest

from tuwen.service import live as live_module
from tuwen.service.engine import Engine
from tuwen.service.live import LiveModel, load_checked_engine
from tuwen.service.search_metrics import SearchMetrics
from tuwen.service.settings import SearchSettings


def make_live(root: Path) -> LiveModel:
    settings = SearchSettings(model=str(root / "models/reranked"), index=root / "index", data=root / "data")
    return LiveModel(settings, SearchMetrics(), pytest.fail)


def test_a_load_whose_caller_gave_up_takes_over_before_another_begins(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, may_end, loads = threading.Event(), threading.Event(), []

    def load(settings: SearchSettings) -> Engine:
        loads.append(len(loads))
        started.set()
        assert may_end.wait(60)
        return load_checked_engine(settings)

    monkeypatch.setattr(live_module, "load_checked_engine", load)

    async def give_up_and_ask_again() -> None:
        live = make_live(built)
        first = asyncio.create_task(live.reload())
        await asyncio.to_thread(started.wait, 60)
        first.cancel()
        await asyncio.wait([first])
        second = asyncio.create_task(live.reload())
        await asyncio.sleep(0)  # it has come to the lock
        await asyncio.sleep(0)
        assert loads == [0]
        may_end.set()
        await second
        assert loads == [0, 1]
        async with live.use() as answers:
            assert answers.engine.name == "reranked"
        await live.close()

    asyncio.run(give_up_and_ask_again())
