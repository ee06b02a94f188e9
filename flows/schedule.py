"""Run the stages of a plan; those that do not depend on each other overlap, where there is room and a GPU."""

import concurrent.futures
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.futures import PrefectConcurrentFuture

from flows import cards
from flows.repro import bring_up_to_date
from flows.watch import Children
from tuwen.core.cores import count_cores
from tuwen.core.errors import UserError

CARD_POLL_SECONDS = 1.0  # between two looks whether a card is free: the kernel does not say when a lock ends


def run_stages(graph: Any, reasons: Mapping[str, str], folder: Path) -> None:
    """Bring the stages of a plan up to date, one task each, as many at once as `count_parallel_stages` allows.

    After a failure no other stage starts, and those that run are waited for: their outs are worth keeping. Raises
    UserError with the first failure's message.
    """
    if not reasons:
        return
    announced = cards.list_cards()
    schedule = Schedule(graph, reasons, folder, announced, count_parallel_stages(len(announced)))
    try:
        schedule.run()
    finally:
        schedule.stop()
    if schedule.failure is not None:
        raise schedule.failure


def count_parallel_stages(number_of_cards: int) -> int:
    """Return how many stages may run at once: TUWEN_PARALLEL_STAGES, or one more than there are GPUs.

    Two without a GPU, and never more than cores: each stage uses all of them where it can, and its own memory.
    Raises UserError when TUWEN_PARALLEL_STAGES is no number from 1 on.
    """
    number = os.environ.get("TUWEN_PARALLEL_STAGES") or str(min(count_cores(), max(2, number_of_cards + 1)))
    if not number.isdecimal() or int(number) < 1:
        raise UserError(f"TUWEN_PARALLEL_STAGES: a number of stages from 1 on is expected, got {number!r}")
    return int(number)


class Schedule:
    """The stages of a plan that are left, that run, and that have ended."""

    def __init__(
        self, graph: Any, reasons: Mapping[str, str], folder: Path, announced: list[str], limit: int
    ) -> None:
        self.failure: BaseException | None = None
        self._graph, self._reasons, self._folder = graph, reasons, folder
        self._cards, self._limit = announced, limit
        self._left = list(reasons)  # in graph order
        self._running: dict[str, PrefectConcurrentFuture[Any]] = {}
        self._held: dict[str, cards.Held] = {}
        self._done: dict[str, PrefectConcurrentFuture[Any]] = {}
        self._waiting: set[str] = set()  # stages for which no card is free
        self._children = Children()

    def run(self) -> None:
        """Run all, until none is left or, after a failure, none runs."""
        while self._running or (self._left and self.failure is None):
            if self.failure is None:
                self._start_what_can()
            self._wait()

    def stop(self) -> None:
        """End what still runs, which is nothing unless `run` was interrupted."""
        self._children.stop()
        concurrent.futures.wait([future.wrapped_future for future in self._running.values()])
        for held in self._held.values():
            held.release()

    def _start_what_can(self) -> None:
        for stage in list(self._left):
            if len(self._running) == self._limit:
                return
            if any(above in self._running or above in self._left for above in self._graph.predecessors(stage)):
                continue
            held = cards.take_cards(self._cards, cards.count_wanted(self._graph.nodes[stage]["gpu"]))
            if held is not None:
                self._start(stage, held)
            elif stage not in self._waiting:
                self._waiting.add(stage)
                taken = f"all of {', '.join(self._cards)}" if len(self._cards) > 1 else self._cards[0]
                get_run_logger().info(
                    "%s waits for a GPU: %s is held; `fuser %s/*` names by whom", stage, taken, cards.FOLDER
                )

    def _start(self, stage: str, held: cards.Held) -> None:
        self._left.remove(stage)
        self._waiting.discard(stage)
        self._held[stage] = held
        if held.cards:
            get_run_logger().info("%s computes on %s", stage, ", ".join(held.cards))
        gpu = self._graph.nodes[stage]["gpu"]
        future = bring_up_to_date.submit(
            stage,
            self._reasons[stage] == "forced",
            self._folder,
            trains=isinstance(gpu, str),
            children=self._children,
            # Without a slot no card is visible: what is free is for those that hold one.
            environment={cards.VISIBLE_CARDS: ",".join(held.cards)} if self._cards else {},
            locks=held.locks,
            wait_for=[self._done[above] for above in self._graph.predecessors(stage) if above in self._done],
            return_state=False,
        )
        assert isinstance(future, PrefectConcurrentFuture)  # by threads, Prefect's default
        self._running[stage] = future

    def _wait(self) -> None:
        """Wait until a stage ends, or while others hold the cards, until it is time to look again."""
        if not self._running:
            time.sleep(CARD_POLL_SECONDS)
            return
        futures = {future.wrapped_future: stage for stage, future in self._running.items()}
        timeout = CARD_POLL_SECONDS if self._waiting else None
        ended, _ = concurrent.futures.wait(futures, timeout, concurrent.futures.FIRST_COMPLETED)
        for future in ended:
            self._note_end(futures[future])

    def _note_end(self, stage: str) -> None:
        self._held.pop(stage).release()
        self._done[stage] = self._running.pop(stage)
        try:
            self._done[stage].wait()
        except Exception as error:  # the server is gone, for one
            failure: BaseException = error
        else:
            state = self._done[stage].state
            if state.is_completed():
                return
            failure = UserError(state.message or f"stage {stage}: {state.name}")
        self.failure = self.failure or failure
        if self._running:
            get_run_logger().warning("%s failed; %s may end first", stage, ", ".join(self._running))
