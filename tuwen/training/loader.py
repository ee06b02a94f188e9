"""The batches of a training: the same ones, byte for byte, whatever the number of worker processes.

The process that trains says what each batch holds and cuts it into tasks of TASK_ROWS views; torch's DataLoader
hands these to the workers, takes their pixels from shared memory, in order, and pins them where a GPU waits.
"""

import hashlib
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tuwen.core.errors import UserError
from tuwen.core.executor import count_workers as data_workers
from tuwen.data.formats import text
from tuwen.data.formats.images import MEAN, STD, Pixels, make_pixel_tensor
from tuwen.training.dataset import Decoder, Views, ViewSpec
from tuwen.training.no_duplicates import keep_siblings_apart

TASK_ROWS = 64  # large enough that handing it over costs little, small enough that 16 workers share a batch
AHEAD_BATCHES = 2  # made while the GPU steps, at the most; a worker always has two tasks


class Batch(NamedTuple):
    """One step's input, B pairs: pixels [B, 3, S, S], ids and mask [B, L], two columns [B] of ids, and B names.

    Rows with an equal `positive_id` or an equal `caption_id` are positives of each other, in the shares of
    different processes too. pair_ids: for messages alone.
    """

    pixels: Tensor
    ids: Tensor
    mask: Tensor
    positive_id: Tensor
    caption_id: Tensor
    pair_ids: tuple[str, ...] = ()


def load_batches(
    views: Views,
    tokenizer: Any,
    *,
    max_tokens: int,
    batch_size: int,
    seed: int,
    epoch: int,
    first_step: int = 0,
    rank: int = 0,
    ranks: int = 1,
    apart: bool = False,
) -> Iterator[Batch]:
    """The `len(views) // batch_size` batches of one epoch, counted from 1; what fills no batch is left out.

    first_step: batches that are passed by, without decoding a picture. rank of ranks: the share of each batch that
    this process gets, made by it alone; all shares together are the batch that one process alone would get. apart:
    no batch holds two views of one picture or caption (no_duplicates.py). Where there is a GPU the tensors lie on
    it. A picture of a streamed shard that proves broken as it is decoded is replaced by the row before it.
    Raises UserError where a shard or a batch is not what it should be.
    """
    share, steps = batch_size // ranks, len(views) // batch_size
    asked = partial(views.asked, seed, epoch)
    rows = keep_siblings_apart(asked, batch_size, steps, tell=rank == 0) if apart else asked()
    planned = (list(islice(rows, batch_size)) for _ in range(steps))
    make = _Make(views.makers, tokenizer, max_tokens)
    waiting: deque[list[ViewSpec]] = deque()

    def tasks() -> Iterator[list[ViewSpec]]:
        for batch in islice(planned, first_step, None):
            waiting.append(batch)
            for start in range(rank * share, (rank + 1) * share, TASK_ROWS):
                yield batch[start : min(start + TASK_ROWS, (rank + 1) * share)]

    count = count_loading_workers()
    made = _in_workers(make, tasks(), count, share) if count else map(make.__getitem__, tasks())
    try:
        for _ in range(first_step, steps):
            parts = list(islice(made, -(-share // TASK_ROWS)))
            yield _assembled(waiting.popleft(), rank * share, parts, make)
    finally:
        del made  # ends the workers now, not when somebody lets go of an error's traceback


def count_loading_workers() -> int:
    """How many processes make the batches of this training process; 0: it makes them itself.

    With a GPU TUWEN_WORKERS, or one per core, shared among the processes of this machine that train. On a CPU
    none, unless TUWEN_WORKERS asks for two or more: they would take the cores from the step (docs/log.md).
    """
    asked = "TUWEN_WORKERS" in os.environ
    if torch.cuda.is_available():
        return max(1, data_workers() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return data_workers() if asked and data_workers() > 1 else 0


class _Made(NamedTuple):
    """What comes of a task: uint8 pixels [R, S, S, 3], ids and mask [R, L], and the rows that proved broken."""

    pixels: Tensor
    ids: Tensor
    mask: Tensor
    broken: list[int]


class _Make(Dataset[_Made | UserError]):
    """Makes the views of a task, here or in a worker."""

    def __init__(self, makers: list[Decoder], tokenizer: Any, max_tokens: int) -> None:
        self._makers, self._tokenizer, self._max_tokens = makers, tokenizer, max_tokens
        self.padding: int = tokenizer.pad_token_id
        self.tokenizer_module = type(tokenizer).__module__

    def __getitem__(self, task: list[ViewSpec]) -> _Made | UserError:
        try:
            found = [self.picture(ask) for ask in task]
        except UserError as error:  # DataLoader would wrap its message into a worker's traceback
            return error
        nothing = np.zeros_like(next((one for one in found if one is not None), np.zeros((0, 0, 3), np.uint8)))
        pixels = np.stack([nothing if one is None else one for one in found])
        broken = [row for row, one in enumerate(found) if one is None]
        return _Made(torch.from_numpy(pixels), *self.tokens(task), broken)

    def picture(self, ask: ViewSpec) -> Pixels | None:
        return self._makers[ask.maker](ask.source)

    def tokens(self, task: list[ViewSpec]) -> tuple[Tensor, Tensor]:
        ids, mask = text.tokenize(self._tokenizer, [ask.caption for ask in task], self._max_tokens)
        return ids, mask


def _in_workers(
    make: _Make, tasks: Iterator[list[ViewSpec]], count: int, share: int
) -> Iterator[_Made | UserError]:
    """`make` of each task, in order, by `count` processes."""
    # forked from a process without threads, which has imported what they need: they start at once in every epoch
    context = multiprocessing.get_context("forkserver")
    heavy = [name for name in ("albumentations", "cv2", make.tokenizer_module) if name in sys.modules]
    context.set_forkserver_preload([__name__, *heavy])
    loader = DataLoader(
        make,
        batch_size=None,
        sampler=tasks,
        num_workers=count,
        multiprocessing_context=context,
        prefetch_factor=max(2, -(-AHEAD_BATCHES * share // (TASK_ROWS * count))),
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_begin,
        generator=torch.Generator(),  # or it draws a number that the training would have drawn
    )
    return iter(loader)


def _begin(worker: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism


def _assembled(batch: list[ViewSpec], first: int, parts: Sequence[_Made | UserError], make: _Make) -> Batch:
    """The rows from `first` on of a batch, made of the parts of their tasks."""
    rows: list[ViewSpec] = []
    sound: list[_Made] = []
    for part in parts:
        if isinstance(part, UserError):
            raise part
        start = first + len(rows)
        task = batch[start : start + len(part.pixels)]
        if part.broken:
            task, part = _mended(batch, start, part, make)
        rows += task
        sound.append(part)
    longest = max(part.ids.shape[1] for part in sound)
    ids = torch.cat([_padded(part.ids, longest, make.padding) for part in sound])
    mask = torch.cat([_padded(part.mask, longest, 0) for part in sound])
    positive_id = _numbers(ask.positive_id for ask in rows)
    caption_id = _numbers(text.normalise(ask.caption) for ask in rows)
    names = tuple(ask.pair_id for ask in rows)
    if torch.cuda.is_available():
        pixels = normalise_pixels(torch.cat([_sent(part.pixels) for part in sound]))
        return Batch(pixels, _sent(ids), _sent(mask), _sent(positive_id), _sent(caption_id), names)
    pixels = make_pixel_tensor([one for part in sound for one in part.pixels.numpy()])
    return Batch(pixels, ids, mask, positive_id, caption_id, names)


def _sent(column: Tensor) -> Tensor:
    """On its way to the GPU; the host waits neither for it nor for the steps before it."""
    return column.pin_memory().to("cuda", non_blocking=True)  # what is pinned already is not copied


def _mended(batch: list[ViewSpec], start: int, part: _Made, make: _Make) -> tuple[list[ViewSpec], _Made]:
    """The task from `start` on with the sound row before it in the place of each broken one."""
    task, pictures = batch[start : start + len(part.pixels)], list(part.pixels.numpy())
    for row in part.broken:
        skipped = task[row].skipped
        if skipped is not None:
            skipped["unreadable"] += 1
        before = ((ask, make.picture(ask)) for ask in (batch[start + row - back] for back in range(1, len(batch))))
        found = next(((ask, pixels) for ask, pixels in before if pixels is not None), None)
        if found is None:
            raise UserError(
                f"no picture of a whole batch can be decoded, {task[row].pair_id} is one; mend the shards"
            )
        task[row], pictures[row] = found
    return task, _Made(torch.from_numpy(np.stack(pictures)), *make.tokens(task), [])


def normalise_pixels(pixels: Tensor) -> Tensor:
    """uint8 [B, S, S, 3] -> what `images.to_pixels` gives, bit for bit, without a copy from the host."""
    mean, std = (torch.stack([pixels.new_full((), v, dtype=torch.float32) for v in vs]) for vs in (MEAN, STD))
    return ((pixels.float() - mean) / std).permute(0, 3, 1, 2).contiguous()


def _padded(tokens: Tensor, length: int, value: int) -> Tensor:
    return torch.nn.functional.pad(tokens, (0, length - tokens.shape[1]), value=value)


def _numbers(names: Iterable[str]) -> Tensor:
    """Equal names -> equal integers, in every process: of 63 bits, so that no two names meet by chance."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return torch.tensor([int.from_bytes(digest, "big") >> 1 for digest in digests])
