"""What a training needs to resume after a kill, in a folder that is no out: DVC deletes outs before a run."""

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from tuwen.core.errors import UserError
from tuwen.core.progress import say
from tuwen.data.formats import manifest
from tuwen.training import distributed, gradcache

CHECKPOINTS = Path(".cache/train")
DECIDING_CODE = ("data/augment", "data/formats", "model", "retrieval", "training")
STATE_FILE = "state.pt"
INTERVAL_VARIABLE = "TUWEN_CHECKPOINT_SECONDS"


class Stream(Protocol):
    """What reads shards from end to end, and can go on in the middle of an epoch."""

    def get_state(self) -> dict[str, Any]:
        """Return plain values."""

    def set_state(self, state: dict[str, Any]) -> None:
        """Know what `get_state` returned."""

    def count_skipped(self, rank: int) -> Counter[str]:
        """Return reason -> pairs of the epoch under way that process `rank`, this one, did not show."""


class Checkpoint:
    """A folder of files, each whole or absent; one that cannot be written is a warning, the first time."""

    def __init__(self, folder: Path, streams: Sequence[Stream] = ()) -> None:
        self.folder, self._streams = folder, streams
        self._warned = False

    def write(self, name: str, write_part: Callable[[Path], object]) -> bool:
        """Replace the file `name` by what `write_part` writes; False, and the old file, where that fails."""
        path, part = self.folder / name, self.folder / f"{name}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_part(part)
            os.replace(part, path)
        except (OSError, RuntimeError) as error:  # torch's writer raises the latter
            part.unlink(missing_ok=True)
            self._warn(path, error)
            return False
        return True

    def read(self, name: str) -> Any:
        """Return what torch.save wrote to the file `name`, on the CPU; None where it is not there."""
        path = self.folder / name
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True) if path.is_file() else None

    def write_together(self, name: str, write_part: Callable[[Path], object]) -> bool:
        """Make the folder `name` of what all processes write by `write_part`; False where any of them fails."""
        folder, part = self.folder / name, self.folder / f"{name}.part"
        if distributed.is_first():
            for path in (folder, part):
                shutil.rmtree(path, ignore_errors=True)
        distributed.broadcast_first(None)  # the others write after that
        steps = (lambda: part.mkdir(parents=True, exist_ok=True), lambda: write_part(part))
        # one after the other: who has no folder would leave the others waiting for what it writes with them
        failed = any(self._fails_anywhere(step, folder) for step in steps)
        if failed:
            shutil.rmtree(part, ignore_errors=True)
        elif distributed.is_first():
            os.replace(part, folder)
        return not failed

    def _fails_anywhere(self, step: Callable[[], object], folder: Path) -> bool:
        """Take a step of writing `folder`; return whether it fails in any process. All processes call this."""
        from torch.distributed.checkpoint.api import CheckpointException

        failed = False
        try:
            step()
        except (OSError, RuntimeError, CheckpointException) as error:
            failed = True
            self._warn(folder, error)
        return distributed.combine_flags([failed])[0]

    def remove_others(self, pattern: str, name: str) -> None:
        """Remove the folders of a pattern but the one of this name. All processes may call this."""
        for path in self.folder.glob(pattern) if distributed.is_first() else ():
            if path.name != name:
                shutil.rmtree(path, ignore_errors=True)

    def _warn(self, path: Path, error: BaseException) -> None:
        if self._warned:
            return
        self._warned = True
        reason = (str(error) or repr(error)).splitlines()[0][:200]
        say(
            f"warning: {path} cannot be written ({reason}); the training goes on, but after a kill it "
            "will start from what was kept before: make room on that disk",
            error=True,
        )

    def save(self, state: Mapping[str, Any]) -> bool:
        """Write `state`, tensors and plain values, and every process's random states and places in streams.

        All processes call this. Returns, in the first one, what `write` returns; in the others True.
        """
        own = {"random": get_random_states(), "streams": [stream.get_state() for stream in self._streams]}
        processes = distributed.gather_objects(own)
        kept = {**state, "processes": processes}
        return not distributed.is_first() or self.write(STATE_FILE, lambda part: torch.save(kept, part))

    def load(self) -> dict[str, Any] | None:
        """Return what `save` wrote and set the random states; None where nothing is. All processes call this.

        Raises UserError where a process does not see what the first one sees.
        """
        path = self.folder / STATE_FILE
        if not distributed.broadcast_first(path.is_file()):
            return None
        if not path.is_file():
            raise UserError(
                f"{path}: process 0 sees this checkpoint, process {distributed.get_rank()} does not; the machines "
                "of one training need a folder that they share (docs/training.md)"
            )
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        self._set_own_state(state.pop("processes"), state["done"])
        return state

    def _set_own_state(self, processes: list[dict[str, Any]], done: int) -> None:
        """Go on where each process stood; where their number has changed each draws anew, by the step."""
        rank, ranks = distributed.get_rank(), distributed.count_ranks()
        own = processes[rank % len(processes)]
        set_random_states(own["random"])
        if len(processes) == ranks:
            for stream, place in zip(self._streams, own["streams"], strict=True):
                stream.set_state(place)
            return
        torch.manual_seed(done * ranks + rank)
        if distributed.is_first():
            say(
                f"this training was begun by {len(processes)} processes and goes on with {ranks}: dropout and "
                "left-out patches are drawn anew; shards are dealt anew, so this epoch may show some pairs again"
            )


def locate_checkpoint(
    name: str, inputs: Mapping[str, Path], params: Mapping[str, Any], code: Iterable[str] = DECIDING_CODE
) -> Path:
    """Return the folder of this very training's checkpoint, keyed by inputs, params and the deciding code."""
    return CHECKPOINTS / f"{name}-{manifest.make_work_key(inputs, params, code)}"


def read_interval_seconds() -> float:
    """Return the seconds between two checkpoints within an epoch. Raises UserError for what is no number."""
    seconds = os.environ.get(INTERVAL_VARIABLE, "600")
    try:
        return float(seconds)
    except ValueError:
        raise UserError(f"{INTERVAL_VARIABLE} must be a number of seconds, got {seconds!r}") from None


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint; called once the outs are written."""
    shutil.rmtree(folder, ignore_errors=True)


def get_random_states() -> dict[str, Any]:
    """Return the state of every generator that a step or its batch may draw from."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch": tuple(gradcache.get_random_state()),
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Go on drawing from where `get_random_states` was called."""
    gradcache.set_random_state(gradcache.RandomState(*states["torch"]))
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
