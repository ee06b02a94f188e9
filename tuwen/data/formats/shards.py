"""Tar shards in WebDataset's layout: written in sequence with deterministic bytes, read by offset."""

import hashlib
import os
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple

from tuwen.core.errors import UserError

MAX_NAME_CHARS = 200  # of a member that we write; file systems take names of 255 bytes


class Place(NamedTuple):
    """Where the bytes of one member lie."""

    shard: str  # path relative to the data root
    offset: int  # bytes from the start of the shard
    size: int  # bytes

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Place":
        """Return the place that a row of `pairs.IMAGES` names; its `shard` must not be null."""
        return cls(row["shard"], row["offset"], row["size"])


class Member(NamedTuple):
    """One file in a shard: its place, and the sha256 of its bytes; the fields are columns of `pairs.IMAGES`."""

    shard: str
    offset: int
    size: int
    sha256: str

    @property
    def place(self) -> Place:
        """Where its bytes lie."""
        return Place(self.shard, self.offset, self.size)


class ShardWriter:
    """Write members into `root/folder/000000.tar`, `000001.tar`, …; a new tar starts after `max_bytes`."""

    def __init__(self, root: Path, folder: str, max_bytes: int = 512 << 20, first: int = 0) -> None:
        self.root, self.folder, self.max_bytes = root, folder, max_bytes
        self._next = first
        self._file: BinaryIO | None = None
        self._size = 0  # bytes of the tar under way
        (root / folder).mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish_shard()

    def add(self, name: str, data: bytes) -> Member:
        """Append one member, under a name that is safe to unpack; return where its bytes lie, and their sha256."""
        return Member(*self.append(name, data), hashlib.sha256(data).hexdigest())

    def append(self, name: str, data: bytes) -> Place:
        """Append one member as `add` does, without hashing it."""
        file = self._file
        if file is None or self._size > self.max_bytes:
            file = self._start_shard()
        info = tarfile.TarInfo(_member_name(name))  # mtime 0, owner 0: the bytes depend on names and data alone
        info.size = len(data)
        # TarFile.addfile writes the same bytes in twice the time
        header = info.tobuf(tarfile.PAX_FORMAT, tarfile.ENCODING)
        file.writelines((header, data, bytes(-len(data) % tarfile.BLOCKSIZE)))
        place = Place(self._shard, self._size + len(header), len(data))
        self._size = place.offset + len(data) + -len(data) % tarfile.BLOCKSIZE
        return place

    def _start_shard(self) -> BinaryIO:
        self._finish_shard()
        self._shard = f"{self.folder}/{self._next:06d}.tar"
        self._next += 1
        self._file = open(self.root / self._shard, "wb")  # noqa: SIM115 (closed by the next one, or at the end)
        self._size = 0
        return self._file

    def _finish_shard(self) -> None:
        """End the tar as TarFile.close does: by two empty blocks, and a whole number of records."""
        if self._file is not None:
            ended = self._size + 2 * tarfile.BLOCKSIZE
            with self._file:
                self._file.write(bytes(ended + -ended % tarfile.RECORDSIZE - self._size))


def _member_name(name: str) -> str:
    """Return a name that any tool can unpack below its folder; two may be equal, as the tables go by offset."""
    parts = re.split(r"[/\\]", re.sub(r"[\x00-\x1f\x7f]", "_", name[-MAX_NAME_CHARS:]))
    return "/".join(part for part in parts if part not in ("", ".", "..")) or "_"


def read_member(root: Path, place: Place, *, scattered: bool = False) -> bytes:
    """Return the bytes of one member. Raises UserError when the shard is missing or too short.

    scattered: its neighbours are not wanted next, so none of them is fetched from the disk.
    """
    path = root / place.shard
    try:
        with open(path, "rb", buffering=0) as file:
            if scattered and hasattr(os, "posix_fadvise"):
                # or the kernel fetches twice the bytes of a small view, and what it throws out for them is wanted
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            file.seek(place.offset)
            data = file.read(place.size)
    except FileNotFoundError:
        raise UserError(f"{path}: this shard is missing; run `dvc repro` or `dvc pull`") from None
    if len(data) != place.size:
        raise UserError(f"{path}: ends before byte {place.offset + place.size}; remove it and run `dvc repro`")
    return data
