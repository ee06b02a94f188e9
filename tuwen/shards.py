"""Tar shards (WebDataset layout): deterministic bytes, sequential writing, random access by offset."""

import hashlib
import io
import tarfile
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from tuwen.errors import UserError


class Member(NamedTuple):
    """Where one file's bytes lie: shard path relative to the data root, offset and size in bytes."""

    shard: str
    offset: int
    size: int
    sha256: str


class ShardWriter:
    """Write members into `root/folder/000000.tar`, `000001.tar`, …; a new tar starts after `max_bytes`."""

    def __init__(self, root: Path, folder: str, max_bytes: int = 512 << 20, first: int = 0) -> None:
        self.root, self.folder, self.max_bytes = root, folder, max_bytes
        self._next = first
        self._tar: tarfile.TarFile | None = None
        (root / folder).mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tar is not None:
            self._tar.close()

    def add(self, name: str, data: bytes) -> Member:
        """Append one member and say where its bytes lie."""
        tar = self._tar
        if tar is None or tar.offset > self.max_bytes:
            tar = self._start_shard()
        info = tarfile.TarInfo(name)  # mtime 0, owner 0: the bytes depend on names and data alone
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
        padding = -len(data) % tarfile.BLOCKSIZE
        offset = tar.offset - padding - len(data)
        return Member(self._shard, offset, len(data), hashlib.sha256(data).hexdigest())

    def _start_shard(self) -> tarfile.TarFile:
        if self._tar is not None:
            self._tar.close()
        self._shard = f"{self.folder}/{self._next:06d}.tar"
        self._next += 1
        self._tar = tarfile.TarFile(self.root / self._shard, mode="w", format=tarfile.PAX_FORMAT)
        return self._tar


def read(root: Path, shard: str, offset: int, size: int) -> bytes:
    """The bytes of one member. Raises UserError when the shard is missing or too short."""
    try:
        with open(root / shard, "rb") as file:
            file.seek(offset)
            data = file.read(size)
    except FileNotFoundError:
        raise UserError(f"{root / shard}: this shard is missing; run `dvc repro` or `dvc pull`") from None
    if len(data) != size:
        raise UserError(f"{root / shard}: ends before byte {offset + size}; remove it and run `dvc repro`")
    return data
