"""The rows of an epoch in batches, also free of siblings: no two rows of one image, none with the same caption."""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

from tuwen.core.errors import UserError
from tuwen.data.formats import text
from tuwen.training.dataset import WHOLE, ProcessShare, Views, ViewSpec

MAX_ROWS_WAITING = 1024  # for a batch without a sibling of them; streamed rows hold their bytes


def split_into_batches(
    views: Views,
    simplify: bool,
    *,
    size: int,
    steps: int,
    seed: int,
    epoch: int,
    first_step: int,
    apart: bool,
    report: bool,
    share: ProcessShare = WHOLE,
) -> Iterator[list[ViewSpec]]:
    """Yield the `size` rows of each of an epoch's `steps` batches from `first_step` on, planned and not decoded.

    apart, simplify, report: as keep_siblings_apart; share: whose rows of views that are dealt.
    """
    plan = partial(views.plan, seed, epoch, share=share)
    if apart:
        rows = keep_siblings_apart(plan, size, steps, simplify=simplify, report=report)
        rows = islice(rows, first_step * size, None)
    else:
        rows = plan(skip=first_step * size)
    yield from (list(islice(rows, size)) for _ in range(first_step, steps))


def keep_siblings_apart(
    plan: Callable[[], Iterator[ViewSpec]],
    batch_size: int,
    steps: int,
    *,
    simplify: bool = False,
    report: bool = True,
) -> Iterator[ViewSpec]:
    """Yield the rows of `steps` batches in none of which a positive_id or a caption stands twice.

    plan: yields the rows of the epoch, each time it is called; simplify: as in `text.normalise_captions`, which
    tells what captions are the same to the model. A row that would meet a sibling waits for the first batch that
    has none; at most MAX_ROWS_WAITING rows wait. What finds no place, because too many wait or the
    epoch is over, is left out of this epoch; `report` prints how many rows that were. Where rows are missing at
    the end, the epoch's first ones that fit are shown once more. Raises UserError where all rows of an epoch do
    not fill one batch.
    """
    rows = _Rows(plan, simplify)
    for step in range(steps):
        batch = rows.take_batch(batch_size)
        if report and step == steps - 1 and rows.count_left_out():
            print(f"siblings kept apart: {rows.count_left_out()} rows found no batch in this epoch", flush=True)
        yield from batch


class _Rows:
    """The rows of an epoch as batches take them: those that wait, then new ones, then the first ones again."""

    def __init__(self, plan: Callable[[], Iterator[ViewSpec]], simplify: bool) -> None:
        self._plan, self._simplify = plan, simplify
        self._stream = map(self._add_names, plan())
        self._repeating = False  # the epoch is over, and its rows come once more
        self._waiting: deque[tuple[ViewSpec, set[str]]] = deque()
        self._left_out = 0

    def count_left_out(self) -> int:
        """Return the rows that found no batch up to now."""
        return self._left_out + len(self._waiting)

    def take_batch(self, batch_size: int) -> list[ViewSpec]:
        batch: list[ViewSpec] = []
        inside: set[str] = set()
        still_waiting: deque[tuple[ViewSpec, set[str]]] = deque()
        rows_at_restart = -1
        while len(batch) < batch_size:
            fresh = not self._waiting
            row = next(self._stream, None) if fresh else self._waiting.popleft()
            if row is None:
                if len(batch) == rows_at_restart:
                    raise _make_error(len(batch), batch_size)
                self._stream, self._repeating, rows_at_restart = (
                    map(self._add_names, self._plan()),
                    True,
                    len(batch),
                )
            elif inside.isdisjoint(row[1]):
                batch.append(row[0])
                inside |= row[1]
            elif not fresh or (len(still_waiting) < MAX_ROWS_WAITING and not self._repeating):
                still_waiting.append(row)
            else:
                self._left_out += not self._repeating
        still_waiting.extend(self._waiting)
        self._waiting = still_waiting
        return batch

    def _add_names(self, spec: ViewSpec) -> tuple[ViewSpec, set[str]]:
        """Return the view, and its original image and caption, which no other row of its batch may have."""
        (form,) = text.normalise_captions([spec.caption], self._simplify)
        return spec, {f"image {spec.positive_id}", f"caption {form}"}


def _make_error(rows: int, batch_size: int) -> UserError:
    return UserError(
        f"params.yaml: baseline.fit or finetune.fit: siblings: apart: only {rows} pairs of different pictures "
        f"and captions are there for a batch of {batch_size}; lower batch_size"
    )
