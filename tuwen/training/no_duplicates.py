"""Batches free of siblings: no two rows of one picture, none with the same caption."""

from collections import deque
from collections.abc import Callable, Iterator

from tuwen.core.errors import UserError
from tuwen.data.formats import text
from tuwen.training.dataset import ViewSpec

MAX_ROWS_WAITING = 1024  # rows that wait at once where siblings are kept apart; streamed ones hold their bytes


def keep_siblings_apart(
    asked: Callable[[], Iterator[ViewSpec]], batch_size: int, steps: int, *, tell: bool = True
) -> Iterator[ViewSpec]:
    """The rows of `steps` batches in none of which a positive_id or a normalised caption stands twice.

    A row that would meet a sibling waits for the first batch that has none; at most LOOK_AHEAD rows wait. What
    finds no place, because too many wait or the epoch is over, is left out of this epoch; `tell` prints how many
    that were. Where rows are missing at the end, the epoch's first ones that fit are shown once more. Raises
    UserError where all rows of an epoch do not fill one batch.
    """
    stream, again, left_out = map(_with_names, asked()), False, 0
    held: deque[tuple[ViewSpec, set[str]]] = deque()
    for step in range(steps):
        batch: list[ViewSpec] = []
        inside: set[str] = set()
        waiting, held, before = held, deque(), -1
        while len(batch) < batch_size:
            fresh = not waiting
            row = next(stream, None) if fresh else waiting.popleft()
            if row is None:  # the epoch is over; `before`: how many rows the batch had when it last began anew
                if len(batch) == before:
                    raise _too_few(len(batch), batch_size)
                stream, again, before = map(_with_names, asked()), True, len(batch)
            elif inside.isdisjoint(row[1]):
                batch.append(row[0])
                inside |= row[1]
            elif not fresh or (len(held) < MAX_ROWS_WAITING and not again):
                held.append(row)
            else:
                left_out += not again
        held.extend(waiting)
        if tell and step == steps - 1 and left_out + len(held):
            print(f"siblings kept apart: {left_out + len(held)} rows found no batch in this epoch", flush=True)
        yield from batch


def _with_names(ask: ViewSpec) -> tuple[ViewSpec, set[str]]:
    return ask, {f"picture {ask.positive_id}", f"caption {text.normalise(ask.caption)}"}


def _too_few(found: int, batch_size: int) -> UserError:
    return UserError(
        f"params.yaml: baseline.fit or finetune.fit: siblings: apart: only {found} pairs of different pictures "
        f"and captions are there for a batch of {batch_size}; lower batch_size"
    )
