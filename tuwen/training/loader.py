"""The batches of a training: the same ones, byte for byte, whatever the number of worker processes.

The process that trains plans what each batch holds and cuts it into tasks of TASK_ROWS views; torch's DataLoader
hands these to the workers, takes their pixels from shared memory, in order, and pins them where a GPU waits.
Shapes: B pairs of a batch, R rows of a task, S pixels a side, L tokens.
"""

import hashlib
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tuwen.core.errors import UserError
from tuwen.core.executor import count_workers
from tuwen.data.formats import text
from tuwen.data.formats.images import MEAN, STD, Pixels, make_pixel_tensor
from tuwen.training.dataset import WHOLE, Decoder, ProcessShare, Views, ViewSpec
from tuwen.training.no_duplicates import split_into_batches

TASK_ROWS = 64  # large enough that handing it over costs little, small enough that 16 workers share a batch
AHEAD_BATCHES = 2  # decoded while the GPU steps, at the most; a worker always has two tasks


class Batch(NamedTuple):
    """One step's input, B pairs: pixels [B, 3, S, S], ids and mask [B, L], two columns [B] of ids, and B names.

    Rows with an equal `positive_id` or an equal `caption_id` are positives of each other, in the shares of
    different processes too. mask: on the CPU, where what it hides is read. pair_ids: for messages alone.
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
    """Yield the `len(views) // batch_size` batches of one epoch, counted from 1; what fills no batch is left out.

    first_step: batches that are passed by, without decoding an image. rank of ranks: the share of each batch that
    this process gets, decoded by it alone; all shares together are the batch that one process alone would get, but
    for views that are dealt: each process reads and plans its own.
    apart: no batch holds two views of one image or caption (no_duplicates.py). Where there is a GPU the others
    lie on it. An image of a streamed shard that proves broken or banned when it is decoded is replaced by the row
    before it.
    Raises UserError where a shard or a batch is not what it should be.
    """
    rows, steps = batch_size // ranks, len(views) // batch_size
    dealt = views.dealt and ranks > 1 and not apart  # siblings are looked for in whole batches
    size, first_row = (rows, 0) if dealt else (batch_size, rank * rows)
    share = ProcessShare(rank, ranks) if dealt else WHOLE
    wanted: dict[str, Any] = {"size": size, "steps": steps, "first_step": first_step, "share": share}
    planned = split_into_batches(
        views, tokenizer.simplify, seed=seed, epoch=epoch, apart=apart, report=rank == 0, **wanted
    )
    decoder = _TaskDecoder(views.decoders, tokenizer, max_tokens)
    waiting: deque[list[ViewSpec]] = deque()

    tasks = _cut_tasks(planned, waiting, slice(first_row, first_row + rows))
    count = count_loading_workers()
    decoded = _decode_in_workers(decoder, tasks, count, rows) if count else map(decoder.__getitem__, tasks)
    try:
        for _ in range(first_step, steps):
            parts = list(islice(decoded, -(-rows // TASK_ROWS)))
            yield _assemble_batch(waiting.popleft(), first_row, parts, decoder)
    finally:
        del decoded  # ends the workers now, not when the traceback of an error is let go


def _cut_tasks(
    planned: Iterator[list[ViewSpec]], waiting: deque[list[ViewSpec]], share: slice
) -> Iterator[list[ViewSpec]]:
    """Yield the rows of each batch's share in tasks; the batch as a whole is put into `waiting`."""
    for batch in planned:
        waiting.append(batch)
        for start in range(share.start, share.stop, TASK_ROWS):
            yield batch[start : min(start + TASK_ROWS, share.stop)]


def count_loading_workers() -> int:
    """Return how many processes decode the batches of this training process; 0: it decodes them itself.

    With a GPU TUWEN_WORKERS, or one per core, shared among the processes of this machine that train. On a CPU
    none, unless TUWEN_WORKERS is two or more: they would take the cores from the step (docs/log.md).
    """
    if torch.cuda.is_available():
        return max(1, count_workers() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return count_workers() if "TUWEN_WORKERS" in os.environ and count_workers() > 1 else 0


class _DecodedTask(NamedTuple):
    """uint8 pixels [R, S, S, 3], ids and mask [R, L], and why rows cannot be shown: row -> reason."""

    pixels: Tensor
    ids: Tensor
    mask: Tensor
    faults: dict[int, str]


class _TaskDecoder(Dataset[_DecodedTask | UserError]):
    """Decodes the views of a task, here or in a worker."""

    def __init__(self, decoders: list[Decoder], tokenizer: Any, max_tokens: int) -> None:
        self._decoders, self._tokenizer, self._max_tokens = decoders, tokenizer, max_tokens
        self.padding: int = tokenizer.pad_token_id
        self.tokenizer_module = type(tokenizer).__module__

    def __getitem__(self, task: list[ViewSpec]) -> _DecodedTask | UserError:
        try:
            images = [self.decode(spec) for spec in task]
        except UserError as error:  # DataLoader would wrap its message into a worker's traceback
            return error
        faults = {row: image for row, image in enumerate(images) if isinstance(image, str)}
        sound = [image for image in images if not isinstance(image, str)]
        blank = np.zeros_like(sound[0] if sound else np.zeros((0, 0, 3), np.uint8))
        pixels = np.stack([blank if isinstance(image, str) else image for image in images])
        return _DecodedTask(torch.from_numpy(pixels), *self.tokenize(task), faults)

    def decode(self, spec: ViewSpec) -> Pixels | str:
        return self._decoders[spec.decoder](spec.source)

    def tokenize(self, task: list[ViewSpec]) -> tuple[Tensor, Tensor]:
        """Return ids and mask [R, L]."""
        ids, mask = text.tokenize(self._tokenizer, [spec.caption for spec in task], self._max_tokens)
        return ids, mask

    def list_forms(self, rows: list[ViewSpec]) -> list[str]:
        """Return of each row the form by which its caption is the same to the model as another."""
        return text.normalise_captions([spec.caption for spec in rows], self._tokenizer.simplify)


def _decode_in_workers(
    decoder: _TaskDecoder, tasks: Iterator[list[ViewSpec]], count: int, share: int
) -> Iterator[_DecodedTask | UserError]:
    """Yield what `decoder` makes of each task, in order, by `count` processes."""
    # forked from a process without threads, which has imported what they need: they start at once in every epoch
    context = multiprocessing.get_context("forkserver")
    heavy = [name for name in ("albumentations", "cv2", decoder.tokenizer_module) if name in sys.modules]
    context.set_forkserver_preload([__name__, *heavy])
    loader = DataLoader(
        decoder,
        batch_size=None,
        sampler=tasks,
        num_workers=count,
        multiprocessing_context=context,
        prefetch_factor=max(2, -(-AHEAD_BATCHES * share // (TASK_ROWS * count))),
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_prepare_worker,
        generator=torch.Generator(),  # or it draws a number that the training would have drawn
    )
    return iter(loader)


def _prepare_worker(worker: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the workers are the parallelism


def _assemble_batch(
    batch: list[ViewSpec], first: int, parts: Sequence[_DecodedTask | UserError], decoder: _TaskDecoder
) -> Batch:
    """Join the decoded tasks of a batch, whose rows are those from `first` on."""
    rows: list[ViewSpec] = []
    sound: list[_DecodedTask] = []
    for part in parts:
        if isinstance(part, UserError):
            raise part
        start = first + len(rows)
        task = batch[start : start + len(part.pixels)]
        if part.faults:
            task, part = _replace_broken(batch, start, part, decoder)
        rows += task
        sound.append(part)
    longest = max(part.ids.shape[1] for part in sound)
    ids = torch.cat([_pad(part.ids, longest, decoder.padding) for part in sound])
    mask = torch.cat([_pad(part.mask, longest, 0) for part in sound])
    positive_id = hash_names(spec.positive_id for spec in rows)
    caption_id = hash_names(decoder.list_forms(rows))
    names = tuple(spec.pair_id for spec in rows)
    if torch.cuda.is_available():
        pixels = normalise_pixels(torch.cat([_send(part.pixels) for part in sound]))
        return Batch(pixels, _send(ids), mask, _send(positive_id), _send(caption_id), names)
    pixels = make_pixel_tensor([image for part in sound for image in part.pixels.numpy()])
    return Batch(pixels, ids, mask, positive_id, caption_id, names)


def _send(column: Tensor) -> Tensor:
    """Send a tensor on its way to the GPU; the host waits neither for it nor for the steps before it."""
    return column.pin_memory().to("cuda", non_blocking=True)  # what is pinned already is not copied


def _replace_broken(
    batch: list[ViewSpec], start: int, part: _DecodedTask, decoder: _TaskDecoder
) -> tuple[list[ViewSpec], _DecodedTask]:
    """Return the task from `start` on with the sound row before it in the place of each broken one."""
    task, images = batch[start : start + len(part.pixels)], list(part.pixels.numpy())
    for row, reason in part.faults.items():
        skipped = task[row].skipped
        if skipped is not None:
            skipped[reason] += 1
        earlier = (batch[start + row - back] for back in range(1, len(batch)))
        decoded = ((spec, decoder.decode(spec)) for spec in earlier)
        replacement = next(((spec, image) for spec, image in decoded if not isinstance(image, str)), None)
        if replacement is None:
            raise UserError(
                f"no picture of a whole batch can be shown, {task[row].pair_id} is {reason}; mend the shards"
            )
        task[row], images[row] = replacement
    return task, _DecodedTask(torch.from_numpy(np.stack(images)), *decoder.tokenize(task), {})


def normalise_pixels(pixels: Tensor) -> Tensor:
    """Map uint8 [B, S, S, 3] to float32 [B, 3, S, S], bit for bit as `images.make_pixel_tensor` does."""
    mean, std = (torch.stack([pixels.new_full((), v, dtype=torch.float32) for v in vs]) for vs in (MEAN, STD))
    return ((pixels.float() - mean) / std).permute(0, 3, 1, 2).contiguous()


def _pad(tokens: Tensor, length: int, value: int) -> Tensor:
    return torch.nn.functional.pad(tokens, (0, length - tokens.shape[1]), value=value)


def hash_names(names: Iterable[str]) -> Tensor:
    """Map equal names to equal integers in every process: of 63 bits, so that no two names meet by chance."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    return torch.tensor([int.from_bytes(digest, "big") >> 1 for digest in digests])
