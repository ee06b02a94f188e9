"""The model in service, and what it does where loading another fails, is given up, or takes its time."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tuwen.core.errors import UserError
from tuwen.service import live as live_module
from tuwen.service.engine import Engine, Query, QueryAnswer
from tuwen.service.index.exact import ExactStore
from tuwen.service.index.item_index import MismatchError
from tuwen.service.live import LiveModel, load_checked_engine
from tuwen.service.messages import EmbedBody, RequestError, SearchBody
from tuwen.service.search_metrics import SearchMetrics
from tuwen.service.settings import SearchSettings


def make_settings(root: Path) -> SearchSettings:
    return SearchSettings(model=str(root / "models/reranked"), index=root / "index", data=root / "data")


def make_live(root: Path) -> LiveModel:
    return LiveModel(make_settings(root), SearchMetrics(), pytest.fail)


@pytest.fixture
def _collected() -> Iterator[None]:
    """The collector as it was."""
    yield
    gc.unfreeze()


async def is_let_go(*held: weakref.ref[Any]) -> bool:
    """Whether all of these are gone within ten seconds."""
    for _ in range(100):
        if not any(one() for one in held):
            return True
        await asyncio.sleep(0.1)
    return False


@pytest.mark.usefixtures("_collected")
def test_what_stays_is_spared_the_collector_and_a_model_that_is_replaced_is_let_go_of(built: Path) -> None:
    async def replace() -> None:
        live = make_live(built)
        live.start()
        while live._current is None:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0)
        assert gc.get_freeze_count() > 0
        async with live.use() as answers:
            old = weakref.ref(answers.engine), weakref.ref(answers.engine.retriever.model)
            del answers
        await live.reload()
        assert await is_let_go(*old)
        await live.close()

    asyncio.run(replace())


def test_thumbnails_outlive_the_model_that_they_were_drawn_for(built: Path) -> None:
    async def draw_and_replace() -> None:
        live, drawn = make_live(built), []
        for _ in range(2):
            await live.reload()
            async with live.use() as answers:
                image_id = answers.engine.index.read_row("images", 0)["id"]
                drawn.append((await answers.read_thumbnail(image_id, 160, ""))[1])
        assert drawn[0] is drawn[1]
        await live.close()

    asyncio.run(draw_and_replace())


@pytest.mark.usefixtures("_collected")
def test_a_replaced_model_is_let_go_of_once_what_was_given_up_has_ended(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, may_end, answer = threading.Event(), threading.Event(), Engine.answer

    def answer_slowly(engine: Engine, queries: Sequence[Query]) -> list[QueryAnswer]:
        if queries[0].asked == "红圆":
            started.set()
            assert may_end.wait(60)
        return answer(engine, queries)

    monkeypatch.setattr(Engine, "answer", answer_slowly)

    async def give_up_and_replace() -> None:
        live = make_live(built)
        await live.reload()
        async with live.use() as answers:
            asked = asyncio.create_task(answers.search(SearchBody(text="红圆"), None))
            assert await asyncio.to_thread(started.wait, 60)
            asked.cancel()
            await asyncio.wait([asked])
            old = weakref.ref(answers.engine)
            del answers, asked
        await live.reload()
        await asyncio.sleep(0.5)
        assert old() is not None
        may_end.set()
        assert await is_let_go(old)
        await live.close()

    asyncio.run(give_up_and_replace())


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


class GoneStore:
    """A store on a machine that went away."""

    def search(self, *asked: Any) -> Any:
        raise UserError("TUWEN_MILVUS_URI: Milvus says: no answer")

    def drop(self) -> None:
        raise UserError("TUWEN_MILVUS_URI: Milvus says: no answer")


def test_a_store_that_went_away_is_told_and_does_not_keep_the_service_from_its_end(
    built: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask() -> None:
        live = make_live(built)
        await live.reload()
        async with live.use() as answers:
            answers.engine.store = GoneStore()  # type: ignore[assignment]
            assert len((await answers.embed(EmbedBody(texts=["海边的日落"])))["vectors"]) == 1
            with pytest.raises(RequestError, match="no answer") as refused:
                await answers.search(SearchBody(text="海边的日落"), None)
            assert (refused.value.status, refused.value.code) == (503, "not_answered")
        await live.close()

    asyncio.run(ask())
    assert "not closed in order: TUWEN_MILVUS_URI" in caplog.text


def test_a_store_takes_over_only_once_the_model_was_tried(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(ExactStore, "take_over", lambda store: told.append("taken over"))
    settings = make_settings(built)
    load_checked_engine(settings).close()
    assert told == ["taken over"]
    monkeypatch.setattr(live_module, "LEAST_COSINE", 1.1)
    with pytest.raises(UserError, match="another vector than the index has"):
        load_checked_engine(settings)
    assert told == ["taken over"]


def test_a_new_champion_is_tried_until_it_is_taken_or_refused(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Exception | tuple[str, str]] = [UserError("out of reach"), OSError("broken pipe")]
    looks += [("2", "a")] * 4 + [("3", "b")] * 3
    faults = [UserError("no index yet"), OSError("no memory"), MismatchError("another model")]
    engine, tried, taken = load_checked_engine(make_settings(built)), list[str](), threading.Event()

    def describe(settings: SearchSettings) -> tuple[str, str]:
        found = looks.pop(0) if len(looks) > 1 else looks[0]
        if isinstance(found, Exception):
            raise found
        tried.append(found[0])
        return found

    def load(settings: SearchSettings) -> Engine:
        if not tried:
            return engine
        tried[-1] += " loaded"
        if faults:
            raise faults.pop(0)
        taken.set()
        return engine

    monkeypatch.setattr(live_module, "describe_wanted", describe)
    monkeypatch.setattr(live_module, "load_checked_engine", load)

    async def follow() -> None:
        settings = make_settings(built).model_copy(
            update={"model": "models:/tuwen@champion", "poll_seconds": 0.01}
        )
        live = LiveModel(settings, SearchMetrics(), pytest.fail)
        live.start()
        assert await asyncio.to_thread(taken.wait, 60)
        await live.close()

    asyncio.run(follow())
    assert tried[:5] == ["2 loaded", "2 loaded", "2 loaded", "2", "3 loaded"]
