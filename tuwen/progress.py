"""Progress of a long step: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
LINE_EVERY_SECONDS = 15.0


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
            print(f"{label}: {done}{of_total}", file=sys.stderr, flush=True)
