"""Requests that arrive together are computed together: a queue, a short window, and threads that work."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


class Batcher(Generic[_Job, _Result]):
    """Gather jobs of many requests into batches; while some are computed, the next fills by itself.

    Threads that are free share what waits, so that no core is idle while another has a batch.
    """

    def __init__(
        self,
        work: Callable[[Sequence[_Job]], Sequence[_Result]],
        size: int,
        wait_seconds: float,
        threads: int = 1,
    ) -> None:
        """work: computes a result for each job, in one of `threads`. wait_seconds: for a batch to fill."""
        self._work, self._size, self._wait_seconds = work, size, wait_seconds
        self._waiting: deque[tuple[_Job, asyncio.Future[_Result]]] = deque()
        self._arrived = asyncio.Event()
        self._threads = ThreadPoolExecutor(threads, "batch")
        self._count = self._free = threads
        self._tasks: list[asyncio.Task[None]] = []

    async def submit(self, job: _Job) -> _Result:
        """Return the result of a job; one whose request was given up is not computed."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(self._run()) for _ in range(self._count)]
        future: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, future))
        self._arrived.set()
        return await future

    async def close(self) -> None:
        """End once nothing waits any more; nothing is submitted after it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)  # what was given up may still be computed

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            if len(self._waiting) < self._size and self._wait_seconds:
                await asyncio.sleep(self._wait_seconds)
            share = -(-len(self._waiting) // self._free)
            taken = [self._waiting.popleft() for _ in range(min(self._size, share))]
            if not self._waiting:
                self._arrived.clear()
            if batch := [(job, future) for job, future in taken if not future.done()]:
                self._free -= 1
                try:
                    await self._compute(batch)
                finally:
                    self._free += 1

    async def _compute(self, batch: list[tuple[_Job, asyncio.Future[_Result]]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._threads, self._work, [job for job, _ in batch])
            found = list(zip(batch, results, strict=True))
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in found:
            if not future.done():
                future.set_result(result)
