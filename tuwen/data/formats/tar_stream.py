"""Shards that stay where they are (`pairs.SHARDS`): opened by fsspec, from a disk or an address, and checked."""

import hashlib
import io
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from tuwen.core.errors import UserError
from tuwen.data.formats import shards

AGAIN = "get it again, or list it anew with `tuwen shards`"


def read_shard(row: dict[str, Any]) -> Iterator[shards.Sample]:
    """The samples of one listed shard (`pairs.SHARDS`), read once from end to end, from a disk or by fsspec.

    Raises UserError where it cannot be opened or read, and where its size, or its sha256 once it was read to the
    end, is not the listed one.
    """
    import fsspec

    address = row["address"]
    try:
        files, path = fsspec.core.url_to_fs(address)
        size = files.size(path)
        file = files.open(path, "rb")
    except Exception as error:  # each kind of storage has its own
        raise UserError(f"{address}: this shard cannot be opened: {error!r:.200}; {AGAIN}") from None
    with file:
        if size is not None and size != row["size"]:
            raise UserError(f"{address}: {size} bytes found, {row['size']} expected; {AGAIN}")
        hashed = _Hashed(file, address)
        yield from shards.read_samples(cast(BinaryIO, hashed), row["caption_key"])
        while hashed.read(1 << 20):
            pass
    if hashed.sha256.hexdigest() != row["sha256"]:
        raise UserError(f"{address}: sha256 {hashed.sha256.hexdigest()} found, {row['sha256']} expected; {AGAIN}")


class _Hashed:
    """A file that is hashed as it is read."""

    def __init__(self, file: io.BufferedIOBase, name: str) -> None:
        self._file, self.name, self.sha256 = file, name, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.sha256.update(data)
        return data
