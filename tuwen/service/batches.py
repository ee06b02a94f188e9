"""Requests that arrive together are computed together: a queue, a short window, one thread that works."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


class Batcher(Generic[_Job, _Result]):
    """Gather jobs of many requests into batches; while one is computed, the next fills by itself."""

    def __init__(
        self, work: Callable[[Sequence[_Job]], Sequence[_Result]], size: int, wait_seconds: float
    ) -> None:
        """work: computes a result for each job, in a thread of its own. wait_seconds: for a batch to fill."""
        self._work, self._size, self._wait_seconds = work, size, wait_seconds
        self._waiting: deque[tuple[_Job, asyncio.Future[_Result]]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "batch")
        self._task: asyncio.Task[None] | None = None

    async def submit(self, job: _Job) -> _Result:
        """Return the result of a job; one whose request was given up is not computed."""
        self._task = self._task or asyncio.create_task(self._run())
        future: asyncio.Future[_Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, future))
        self._arrived.set()
        return await future

    async def close(self) -> None:
        """End once nothing waits any more; nothing is submitted after it."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            if len(self._waiting) < self._size and self._wait_seconds:
                await asyncio.sleep(self._wait_seconds)
            taken = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            if not self._waiting:
                self._arrived.clear()
            batch = [(job, future) for job, future in taken if not future.done()]
            if not batch:
                continue
            try:
                results = await loop.run_in_executor(self._thread, self._work, [job for job, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
