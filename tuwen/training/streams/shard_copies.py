"""Copies of remote shards on this machine's disk, for as long as a training runs, within a bound.

fsspec's caches of whole files have no bound, and webdataset's reads by commands such as curl, not by fsspec.
"""

import fcntl
import os
import shutil
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from tuwen.core.environment import locate_cache, require_writable
from tuwen.core.errors import UserError
from tuwen.core.locks import lock_or_close
from tuwen.core.progress import say
from tuwen.data.formats.foreign_tar.listed_shard import copy_shard

BOUND_VARIABLE, BOUND_GB = "TUWEN_SHARD_CACHE_GB", "20"  # of all trainings' processes on this machine
COPIED_AT_ONCE = 4  # by a process
FOLDER_LOCK = "lock"  # held by the process whose copies lie beside it

ListedRow = Mapping[str, Any]  # of `pairs.SHARDS`


class _Copy(NamedTuple):
    size: int  # bytes
    path: Path
    done: "Future[None]"


class ShardCopies:
    """Copies of shards in a folder of this process: `hold` begins them, `wait_for` gives them, `release` ends it.

    Never more than `max_bytes` of them are there, finished or under way; where room is needed, those that nobody
    holds leave, the one that was held longest ago first. The folder goes with the process, and after a kill
    with the next one. Several threads may call.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root, self._max_bytes = root, max_bytes
        self._folder: Path | None = None
        self._copies: dict[str, _Copy] = {}  # by sha256, the one that was held longest ago first
        self._held: Counter[str] = Counter()
        self._pool = ThreadPoolExecutor(COPIED_AT_ONCE)
        self._lock = threading.Lock()
        self._warned = False

    def hold(self, rows: Iterable[ListedRow]) -> bool:
        """Begin to copy the shards that are not here, and keep all; False, and nothing, where there is no room."""
        wanted = {str(row["sha256"]): row for row in rows}
        with self._lock:
            sizes = {sha256: self._copies[sha256].size for sha256 in self._held}
            sizes |= {sha256: row["size"] for sha256, row in wanted.items()}
            if sum(sizes.values()) > self._max_bytes:
                return False
            new = [row for sha256, row in wanted.items() if sha256 not in self._copies]
            self._make_room(sum(row["size"] for row in new), kept=set(sizes))
            for row in new:
                path = self._open_folder() / f"{row['sha256']}.tar"
                copied = self._pool.submit(copy_shard, row, path)
                self._copies[row["sha256"]] = _Copy(row["size"], path, copied)
            for sha256 in wanted:
                self._copies[sha256] = self._copies.pop(sha256)
                self._held[sha256] += 1
        return True

    def wait_for(self, row: ListedRow) -> Path | None:
        """Return the copy of a shard once it is whole, None where it is not held, or the disk has no room for it.

        Raises UserError where the shard is not what the list says, or cannot be fetched.
        """
        with self._lock:
            copy = self._copies.get(row["sha256"]) if row["sha256"] in self._held else None
        if copy is None:
            return None
        try:
            copy.done.result()
        except UserError:
            raise
        except OSError as error:
            if not self._warned:
                say(f"warning: {copy.path}: {error}; such shards are read without a copy", error=True)
            self._warned = True
            return None
        return copy.path

    def release(self, rows: Iterable[ListedRow]) -> None:
        """Let shards go that were held."""
        with self._lock:
            for sha256 in {row["sha256"] for row in rows}:
                self._held[sha256] -= 1
                if not self._held[sha256]:
                    del self._held[sha256]

    def _make_room(self, size: int, kept: set[str]) -> None:
        """Remove copies until there is room for `size` more bytes, which the caller knows to be possible."""
        taken = sum(copy.size for copy in self._copies.values())
        for sha256 in [one for one in self._copies if one not in kept]:
            if taken + size <= self._max_bytes:
                return
            copy = self._copies.pop(sha256)
            if not copy.done.cancel():
                copy.done.exception()  # waits for its end
            copy.path.unlink(missing_ok=True)
            taken -= copy.size

    def _open_folder(self) -> Path:
        if self._folder is None:
            self._folder, locked = _make_own_folder(self._root)
            weakref.finalize(self, _remove_folder, self._folder, locked)
        return self._folder


def open_shard_copies() -> ShardCopies:
    """Return an empty place below TUWEN_CACHE, with this process's part of TUWEN_SHARD_CACHE_GB.

    Raises UserError where that is no number.
    """
    bound = os.environ.get(BOUND_VARIABLE) or BOUND_GB
    try:
        max_bytes = int(float(bound) * 1e9)
    except (ValueError, OverflowError):
        raise UserError(f"{BOUND_VARIABLE}: a number of gigabytes is expected, got {bound!r}") from None
    return ShardCopies(locate_cache("shards"), max_bytes // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _make_own_folder(root: Path) -> tuple[Path, int]:
    """Make a folder with a file that is locked as long as its descriptor is open; remove folders where none is."""
    require_writable(root)
    gate = os.open(root / FOLDER_LOCK, os.O_WRONLY | os.O_CREAT)
    try:
        fcntl.flock(gate, fcntl.LOCK_EX)  # or another process would find a folder that is not locked yet
        for left in root.glob(f"*/{FOLDER_LOCK}"):
            if (descriptor := _lock(left)) is not None:
                _remove_folder(left.parent, descriptor)
        own = Path(tempfile.mkdtemp(dir=root))
        descriptor = _lock(own / FOLDER_LOCK)
        assert descriptor is not None
    finally:
        os.close(gate)
    return own, descriptor


def _lock(path: Path) -> int | None:
    """Return a descriptor that locks the file, None where another one does."""
    return lock_or_close(os.open(path, os.O_WRONLY | os.O_CREAT))


def _remove_folder(folder: Path, descriptor: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(descriptor)
