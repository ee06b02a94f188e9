"""Tars in a folder, and lists of tars that stay where they are."""

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from tuwen.core.errors import UserError
from tuwen.core.params import WebdatasetSource
from tuwen.data import sources
from tuwen.data.formats import pairs
from tuwen.data.sources import webdataset
from tuwen.data.sources.records import ImageRecord, NoteRecord, PairRecord, Record, TextRecord

CAPTIONS = ["一只大熊猫坐在竹林里吃竹子", "雨后的街道上，行人撑着伞走过"]


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def source(root: Path, caption: str = "caption") -> WebdatasetSource:
    return WebdatasetSource(kind="webdataset", root=str(root), caption=caption)


def read(root: Path, caption: str = "caption") -> list[Record]:
    return list(sources.read_source(source(root, caption))["labelled"])


def test_every_tar_below_the_folder_is_read_in_order(tmp_path: Path) -> None:
    both = json.dumps({"zh": CAPTIONS}, ensure_ascii=False).encode()
    write_tar(tmp_path / "b/00001.tar", {"7.png": b"png", "7.json": both})
    write_tar(tmp_path / "a.tar", {"7.jpg": b"jpg", "7.txt": CAPTIONS[0].encode()})
    assert read(tmp_path, "zh") == [
        ImageRecord("a/7", b"jpg", "a.tar", 1),
        TextRecord("a/7#1", CAPTIONS[0], "a.tar", 1),
        PairRecord("a/7#1", "a/7", "a/7#1", "a.tar", 1),
        ImageRecord("b/00001/7", b"png", "b/00001.tar", 1),
        TextRecord("b/00001/7#1", CAPTIONS[0], "b/00001.tar", 1),
        PairRecord("b/00001/7#1", "b/00001/7", "b/00001/7#1", "b/00001.tar", 1),
        TextRecord("b/00001/7#2", CAPTIONS[1], "b/00001.tar", 1),
        PairRecord("b/00001/7#2", "b/00001/7", "b/00001/7#2", "b/00001.tar", 1),
    ]


def test_ids_stay_when_another_tar_comes(tmp_path: Path) -> None:
    write_tar(tmp_path / "b.tar", {"1.jpg": b"1"})
    before = read(tmp_path)
    write_tar(tmp_path / "a.tar", {"1.jpg": b"0"})
    assert read(tmp_path)[1:] == before


def test_a_tar_in_capitals_is_one_too(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"1.jpg": b"0"})
    write_tar(tmp_path / "B.TAR", {"1.jpg": b"1"})
    images = [record for record in read(tmp_path) if isinstance(record, ImageRecord)]
    assert {(image.image_id, image.file, image.data) for image in images} == {
        ("a/1", "a.tar", b"0"),
        ("B/1", "B.TAR", b"1"),
    }


def test_a_key_that_comes_twice_in_a_tar_stays_two_pictures(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"1.jpg": b"1", "2.jpg": b"2", "1.png": b"3"})
    *found, note = read(tmp_path)
    assert [(p.image_id, p.data, p.row) for p in found] == [
        ("a/1", b"1", 1),
        ("a/2", b"2", 2),
        ("a/1@3", b"3", 3),
    ]
    assert note == NoteRecord("keys that come again in their tar", "a/1@3")


def test_what_is_missing_is_named_in_its_place(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"1.txt": b"x", "../2.jpg": b"", "3.jpg": b"3", "4.jpg": b"4" * 600})
    tar.write_bytes(tar.read_bytes()[:3400])
    found = read(tmp_path)
    assert [(p.image_id, p.fault, p.row) for p in found if isinstance(p, ImageRecord)] == [
        ("a/1", "missing", 1),
        ("a/../2", "outside_source", 2),
        ("a/3", None, 3),
        ("a/4", "unreadable_record", 4),
    ]
    assert [c.caption for c in found if isinstance(c, TextRecord)] == ["x"]


@pytest.mark.parametrize(
    ("ending", "mode"),
    [
        *((ending, "w:gz") for ending in (".tar.gz", ".tgz", ".TGZ")),
        *((ending, "w:bz2") for ending in (".tar.bz2", ".tbz2")),
        *((ending, "w:xz") for ending in (".tar.xz", ".txz")),
    ],
)
def test_a_compressed_tar_is_read_beside_the_others(tmp_path: Path, ending: str, mode: str) -> None:
    write_tar(tmp_path / "a.tar", {"1.jpg": b"0"})
    plain = write_tar(tmp_path / "plain", {"1.jpg": b"1", "1.txt": CAPTIONS[0].encode()})
    with tarfile.open(plain) as source, tarfile.open(tmp_path / f"b{ending}", mode) as packed:  # type: ignore[call-overload]
        for member in source:
            packed.addfile(member, source.extractfile(member))
    plain.unlink()
    images = [record for record in read(tmp_path) if isinstance(record, ImageRecord)]
    assert [(one.image_id, one.file, one.data) for one in images] == [
        ("a/1", "a.tar", b"0"),
        ("b/1", f"b{ending}", b"1"),
    ]
    assert webdataset.find_shards([tmp_path]) == [tmp_path / "a.tar", tmp_path / f"b{ending}"]


@pytest.mark.parametrize(
    "name",
    [
        "b.tar.zst",
        "b.zip",
        "b.7z",
        "b.rar",
        "b.tar.lz4",
        "b.tar.001",
        "b.tar.part2",
        "b.tar.gz.aa",
        "b.gz",
        "b.z01",
    ],
)
def test_an_archive_that_is_not_read_is_an_error_beside_tars(tmp_path: Path, name: str) -> None:
    write_tar(tmp_path / "a.tar", {"1.jpg": b"0"})
    (tmp_path / name).write_bytes(b"x")
    for find in (read, lambda root: webdataset.find_shards([root])):
        with pytest.raises(UserError, match=rf"{name}: an archive that is not read, among 1 tars"):
            find(tmp_path)


def test_two_tars_that_would_give_equal_ids_are_an_error_and_other_files_are_noted(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"1.jpg": b"0"})
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "a.tar.md5").write_text("x")
    assert read(tmp_path)[1:] == [
        NoteRecord("files that are no tars", name) for name in ("README.md", "a.tar.md5")
    ]
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar.read_bytes()))
    with pytest.raises(UserError, match=r"a\.tar and a\.tar\.gz would give equal ids"):
        read(tmp_path)


def write_old_tar(path: Path, names: list[str], encoding: str) -> None:
    """Write a tar as programs without pax do: each name in the encoding of the machine; a caption for each."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding=encoding) as tar:
        for name in names:
            for end, data in (("jpg", b"1"), ("txt", "雨后的街道".encode())):
                info = tarfile.TarInfo(f"{name}.{end}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("big5", ["雨後的街道", "一隻貓坐在沙發上", "紅色連衣裙", "照片/蘋果手機殼"]),
        ("gbk", ["雨后的街道", "一只猫坐在沙发上", "红色连衣裙", "照片/苹果手机壳"]),
        ("gbk", ["图片", "红色连衣裙和一只猫", "两个人在海边散步"]),  # the first alone would be UTF-8 too: ͼƬ
        ("utf-8", ["猫", "狗"]),
    ],
)
def test_names_in_a_tar_are_read_in_the_encoding_that_fits_all_of_them(
    tmp_path: Path, encoding: str, names: list[str]
) -> None:
    write_old_tar(tmp_path / "a.tar", names, encoding)
    records = read(tmp_path)
    assert [one.image_id for one in records if isinstance(one, ImageRecord)] == [f"a/{name}" for name in names]
    notes = [one.what for one in records if isinstance(one, NoteRecord)]
    read_as = {"big5": "cp950", "gbk": "gb18030"}.get(encoding)
    assert notes == [f"names of members read as {read_as}"] * (2 * len(names) if read_as else 0)


def test_names_in_a_tar_of_which_nobody_can_tell_are_noted_and_a_person_overrules(tmp_path: Path) -> None:
    write_old_tar(tmp_path / "a.tar", ["貓"], "big5")
    image, *_, note = read(tmp_path)
    assert isinstance(image, ImageRecord)
    assert note == NoteRecord("names of members whose encoding cannot be told, read as gb18030", "a.tar")
    told = source(tmp_path).model_copy(update={"encoding": "big5"})
    image, *_ = [*sources.read_source(told)["labelled"]]
    assert isinstance(image, ImageRecord)
    assert image.image_id == "a/貓"


def test_halves_of_surrogate_pairs_are_noted_and_a_key_twice_is_no_record(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar",
        {
            "1.jpg": b"1",
            "1.json": rb'{"caption": "\ud83d"}',
            "2.jpg": b"2",
            "2.json": b'{"caption": 1, "caption": 2}',
        },
    )
    records = read(tmp_path)
    assert [one.fault for one in records if isinstance(one, ImageRecord)] == [None, "unreadable_record"]
    assert records[-1] == NoteRecord(
        "halves of surrogate pairs in JSON, an emoji cut in two, read as U+FFFD", "a.tar"
    )


def test_a_folder_without_tars_and_a_tar_that_is_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}: no such folder, or no .tar in it"):
        read(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"<html>404</html>")
    with pytest.raises(UserError, match=r"a\.tar: no tar from byte 0 on"):
        read(tmp_path)
    with pytest.raises(UserError, match="a list of shards is for `corpus` alone"):
        read(tmp_path / "shards.csv")


def test_a_list_of_shards_is_written_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUWEN_WORKERS", "1")
    monkeypatch.chdir(tmp_path)
    panda = {"1.jpg": b"1", "1.txt": CAPTIONS[0].encode(), "2.png": b"2", "2.json": b"{}", "3.jpg": b"3"}
    names = ("shards/a.tar", "shards/熊猫,b.tar", "more.tar")
    tars = [write_tar(Path(name), panda | {"4.cls": name.encode()}) for name in names]
    with open("list.csv", "w", encoding="utf-8", newline="") as file:
        webdataset.list_shards([Path("shards"), Path("more.tar")], file)
    rows = webdataset.read_shard_list(source(Path("list.csv"), "text")).to_pylist()
    digests = [hashlib.sha256(tar.read_bytes()).hexdigest() for tar in tars]
    known = {"size": tars[0].stat().st_size, "pairs": 2, "caption_key": "text", "source": None}
    assert rows == [
        {"address": name, "sha256": digest, **known} for name, digest in zip(names, digests, strict=True)
    ]


def test_a_tar_whose_name_is_not_utf_8_is_not_listed(tmp_path: Path) -> None:
    write_tar(tmp_path / os.fsdecode("熊猫.tar".encode("gbk")), {"1.jpg": b"1"})
    with pytest.raises(UserError, match=r"\\udcd0.*\.tar': the name is not UTF-8; rename it"):
        webdataset.list_shards([tmp_path], io.StringIO())


def test_a_list_may_name_urls_in_any_order_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"pairs,sha256,note,size,address\n5,{'0' * 64},鱼,1,s3://bucket/a.tar\n", encoding="utf-8-sig")
    table = webdataset.read_shard_list(source(path))
    assert table.schema.names == pairs.SHARDS.names
    assert table["address"].to_pylist() == ["s3://bucket/a.tar"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("s3://a.tar,1,00,5", r"list\.csv:2: sha256 is '00', expected 64 hexadecimal digits"),
        ("s3://a.tar,one,{0},5", r"list\.csv:2: size is 'one', expected a whole number"),
        ("s3://a.tar,1,{0},-5", r"list\.csv:2: pairs is '-5', expected a whole number"),
        ("nowhere.tar,1,{0},5", r"list\.csv:2: nowhere\.tar not found; a path starts from the repository's root"),
        ("{1},1,{0},5", r"list\.csv:2: .*has 10240 bytes, expected 1; copy it again"),
        ("s3://a.tar,1,{0},5\ns3://a.tar,1,{0},5", r"list\.csv:3: s3://a\.tar is listed twice"),
        ("s3://b.tar,1,{0},5\ns3://a.tar,1,{0},5", r"list\.csv:3: the same sha256 as in line 2: one tar twice"),
        ("s3://a.tar,1,{0}", r"list\.csv:2: found 3 fields, expected 4"),
    ],
)
def test_a_wrong_line_of_a_list_is_named(tmp_path: Path, line: str, message: str) -> None:
    tar = write_tar(tmp_path / "a.tar", {"1.jpg": b"1"})
    path = tmp_path / "list.csv"
    path.write_text("address,size,sha256,pairs\n" + line.format("0" * 64, tar) + "\n")
    with pytest.raises(UserError, match=message):
        webdataset.read_shard_list(source(path))


def test_names_with_dots_are_pictures_of_their_own_and_leftovers_are_noted(tmp_path: Path, capsys) -> None:
    members = {f"iPhone6.7寸-{n:03d}.{end}": f"{n}".encode() for n in range(60, 100) for end in ("jpg", "txt")}
    more = {"1.avif": b"a", "1.cls": b"7", "1.txt": b"x", "2.image.TIF": b"b", "2.caption.txt": b"y"}
    tar = write_tar(tmp_path / "a.tar", members | more | {"._1.avif": b"", ".DS_Store": b"", "README": b""})
    (tmp_path / "._a.tar").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    records = read(tmp_path)
    captions = {one.text_id: one.caption for one in records if isinstance(one, TextRecord)}
    images = {one.image_id: one.data for one in records if isinstance(one, ImageRecord)}
    found = [(images[p.image_id], captions[p.text_id]) for p in records if isinstance(p, PairRecord)]
    assert found == [*((f"{n}".encode(), f"{n}") for n in range(60, 100)), (b"a", "x"), (b"b", "y")]
    assert len(images) == 42
    left_over = {".cls": 1, "hidden": 2, "without extension": 1}
    notes = [one for one in records if not isinstance(one, ImageRecord | TextRecord | PairRecord)]
    assert notes == [
        NoteRecord(f"members left over: {what}", "a.tar") for what, n in left_over.items() for _ in range(n)
    ]
    assert webdataset.measure_shard(tar)[2] == 42
    assert "a.tar: members left over: .cls 1, hidden 2, without extension 1" in capsys.readouterr().err
