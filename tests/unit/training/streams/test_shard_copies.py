"""Copies of remote shards: what is held stays, the rest leaves for what is new; no folder outlives its owner."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.shaky_server import ShakyServer, serve_shakily
from tests.support.training import members, write_shard
from tuwen.core.errors import UserError
from tuwen.data.formats.foreign_tar import mended_file
from tuwen.training.streams.shard_copies import ShardCopies, open_shard_copies


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShakyServer]:
    monkeypatch.setattr(mended_file, "PAUSES_SECONDS", (0.001,) * 2)
    with serve_shakily(tmp_path / "far", ["503", "drop", "slow"]) as server:
        yield server


@pytest.fixture
def far(server: ShakyServer, tmp_path: Path) -> list[dict[str, Any]]:
    """Four shards on the server."""
    rows = [write_shard(tmp_path / f"far/{n}.tar", members(range(8 * n, 8 * n + 8)), 8) for n in range(4)]
    return [row | {"address": f"{server.address}/{n}.tar"} for n, row in enumerate(rows)]


def test_what_is_held_stays_and_what_was_let_go_leaves_for_what_is_new(far, server, tmp_path) -> None:
    room = max(row["size"] for row in far)
    copies = ShardCopies(tmp_path / "copies", 2 * room)
    assert copies.hold(far[:2])
    assert not copies.hold(far[2:3])  # both are held
    for row, name in zip(far[:2], ("0.tar", "1.tar"), strict=True):
        assert copies.wait_for(row).read_bytes() == (tmp_path / "far" / name).read_bytes()
    copies.release(far[:1])
    assert copies.wait_for(far[0]) is None
    assert copies.hold(far[2:3])
    assert copies.wait_for(far[2]).stat().st_size == far[2]["size"]
    assert len(list(tmp_path.glob("copies/*/*.tar"))) == 2
    copies.release(far[1:3])
    asked = len(server.asked)
    assert copies.hold(far[1:3])  # both are there
    assert copies.wait_for(far[1])
    assert len(server.asked) == asked
    assert not ShardCopies(tmp_path / "copies", far[1]["size"] - 1).hold(far[1:2])
    assert copies.hold([])


def test_a_shard_that_cannot_be_had_is_an_error_and_a_full_disk_is_none(far, tmp_path, capfd, monkeypatch) -> None:
    copies = ShardCopies(tmp_path / "copies", 10**9)
    assert copies.hold([far[0] | {"sha256": "00"}])
    with pytest.raises(UserError, match=r"0\.tar: sha256 \w+ found, 00 expected"):
        copies.wait_for(far[0] | {"sha256": "00"})
    (full := tmp_path / "full").mkdir()
    own = full, os.open(os.devnull, os.O_RDONLY)
    monkeypatch.setattr("tuwen.training.streams.shard_copies._make_own_folder", lambda root: own)
    (full / f"{far[1]['sha256']}.tar").symlink_to("/dev/full")
    copies = ShardCopies(tmp_path / "copies", 10**9)
    assert copies.hold([far[1]])
    assert copies.wait_for(far[1]) is None
    assert copies.wait_for(far[1]) is None
    assert capfd.readouterr().err.count("No space left on device; such shards are read without a copy") == 1


def test_a_folder_goes_with_its_process_and_after_a_kill_with_the_next(far, tmp_path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from tuwen.training.streams.shard_copies import ShardCopies\n"
        "copies = ShardCopies(Path(sys.argv[1]), 10**9)\n"
        "copies.hold([eval(sys.argv[2])])\n"
        "print(len(list(Path(sys.argv[1]).glob('*/lock'))), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL) if sys.argv[3] == 'kill' else None\n"
    )
    local = far[0] | {"address": str(tmp_path / "far/0.tar")}
    living = ShardCopies(tmp_path / "copies", 10**9)
    assert living.hold([local])
    seen = []
    for end in ("kill", "exit"):
        command = [sys.executable, "-c", code, str(tmp_path / "copies"), repr(local), end]
        seen.append(int(subprocess.run(command, stdout=subprocess.PIPE, timeout=240).stdout))
    assert seen == [2, 2]  # its own and that of the living one
    assert len(list(tmp_path.glob("copies/*/lock"))) == 1
    assert living.wait_for(local)


def test_the_bound_is_shared_by_the_processes_of_a_machine(tmp_path, monkeypatch) -> None:
    row = write_shard(tmp_path / "0.tar", members(range(8)), 8)
    monkeypatch.setenv("TUWEN_CACHE", str(tmp_path))
    monkeypatch.setenv("TUWEN_SHARD_CACHE_GB", str(2 * row["size"] / 1e9))
    copies = open_shard_copies()
    assert copies.hold([row])
    assert copies.wait_for(row).is_relative_to(tmp_path / "shards")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert not open_shard_copies().hold([row])
    monkeypatch.setenv("TUWEN_SHARD_CACHE_GB", "much")
    with pytest.raises(UserError, match=r"TUWEN_SHARD_CACHE_GB: a number of gigabytes is expected, got 'much'"):
        open_shard_copies()
