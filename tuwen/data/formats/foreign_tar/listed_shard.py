"""Shards of a list (`pairs.SHARDS`), which stay where they are: each is read from end to end, and checked.

A shard is the tar that the list means if its size, and after its last byte its sha256, are those of the list.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from tuwen.core.errors import UserError, hide_credentials
from tuwen.data.formats.foreign_tar.mended_file import MendedFile, describe_error, find_local, find_storage_remedy
from tuwen.data.formats.foreign_tar.tar_stream import Sample, read_samples

SHARD_REMEDY = "get it again, or list it anew with `tuwen shards`"
BLOCK_BYTES = 1 << 20


def read_shard(
    row: Mapping[str, Any], left_over: Counter[str] | None = None, copy: Path | None = None
) -> Iterator[Sample]:
    """Yield the samples of one listed shard, from its address, or from a `copy` of it on this machine.

    left_over: as in `read_samples`. Raises UserError where it cannot be opened or read, and where its size, or
    after the last sample its sha256, is not the listed one.
    """
    with open_shard(row, copy) as shard:
        try:
            yield from read_samples(cast(BinaryIO, shard), row["caption_key"], left_over=left_over)
            shard.finish()
        except _UnreadableError as error:  # tarfile would take most errors for one of the tar
            raise _make_storage_error(row, "read", error.fault, copy) from None


def copy_shard(row: Mapping[str, Any], copy: Path) -> None:
    """Write a checked copy of a shard; raises as `read_shard`, and OSError where there is no room."""
    with open_shard(row) as shard, open(copy, "wb") as file:
        try:
            while data := shard.read(BLOCK_BYTES):
                file.write(data)
            shard.finish()
        except _UnreadableError as error:
            raise _make_storage_error(row, "read", error.fault) from None


def open_shard(row: Mapping[str, Any], copy: Path | None = None) -> "HashedShard":
    """Open a shard to be read once. Raises UserError where that fails, or its size is not the listed one."""
    try:
        file = MendedFile(str(copy or row["address"]))
    except Exception as error:  # each kind of storage has its own
        raise _make_storage_error(row, "opened", error, copy) from None
    if file.size is not None and file.size != row["size"]:
        raise _make_error(row, f"{file.size} bytes found, {row['size']} expected")
    return HashedShard(file, row)


class HashedShard:
    """A shard that is hashed as it is read."""

    def __init__(self, file: MendedFile, row: Mapping[str, Any]) -> None:
        self._file, self._row, self.name, self._sha256 = file, row, str(row["address"]), hashlib.sha256()

    def __enter__(self) -> "HashedShard":
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, none at the end."""
        try:
            data = self._file.read(size)
        except Exception as error:  # each kind of storage has its own
            raise _UnreadableError(error) from None
        self._sha256.update(data)
        return data

    def finish(self) -> None:
        """Read what is left. Raises UserError where it is not the listed shard."""
        while self.read(BLOCK_BYTES):
            pass
        if (sha256 := self._sha256.hexdigest()) != self._row["sha256"]:
            raise _make_error(self._row, f"sha256 {sha256} found, {self._row['sha256']} expected")


class _UnreadableError(Exception):
    """What the storage raised, under a name that no reader of tars catches."""

    def __init__(self, fault: Exception) -> None:
        super().__init__(fault)
        self.fault = fault


def _make_storage_error(
    row: Mapping[str, Any], deed: str, error: Exception, copy: Path | None = None
) -> UserError:
    is_remote = find_local(str(copy or row["address"])) is None  # of what was read: our own disk needs no keys
    remedy = find_storage_remedy(error) if is_remote else None
    return _make_error(row, f"this shard cannot be {deed}: {describe_error(error)}", remedy or SHARD_REMEDY)


def _make_error(row: Mapping[str, Any], fault: str, remedy: str = SHARD_REMEDY) -> UserError:
    return UserError(f"{hide_credentials(str(row['address']))}: {fault}; {remedy}")
