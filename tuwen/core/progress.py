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


def follow(
    items: Iterable[Item], label: str, total: int | None, count: Callable[[Item], int] = lambda item: 1
) -> Iterator[Item]:
    """Yield `items` and show how many of `total` are done; total: None where it is unknown.

    count: how many of what `total` counts an item holds, as a batch of pictures holds many.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress

        columns = (*Progress.get_default_columns(), MofNCompleteColumn())
        with Progress(*columns, console=Console(stderr=True)) as bars:
            bar = bars.add_task(label, total=total)
            for item in items:
                yield item
                bars.advance(bar, count(item))
        return
    last, done = time.monotonic(), 0
    of_total = "" if total is None else f"/{total}"
    for item in items:
        yield item
        done += count(item)
        if time.monotonic() - last > LINE_EVERY_SECONDS:
            last = time.monotonic()
            say(f"{label}: {done}{of_total}", error=True)


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
