"""A shard of a list as its samples, and as a copy; the list's size and sha256 decide whether it is the one."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.shaky_server import serve_shakily
from tests.support.training import members, write_shard
from tuwen.core.errors import UserError
from tuwen.data.formats.foreign_tar import mended_file
from tuwen.data.formats.foreign_tar.listed_shard import copy_shard, read_shard
from tuwen.data.formats.foreign_tar.mended_file import MendedFile


@pytest.fixture
def row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(mended_file, "PAUSES_SECONDS", (0.001,) * 2)
    return write_shard(tmp_path / "0.tar", members(range(8)), 8)


def test_a_copy_has_the_bytes_and_the_samples(row: dict[str, Any], tmp_path: Path) -> None:
    copy_shard(row, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "0.tar").read_bytes()
    samples = list(read_shard(row))
    (tmp_path / "0.tar").unlink()
    assert list(read_shard(row, copy=tmp_path / "copy")) == samples
    assert len(samples) == 8


def test_a_copy_of_another_shard_is_refused(row: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"0\.tar: sha256 \w+ found, 00 expected; get it again"):
        copy_shard(row | {"sha256": "00"}, tmp_path / "copy")


def test_a_server_that_fails_for_good_in_the_middle_of_a_tar_is_named(row: dict[str, Any], tmp_path: Path) -> None:
    with serve_shakily(tmp_path, ["drop", *["503"] * 9]) as server:
        far = row | {"address": f"{server.address}/0.tar"}
        with pytest.raises(UserError, match=r"0\.tar: this shard cannot be read: Client.*503.*; run the same"):
            list(read_shard(far))
        server.faults.clear()
        server.faults.extend(["drop", "503"])
        assert list(read_shard(far)) == list(read_shard(row))


def fail(*_: object) -> bytes:
    """Be a disk that is broken."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_fault_of_our_own_disk_is_none_of_the_storage(
    row: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = row | {"address": "http://127.0.0.1:9/0.tar"}
    monkeypatch.setattr(MendedFile, "read", fail)
    with pytest.raises(UserError, match=r"0\.tar: this shard cannot be read: OSError: .*error; get it again"):
        list(read_shard(far, copy=tmp_path / "0.tar"))
    with pytest.raises(UserError, match=r"0\.tar: this shard cannot be opened: IsADirectoryError.*; get it again"):
        list(read_shard(far, copy=tmp_path))


@pytest.mark.parametrize("copies", [True, False])
def test_a_fault_behind_the_last_byte_is_named(
    copies: bool, row: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends, read = list[bool](), MendedFile.read

    def fail_behind_the_end(file: MendedFile, size: int = -1) -> bytes:
        if ends:
            fail()
        data = read(file, size)
        ends.extend([True] * (not data))
        return data

    monkeypatch.setattr(MendedFile, "read", fail_behind_the_end)
    with pytest.raises(UserError, match=r"0\.tar: this shard cannot be read: OSError: "):
        copy_shard(row, tmp_path / "copy") if copies else list(read_shard(row))
