"""The GPUs of this machine, and which of them a stage holds.

A card is held by an flock on a file of this machine, which the stage's guard inherits: it lasts as long as the
flow or anything of the stage lives. No kill leaves a card held and no server is asked, so flows of other checkouts
and other Prefect servers take turns too, and those in containers where they share FOLDER.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tuwen.core.errors import UserError
from tuwen.core.locks import lock_or_close

FOLDER = Path("/tmp/tuwen-gpus")  # not TMPDIR, which may be another one in each shell
VISIBLE_CARDS = "CUDA_VISIBLE_DEVICES"
NO_CARDS = ("", "-1", "NoDevFiles")  # CUDA reads its list up to the first of these


class Held(NamedTuple):
    """Cards that a stage holds, and the open files whose locks say so."""

    cards: list[str]
    locks: list[int]

    def release(self) -> None:
        """Give the cards back, as soon as what inherited the locks has ended too."""
        for lock in self.locks:
            os.close(lock)


def list_cards() -> list[str]:
    """Return the cards for this process: those of CUDA_VISIBLE_DEVICES, else all that nvidia-smi lists.

    By their UUIDs where nvidia-smi knows them, so that `0` and `GPU-…` are one card; numbers are nvidia-smi's.
    """
    there = _ask_nvidia_smi()
    if VISIBLE_CARDS not in os.environ:
        return list(there)
    cards = []
    for name in (one.strip() for one in os.environ[VISIBLE_CARDS].split(",")):
        if name in NO_CARDS:
            break
        cards.append(
            next((uuid for uuid, number in there.items() if name == number or uuid.startswith(name)), name)
        )
    return cards


def _ask_nvidia_smi() -> dict[str, str]:
    """Return UUID -> number of each NVIDIA card; nothing where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", "--query-gpu=uuid,index", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return {uuid: number for uuid, _, number in (line.partition(", ") for line in lines)}


def count_wanted(gpu: Any) -> int:
    """Return how many cards a stage wants by its `meta: {gpu: …}` in dvc.yaml.

    true: one. TUWEN_GPUS: as many as that variable says, one without it. {if: VALUE, is: OTHER}: one where both
    are equal. Nothing: none.
    """
    if isinstance(gpu, dict):
        return int(gpu["if"] == gpu["is"])
    if isinstance(gpu, str):
        number = os.environ.get(gpu, "1")
        return max(1, int(number)) if number.isdecimal() else 1  # the stage names a value that is no number
    return int(bool(gpu))


def take_cards(cards: Sequence[str], number: int) -> Held | None:
    """Hold `number` of these cards, or all of them where they are fewer; None while too many are taken."""
    held = Held([], [])
    wanted = min(number, len(cards))
    with contextlib.ExitStack() as undo:
        undo.callback(held.release)
        for card in cards:
            if len(held.cards) == wanted:
                break
            if (lock := lock_or_close(_open_lock(card))) is not None:
                held.cards.append(card)
                held.locks.append(lock)
        if len(held.cards) < wanted:
            return None  # and hold nothing meanwhile: two that wait for each other's cards would wait for ever
        undo.pop_all()
    return held


@contextlib.contextmanager
def hide_cards() -> Iterator[None]:
    """Let this process compute on the CPU inside the block: it holds no card."""
    announced = os.environ.get(VISIBLE_CARDS)
    os.environ[VISIBLE_CARDS] = ""
    try:
        yield
    finally:
        del os.environ[VISIBLE_CARDS]
        os.environ |= {} if announced is None else {VISIBLE_CARDS: announced}


def _open_lock(card: str) -> int:
    """Open a card's file, made where it is missing, so that every user of the machine can lock it."""
    path = FOLDER / card.replace("/", "_")
    try:
        with contextlib.suppress(FileExistsError):
            FOLDER.mkdir()
            FOLDER.chmod(0o1777)
        with contextlib.suppress(FileExistsError):
            made = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o644)
            os.fchmod(made, 0o644)  # whatever the umask
            os.close(made)
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)  # flock asks for no right to write
    except OSError as error:
        raise UserError(f"{path}: who holds this GPU cannot be noted ({error}); make {FOLDER} writable") from error
