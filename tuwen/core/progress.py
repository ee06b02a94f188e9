"""Progress of a long step: a bar on a terminal, plain lines elsewhere; never a reason to stop the work."""

import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
LINE_EVERY_SECONDS = 15.0
OF_TOTAL = r"(?P<done>\d+)/(?P<total>[1-9]\d*)"
COUNT = re.compile(rf"(?P<label>.+): {OF_TOTAL}")
EPOCH = re.compile(
    r"(?P<label>epoch (?P<epoch>\d+)/(?P<epochs>[1-9]\d*)): (?:(?P<done>\d+)/(?P<total>[1-9]\d*)|.*)"
)


def say(line: str, *, error: bool = False) -> None:
    """Print a line at once, on stderr for an `error`; a full disk swallows it and all later ones."""
    stream = sys.stderr if error else sys.stdout
    try:
        print(line, file=stream, flush=True)
    except OSError:
        # what stays in the buffer would fail once more as Python ends, and turn its exit status into an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def follow(items: Iterable[T], label: str, total: int | None) -> Iterator[T]:
    """Yield `items` while showing how many of `total` are done; total: None where nobody knows."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, label, total, console=Console(stderr=True))
        return
    last = time.monotonic()
    of_total = "" if total is None else f"/{total}"
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - last > LINE_EVERY_SECONDS:
            last = time.monotonic()
            say(f"{label}: {done}{of_total}", error=True)


def parse_progress(line: str) -> tuple[str, float] | None:
    """The label of a printed line of progress, and which share of the work is done, 0 to 1; None for other lines.

    `decode: 30/60` is half; `epoch 3/4: 30/60`, in an epoch, and `epoch 3/4: loss 0.5`, after it, count epochs.
    """
    if found := EPOCH.fullmatch(line):
        ended = int(found["epoch"]) - (found["done"] is not None)
        part = int(found["done"]) / int(found["total"]) if found["done"] else 0.0
        return found["label"], min((ended + part) / int(found["epochs"]), 1.0)
    if found := COUNT.fullmatch(line):
        return found["label"], min(int(found["done"]) / int(found["total"]), 1.0)
    return None


class Pace:
    """How fast a loop over batches goes, and what share of its time it waits for them."""

    def __init__(self) -> None:
        self._began, self._waited_seconds, self._batches = time.perf_counter(), 0.0, 0

    def timed(self, batches: Iterator[T]) -> Iterator[T]:
        """The same batches."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self._waited_seconds += time.perf_counter() - asked
            if batch is None:
                return
            self._batches += 1
            yield batch

    def figures(self, batch_size: int) -> dict[str, float]:
        """`pairs_per_second` and `data_wait_share` up to now; nothing where no batch was seen."""
        if not self._batches:
            return {}
        seconds = time.perf_counter() - self._began
        return {
            "pairs_per_second": self._batches * batch_size / seconds,
            "data_wait_share": self._waited_seconds / seconds,
        }
