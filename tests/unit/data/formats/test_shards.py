import io
import os
import tarfile
from pathlib import Path

import pytest

from tuwen.core.errors import UserError
from tuwen.data.formats import shards

FILES = {"熊猫-一只在吃竹子的大熊猫.jpg": b"\x01" * 700, "b.jpg": b"", "c" * 130 + ".png": b"\x02" * 512}


def write(root, max_bytes: int = 1 << 20) -> dict[str, shards.Member]:
    with shards.ShardWriter(root, "raw/labelled/shards", max_bytes) as writer:
        return {name: writer.add(name, data) for name, data in FILES.items()}


def test_members_are_read_back_by_their_offset(tmp_path) -> None:
    for name, member in write(tmp_path).items():
        assert shards.read_member(tmp_path, member.place) == FILES[name]


def test_a_shard_is_a_plain_tar_with_the_names_in_order(tmp_path) -> None:
    write(tmp_path)
    with tarfile.open(tmp_path / "raw/labelled/shards/000000.tar") as tar:
        assert tar.getnames() == list(FILES)
        assert tar.extractfile("b.jpg").read() == b""


def test_a_shard_has_the_bytes_that_tarfile_writes(tmp_path) -> None:
    write(tmp_path)
    with tarfile.TarFile(tmp_path / "expected.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    written = (tmp_path / "raw/labelled/shards/000000.tar").read_bytes()
    assert written == (tmp_path / "expected.tar").read_bytes()


def test_equal_members_give_equal_bytes(tmp_path) -> None:
    write(tmp_path / "one")
    write(tmp_path / "two")
    shard = "raw/labelled/shards/000000.tar"
    assert (tmp_path / "one" / shard).read_bytes() == (tmp_path / "two" / shard).read_bytes()


def test_names_of_members_stay_in_their_folder_and_bytes_are_found_by_offset(tmp_path) -> None:
    names = ["../../x", "/abs/猫.jpg", "a\\..\\b.txt", "c\0\n.jpg", "", "..", "猫" * 300 + ".jpg"]
    with shards.ShardWriter(tmp_path, "shards") as writer:
        members = [writer.add(name, name.encode()) for name in names]
    assert [shards.read_member(tmp_path, m.place).decode() for m in members] == names
    with tarfile.open(tmp_path / "shards/000000.tar") as tar:
        assert tar.getnames() == ["x", "abs/猫.jpg", "a/b.txt", "c__.jpg", "_", "_", "猫" * 196 + ".jpg"]


def test_a_full_shard_is_followed_by_another(tmp_path) -> None:
    members = write(tmp_path, max_bytes=1000)
    assert [m.shard[-10:] for m in members.values()] == ["000000.tar", "000001.tar", "000001.tar"]
    for name, member in members.items():
        assert shards.read_member(tmp_path, member.place) == FILES[name]


def test_a_scattered_read_fetches_no_neighbours_from_the_disk(tmp_path) -> None:
    with shards.ShardWriter(tmp_path, "shards") as writer:
        places = [writer.append(f"{n}.jpg", bytes([n]) * 36_000) for n in range(64)]
    fetched = {}
    for scattered in (False, True):
        with open(tmp_path / "shards/000000.tar", "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for place in places[9:11]:  # two members in memory before it look like a file that is read from end to end
            shards.read_member(tmp_path, place, scattered=scattered)
        before = count_fetched_bytes()
        assert shards.read_member(tmp_path, places[11], scattered=scattered) == bytes([11]) * 36_000
        fetched[scattered] = count_fetched_bytes() - before
    if not any(fetched.values()):
        pytest.skip("nothing is fetched from a disk here")
    assert fetched[True] <= 36_000 + 2 * 4096 < fetched[False]


def count_fetched_bytes() -> int:
    return int(Path("/proc/self/io").read_text().split("\nread_bytes: ")[1].split()[0])


def test_a_missing_or_cut_shard_is_named(tmp_path) -> None:
    member = next(iter(write(tmp_path).values()))
    with pytest.raises(UserError, match=r"000007\.tar: this shard is missing"):
        shards.read_member(tmp_path, shards.Place("raw/labelled/shards/000007.tar", 0, 1))
    path = tmp_path / member.shard
    path.write_bytes(path.read_bytes()[: member.offset + 10])
    with pytest.raises(UserError, match=r"000000\.tar: ends before byte"):
        shards.read_member(tmp_path, member.place)
