"""Progress of a long step: a bar on a terminal, plain lines elsewhere. It never stops the work."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
LINE_EVERY_SECONDS = 15.0
OF_TOTAL = r"(?P<done>\d+)/(?P<total>[1-9]\d*)"
COUNT = re.compile(rf"(?P<label>.+): {OF_TOTAL}")
EPOCH = re.compile(
    r"(?P<label>epoch (?P<epoch>\d+)/(?P<epochs>[1-9]\d*)): (?:(?P<done>\d+)/(?P<total>[1-9]\d*)|.*)"
)


def say(line: str, *, error: bool = False) -> None:
    """Print a line at once, on stderr for an `error`; on a full disk it is lost, and so are all later ones."""
    stream = sys.stderr if error else sys.stdout
    try:
        print(line, file=stream, flush=True)
    except OSError:
        # the rest of the buffer would fail once more as Python ends, and turn its exit status into an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Extent:
    """How much there is to read, in `unit`, and how much of it was: kept by who reads, shown by `follow`."""

    def __init__(self) -> None:
        self.begin("", 0)

    def begin(self, unit: str, total: int) -> None:
        """Start anew with what is to be read."""
        self.unit, self.total, self.done = unit, total, 0


def follow(
    items: Iterable[Item], label: str, total: int | Extent, count: Callable[[Item], int] = lambda item: 1
) -> Iterator[Item]:
    """Yield `items` and show how many of `total` are done.

    total: of what `count` counts; or an `Extent`, where only what is read can be counted before: then both are
    shown. count: how many an item holds, as a batch of pictures holds many.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress

        columns = (*Progress.get_default_columns(), MofNCompleteColumn())
        with Progress(*columns, console=Console(stderr=True)) as bars:
            bar, counted = bars.add_task(label, total=None if isinstance(total, Extent) else total), 0
            for item in items:
                yield item
                counted += count(item)
                title, done, whole = _measure(label, counted, total)
                bars.update(bar, description=title, completed=done, total=whole or None)
        return
    last, counted = time.monotonic(), 0
    for item in items:
        yield item
        counted += count(item)
        if time.monotonic() - last > LINE_EVERY_SECONDS:
            last = time.monotonic()
            title, done, whole = _measure(label, counted, total)
            say(f"{title}: {done}/{whole}", error=True)


def _measure(label: str, counted: int, total: int | Extent) -> tuple[str, int, int]:
    """Return the label, what is done and the whole of it."""
    if isinstance(total, Extent):
        return f"{label} {counted}, {total.unit}", total.done, total.total
    return label, counted, total


def parse_progress(line: str) -> tuple[str, float] | None:
    """Return the label of a printed line of progress and the share of the work that is done, from 0 to 1.

    `decode: 30/60` is half. In a training the share is of all epochs: `epoch 3/4: 30/60` is printed within an
    epoch, `epoch 3/4: loss 0.5` after it. Any other line gives None.
    """
    if match := EPOCH.fullmatch(line):
        whole_epochs = int(match["epoch"]) - (match["done"] is not None)
        part = int(match["done"]) / int(match["total"]) if match["done"] else 0.0
        return match["label"], min((whole_epochs + part) / int(match["epochs"]), 1.0)
    if match := COUNT.fullmatch(line):
        return match["label"], min(int(match["done"]) / int(match["total"]), 1.0)
    return None


class Pace:
    """A stopwatch for a loop over batches: how fast it goes, and what share of its time it waits for data."""

    def __init__(self) -> None:
        self._began, self._waited_seconds, self._batches = time.perf_counter(), 0.0, 0

    def time_batches(self, batches: Iterator[Item]) -> Iterator[Item]:
        """Yield the same batches, and measure how long the loop waits for each."""
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self._waited_seconds += time.perf_counter() - started
            if batch is None:
                return
            self._batches += 1
            yield batch

    def compute_speeds(self, batch_size: int) -> dict[str, float]:
        """Return `pairs_per_second` and `data_wait_share` up to now; nothing before the first batch."""
        if not self._batches:
            return {}
        seconds = time.perf_counter() - self._began
        return {
            "pairs_per_second": self._batches * batch_size / seconds,
            "data_wait_share": self._waited_seconds / seconds,
        }
