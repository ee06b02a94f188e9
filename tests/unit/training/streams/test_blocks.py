"""Blocks in their order: shards are opened once, remote ones copied ahead within the room that there is."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.shaky_server import serve_shakily
from tests.support.training import members, write_shard
from tuwen.data.formats.foreign_tar import mended_file
from tuwen.data.formats.foreign_tar.listed_shard import read_shard
from tuwen.training.streams import blocks
from tuwen.training.streams.blocks import SpanReader, copy_ahead, read_ahead
from tuwen.training.streams.dealing import group_blocks, list_spans
from tuwen.training.streams.shard_copies import ShardCopies


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, Any]]:
    return [write_shard(tmp_path / f"far/{n}.tar", members(range(8 * n, 8 * n + 8)), 8) for n in range(6)]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Name and whether it was a copy, of each shard that is opened."""
    seen = []

    def read(row: dict[str, Any], copy: Path | None = None) -> Iterator[Any]:
        seen.append((row["address"].rpartition("/")[2], copy is not None))
        return read_shard(row, copy=copy)

    monkeypatch.setattr(blocks, "read_shard", read)
    return seen


def test_a_shard_of_many_blocks_is_opened_once(rows, opened, tmp_path) -> None:
    spans = list(list_spans(rows, 0, 3, 2 * 48 - 5))
    cut = list(group_blocks(spans, rows[0]["size"] // 4))
    assert len(cut) > 3 * len(spans)
    reader = SpanReader(ShardCopies(tmp_path / "copies", 0))
    keys = [sample.key for block in cut for span in block for sample in reader.read(span)]
    whole = [[sample.key for sample in read_shard(span.shard)] for span in spans]
    assert keys == [key for span, one in zip(spans, whole, strict=True) for key in one[span.first : span.last]]
    assert [name for name, _ in opened] == [Path(span.shard["address"]).name for span in spans]
    later = [sample.key for sample in reader.read(cut[5][0])]  # not the next one
    assert later == keys[sum(span.pairs for block in cut[:5] for span in block) :][: len(later)]


@pytest.mark.parametrize("room", [0, 1, 2, 100])
def test_remote_shards_come_from_copies_where_there_is_room(rows, opened, tmp_path, monkeypatch, room) -> None:
    monkeypatch.setattr(mended_file, "PAUSES_SECONDS", (0.001,) * 3)
    with serve_shakily(tmp_path / "far", ["503", "", "drop", "slow", "drop", "503"]) as server:
        far = [row | {"address": f"{server.address}/{n}.tar"} for n, row in enumerate(rows)]
        copies = ShardCopies(tmp_path / "copies", room * max(row["size"] for row in rows))
        reader, keys = SpanReader(copies), []
        for block in copy_ahead(([span] for span in list_spans(far, 0, 0, 48)), copies):
            keys += [sample.key for span in block for sample in reader.read(span)]
            assert len(list(tmp_path.glob("copies/*/*.tar"))) <= room
    assert sorted(keys, key=int) == [str(n) for n in range(48)]
    assert [copied for _, copied in opened] == [room > 0] * 6


def test_the_next_item_is_made_ahead_and_none_behind_the_count() -> None:
    made, wanted = [], threading.Event()

    def make() -> Iterator[int]:
        for n in range(5):
            made.append(n)
            if n == 1:
                wanted.set()
            yield n

    items = read_ahead(make(), 2)
    assert next(items) == 0
    assert wanted.wait(60)  # while the caller has the first
    assert next(items) == 1
    assert made == [0, 1]
    assert list(items) == [2, 3, 4]
