"""What arrives together is computed together; a fault or a client that left is nobody else's."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from tuwen.service.batches import Batcher


def test_jobs_that_wait_are_one_batch_and_the_next_fills_meanwhile() -> None:
    sizes, go = list[int](), threading.Event()

    def work(jobs: Sequence[int]) -> list[int]:
        go.wait(20)
        sizes.append(len(jobs))
        return [2 * job for job in jobs]

    async def ask() -> list[int]:
        batcher: Batcher[int, int] = Batcher(work, 4, 0.0)
        first = asyncio.create_task(batcher.submit(0))
        while not batcher_is_busy(batcher):
            await asyncio.sleep(0)
        others = [asyncio.create_task(batcher.submit(n)) for n in range(1, 8)]
        await asyncio.sleep(0)
        go.set()
        results = await asyncio.gather(first, *others)
        await batcher.close()
        return results

    assert asyncio.run(ask()) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert sizes == [1, 4, 3]


def test_threads_that_are_free_share_what_waits_and_compute_at_once() -> None:
    sizes, both = list[int](), threading.Barrier(2)

    def work(jobs: Sequence[int]) -> list[int]:
        both.wait(20)  # breaks where the other thread has nothing to do
        sizes.append(len(jobs))
        return [2 * job for job in jobs]

    async def ask() -> list[int]:
        batcher: Batcher[int, int] = Batcher(work, 16, 0.0, threads=2)
        results = await asyncio.gather(*(batcher.submit(n) for n in range(7)))
        await batcher.close()
        return results

    assert asyncio.run(ask()) == [0, 2, 4, 6, 8, 10, 12]
    assert sorted(sizes) == [3, 4]


def batcher_is_busy(batcher: Batcher[int, int]) -> bool:
    """Whether the first batch was taken."""
    return bool(batcher._tasks) and not batcher._waiting


def test_a_fault_reaches_its_own_batch_and_the_next_is_computed() -> None:
    def work(jobs: Sequence[int]) -> list[float]:
        return [1 / job for job in jobs]

    async def ask() -> float:
        batcher: Batcher[int, float] = Batcher(work, 4, 0.001)
        with pytest.raises(ZeroDivisionError):
            await batcher.submit(0)
        result = await batcher.submit(4)
        await batcher.close()
        return result

    assert asyncio.run(ask()) == 0.25


def test_what_nobody_waits_for_any_more_is_not_computed() -> None:
    computed: list[int] = []

    def work(jobs: Sequence[int]) -> list[int]:
        computed.extend(jobs)
        return list(jobs)

    async def ask() -> None:
        batcher: Batcher[int, int] = Batcher(work, 4, 0.05)
        gone, stays = asyncio.create_task(batcher.submit(1)), asyncio.create_task(batcher.submit(2))
        await asyncio.sleep(0)
        gone.cancel()
        assert await stays == 2
        await batcher.close()

    asyncio.run(ask())
    assert computed == [2]
