"""The table of real photographs: what of two packages is a photograph with a Chinese name, and what is not."""

import csv
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from benchmarks import photographs
from tests.support.retrieval import draw

STAMPS = "./usr/share/tuxpaint/stamps"


def pack(files: dict[str, bytes], mode: str) -> bytes:
    with io.BytesIO() as made:
        with tarfile.open(fileobj=made, mode=mode) as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return made.getvalue()


def wrap_in_ar(members: dict[str, bytes]) -> bytes:
    made = photographs.AR_MAGIC
    for name, data in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        made += header + data + b"\n" * (len(data) % 2)
    return made


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    picture = draw("red", "圆形")
    food = {
        f"package/assets/{name}": picture for name in ("foods/水饺.jpg", "drinks/绿茶.png", "extra_foods/蛋.jpg")
    }
    stamps = dict.fromkeys(
        [
            f"{STAMPS}/animals/cat.png",
            f"{STAMPS}/animals/cartoon/dog.png",
            f"{STAMPS}/animals/hen.png",
            f"{STAMPS}/symbols/chess/king.png",
            f"{STAMPS}/symbols/money/euro/coins/one.png",
        ],
        picture,
    )
    named = {
        path.replace(".png", ".txt"): "A thing.\nzh_CN.utf8=东西。\nzh_TW.utf8=物品\n".encode() for path in stamps
    }
    named[f"{STAMPS}/animals/hen.txt"] = "A hen.\nzh_TW.utf8=母雞\n".encode()
    members = {"debian-binary": b"2.0", "control.tar.xz": b"", "data.tar.xz": pack(stamps | named, "w:xz")}
    for kind, data in (("FOOD", pack(food, "w:gz")), ("STAMPS", wrap_in_ar(members))):
        name = getattr(photographs, kind)[0]
        (tmp_path / name).write_bytes(data)
        monkeypatch.setattr(photographs, kind, (name, hashlib.sha256(data).hexdigest()))
    return tmp_path


def test_photographs_with_a_chinese_name_become_a_table(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = packages / "out"
    monkeypatch.setattr("sys.argv", ["photographs", str(packages), str(out)])
    photographs.main()
    with (out / "pairs.csv").open(encoding="utf-8", newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert rows == [
        ("drinks/绿茶.png", "绿茶", "饮料"),
        ("foods/水饺.jpg", "水饺", "菜肴"),
        ("stamps/animals/cat.png", "东西", "动物"),
        ("stamps/symbols/money/euro/coins/one.png", "东西", "硬币"),
    ]
    assert all((out / path).read_bytes() == draw("red", "圆形") for path, _, _ in rows)


def test_another_version_of_a_package_is_refused(packages: Path) -> None:
    (packages / photographs.FOOD[0]).write_bytes(b"newer")
    with pytest.raises(SystemExit, match=r"sha256 is [0-9a-f]{64}, expected"):
        photographs.read_pinned(packages, *photographs.FOOD)
