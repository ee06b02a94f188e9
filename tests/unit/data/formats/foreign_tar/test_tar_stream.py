import gzip
import io
import json
import subprocess
import tarfile
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuwen.core.errors import UserError
from tuwen.data.formats.foreign_tar import tar_stream
from tuwen.data.formats.foreign_tar.tar_keys import TarPart, group_parts
from tuwen.data.formats.foreign_tar.tar_stream import Sample

CAPTION = "一只大熊猫坐在竹林里吃竹子"
PANDA = {"panda.jpg": b"\xff\xd8panda", "panda.txt": CAPTION.encode()}


def tar_of(members: dict[str, bytes] | list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, data in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def samples(tar: bytes, caption_key: str = "caption") -> list[Sample]:
    return list(tar_stream.read_samples(io.BytesIO(tar), caption_key))


def test_members_of_one_key_are_one_sample() -> None:
    coffee = {"caption": ["一杯拿铁咖啡", "拉花"], "url": "…"}
    tar = tar_of(
        PANDA
        | {"街景/1.cls": b"7", "街景/1.PNG": b"png", "街景/1.json": json.dumps(coffee).encode()}
        | {"bare.webp": b"webp", "lonely.txt": "没有图片".encode(), "README": b"", ".hidden.jpg": b""}
    )
    assert samples(tar) == [
        Sample("panda", b"\xff\xd8panda", [CAPTION]),
        Sample("街景/1", b"png", ["一杯拿铁咖啡", "拉花"]),
        Sample("bare", b"webp", []),
        Sample("lonely", None, ["没有图片"], "missing"),
    ]
    assert tar_stream.count_pairs(io.BytesIO(tar)) == 2


def test_a_caption_in_both_txt_and_json_comes_once_and_repeats_in_json_stay() -> None:
    body = {"text": ["竹子", "熊猫", "竹子"]}
    tar = tar_of({"a.jpg": b"1", "a.txt": "熊猫".encode(), "a.json": json.dumps(body).encode()})
    assert samples(tar, "text") == [Sample("a", b"1", ["竹子", "熊猫", "竹子"])]
    assert samples(tar, "caption") == [Sample("a", b"1", ["熊猫"])]
    tar = tar_of({"a.jpg": b"1", "a.txt": " 雨\r\n\n".encode()})
    assert samples(tar) == [Sample("a", b"1", [" 雨"])]
    for caption in ("雨", "雨 \n"):
        tar = tar_of(
            {"a.jpg": b"1", "a.txt": "雨\n".encode(), "a.json": json.dumps({"caption": caption}).encode()}
        )
        assert samples(tar) == [Sample("a", b"1", [caption])]


def test_a_key_that_comes_twice_gives_two_samples() -> None:
    tar = tar_of([("a.jpg", b"1"), ("a.txt", b"x"), ("a.jpg", b"2"), ("b.gif", b"3"), ("a.png", b"4")])
    assert [(s.key, s.image, s.captions) for s in samples(tar)] == [
        ("a", b"1", ["x"]),
        ("a@2", b"2", []),
        ("b", b"3", []),
        ("a@4", b"4", []),
    ]


def paired(names: str) -> tuple[list[tuple[str, str, list[str]]], Counter[str]]:
    """The samples of a tar whose members hold their own names (json: as caption), and what is left over."""
    members = [(n, (json.dumps({"caption": n}) if n.endswith("json") else n).encode()) for n in names.split()]
    left_over, counted = Counter[str](), Counter[str]()
    found = list(tar_stream.read_samples(io.BytesIO(tar_of(members)), "caption", left_over=left_over))
    pairs = sum(s.image is not None and bool(s.captions) for s in found)
    assert tar_stream.count_pairs(io.BytesIO(tar_of(members)), counted) == pairs
    assert counted == left_over
    held = sum((s.image is not None) + len(s.captions) for s in found)
    assert held + left_over.total() == len(members)  # nothing is lost
    return [(s.key, (s.image or b"").decode(), s.captions) for s in found], left_over


@pytest.mark.parametrize(
    ("names", "expected", "left_over"),
    [
        (
            "iPhone6.7寸-060.jpg iPhone6.7寸-060.txt iPhone6.7寸-061.jpg iPhone6.7寸-061.txt",
            [
                ("iPhone6.7寸-060", "iPhone6.7寸-060.jpg", ["iPhone6.7寸-060.txt"]),
                ("iPhone6.7寸-061", "iPhone6.7寸-061.jpg", ["iPhone6.7寸-061.txt"]),
            ],
            {},
        ),
        ("3.image.jpg 3.caption.txt", [("3", "3.image.jpg", ["3.caption.txt"])], {}),
        ("x.jpg x.seg.png x.txt", [("x", "x.jpg", ["x.txt"])], {".seg.png": 1}),
        ("x.caption.txt x.image.jpg x.seg.png", [("x", "x.image.jpg", ["x.caption.txt"])], {".seg.png": 1}),
        ("000.cls 000.jpg 000.json 000.npy", [("000", "000.jpg", ["000.json"])], {".cls": 1, ".npy": 1}),
        ("a.jpg a.jpg.txt", [("a", "a.jpg", ["a.jpg.txt"])], {}),
        ("a.jpg a.caption_zh.txt a.tags.txt", [("a", "a.jpg", ["a.caption_zh.txt"])], {".tags.txt": 1}),
        ("a.jpg a.txt a.1.jpg a.1.txt", [("a", "a.jpg", ["a.txt"]), ("a.1", "a.1.jpg", ["a.1.txt"])], {}),
        ("v1.5/猫.jpg v1.5/猫.txt", [("v1.5/猫", "v1.5/猫.jpg", ["v1.5/猫.txt"])], {}),
        ("店.8.image.jpg 店.8.caption.txt", [("店.8", "店.8.image.jpg", ["店.8.caption.txt"])], {}),
        ("my.text.jpg my.text.txt", [("my.text", "my.text.jpg", ["my.text.txt"])], {}),
        ("Mr.Wang.jpg Mr.Li.txt", [("Mr.Wang", "Mr.Wang.jpg", []), ("Mr.Li", "", ["Mr.Li.txt"])], {}),
        ("6.7-060.jpg 6.7-061.txt", [("6.7-060", "6.7-060.jpg", []), ("6.7-061", "", ["6.7-061.txt"])], {}),
        ("1.jpg 1.5.txt", [("1", "1.jpg", []), ("1.5", "", ["1.5.txt"])], {}),
        ("x.seg.png x.txt", [("x.seg", "x.seg.png", []), ("x", "", ["x.txt"])], {}),  # a mask is no picture of it
        ("._a.jpg .DS_Store a.jpg a.txt __MACOSX/._a.jpg README", [("a", "a.jpg", ["a.txt"])], {"hidden": 3}),
        (
            "1.avif 1.txt 2.TIF 2.txt 3.tiff 3.txt 4.jfif 4.txt 5.jpe 5.txt 6.JPG 6.txt 7.bmp 7.txt 8.heic 8.txt",
            8,
            {},
        ),
        ("a.jpg a.txt a.jpg a.txt", [("a", "a.jpg", ["a.txt"]), ("a@2", "a.jpg", ["a.txt"])], {}),
    ],
)
def test_a_key_is_what_an_image_and_its_caption_have_in_common(names: str, expected, left_over) -> None:
    found, left = paired(names)
    if isinstance(expected, int):
        assert sum(bool(image and captions) for _, image, captions in found) == expected
    else:
        assert found == expected
    assert left == Counter(left_over) | Counter({"without extension": int("README" in names)})


def test_many_pictures_of_one_first_part_are_streamed_and_all_found() -> None:
    names = " ".join(
        f"iPhone6.7寸-{n:03d}.jpg iPhone6.7寸-{n:03d}.seg.png iPhone6.7寸-{n:03d}.txt" for n in range(300)
    )
    found, left = paired(names)
    assert [key for key, _, captions in found if captions == [f"{key}.txt"]] == [
        f"iPhone6.7寸-{n:03d}" for n in range(300)
    ]
    assert left == {".seg.png": 300}
    parts = (TarPart(f"6.{n}.jpg", ("6", str(n)), "image", data=b"x") for n in range(10**9))
    few = islice(group_parts(parts, "a.tar", Counter()), 100)  # of a tar without end: nothing is held
    assert [one.key for one in few] == [f"6.{n}" for n in range(100)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("a.jpg a.png a.txt", "several pictures of the key 'a' have one caption: a.jpg, a.png, a.txt"),
        ("a.jpg a.image.png a.txt", "several pictures of the key 'a' have one caption"),
        ("a.jpg a.JPG a.txt", "several pictures of the key 'a' have one caption"),
        ("1.jpg 2.jpg 1.txt 2.txt", r"the picture and the caption of '1' stand apart \(member 1.txt\)"),
    ],
)
def test_a_caption_of_two_pictures_or_far_from_its_own_stops_with_the_names(tmp_path, names, message) -> None:
    path = tmp_path / "商品.tar"
    path.write_bytes(tar_of([(name, b"x") for name in names.split()]))
    for read in (lambda file: list(tar_stream.read_samples(file, "caption")), tar_stream.count_pairs):
        with open(path, "rb") as file, pytest.raises(UserError, match=rf"商品\.tar: {message}"):
            read(file)


def test_a_pipe_and_a_compressed_tar_read_the_same(tmp_path) -> None:
    tar = tar_of(PANDA | {"b.jpg": b"x" * 70_000})
    (tmp_path / "a.tar").write_bytes(tar)
    with subprocess.Popen(["cat", tmp_path / "a.tar"], stdout=subprocess.PIPE) as cat:
        piped = list(tar_stream.read_samples(cat.stdout, "caption"))
    assert piped == samples(tar) == samples(gzip.compress(tar))


@pytest.mark.parametrize("name", ["../up.jpg", "a/../../up.jpg", "/etc/passwd.jpg", ".."])
def test_names_that_leave_the_folder_are_named(name: str) -> None:
    found = samples(tar_of({name: b"secret"} | PANDA))
    assert [s.fault for s in found] == ["outside_source", None]
    assert found[0].image is None


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_named(kind: bytes) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
        folder = tarfile.TarInfo("folder.d")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    assert samples(file.getvalue()) == [Sample("a", None, [], "outside_source")]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.json", b"{"),
        ("a.json", b"[1]"),
        ("a.json", b'{"caption": 5}'),
        ("a.json", b'{"caption": [null]}'),
        ("a.json", b"[" * 100_000),
        ("a.txt", b"\xff\xff\xff"),
    ],
)
def test_a_caption_that_cannot_be_read_is_named(name: str, data: bytes) -> None:
    assert samples(tar_of({"a.jpg": b"1", name: data})) == [Sample("a", None, [], "unreadable_record")]


def test_texts_in_other_encodings() -> None:
    members = {"1.jpg": b"", "1.txt": CAPTION.encode("gb18030"), "2.jpg": b"", "2.txt": b"\xef\xbb\xbf" + b"x\0y"}
    found = samples(tar_of(members | {"3.jpg": b"", "3.json": rb'{"caption": "\ud83d\udc3c \ud83d"}'}))
    assert [s.captions for s in found] == [[CAPTION], ["x\0y"], ["🐼 \ufffd"]]
    name = tarfile.TarInfo("大熊猫.jpg").tobuf(tarfile.GNU_FORMAT, "gb18030", "strict")
    assert samples(name + bytes(1024)) == [Sample("大熊猫", b"", [])]


def test_captions_are_what_they_clearly_are_or_what_a_person_says() -> None:
    texts = [
        "一隻貓坐在沙發上".encode("big5"),
        "貓".encode("big5"),
        "æµ‹è¯•".encode(),
        "一只猫坐着".encode("utf-16"),
    ]
    tar = tar_of(
        {f"{n}.{kind}": data for n, text in enumerate(texts) for kind, data in (("jpg", b""), ("txt", text))}
    )
    assert [(s.captions, s.fault) for s in samples(tar)] == [
        (["一隻貓坐在沙發上"], None),
        ([], "unreadable_record"),  # cannot be told
        ([], "unreadable_record"),  # decoded wrongly and saved
        (["一只猫坐着"], None),
    ]
    told = list(tar_stream.read_samples(io.BytesIO(tar), "caption", "big5"))
    assert [s.captions for s in told[:2]] == [["一隻貓坐在沙發上"], ["貓"]]


def test_a_caption_of_ten_megabytes_is_whole() -> None:
    assert samples(tar_of({"a.jpg": b"1", "a.txt": b"x" * 10_000_000}))[0].captions == ["x" * 10_000_000]


def test_a_cut_tar_gives_what_is_whole_and_names_the_rest() -> None:
    whole = tar_of({f"第{n}张.{kind}": b"%d" % n * 600 for n in range(3) for kind in ("jpg", "txt")})
    end = len(whole.rstrip(b"\0")) + 512  # after it comes the end mark
    for cut in range(1537, end, 97):  # the first name fills three blocks
        *good, last = samples(whole[:cut])
        assert [s.image for s in good] == [s.image for s in samples(whole)[: len(good)]]
        assert good[:-1] == samples(whole)[: len(good[:-1])]  # of the last, the caption may be behind the cut
        assert last.fault == "unreadable_record"
    assert samples(whole[: end // 512 * 512 + 512]) == samples(whole)


@pytest.mark.parametrize("size", [2**33, 2**60])
def test_a_size_that_is_a_lie_neither_hangs_nor_fills_the_memory(size: int) -> None:
    info = tarfile.TarInfo("a.jpg")
    info.size = size
    found = samples(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 2000)
    assert found == [Sample("a", None, [], "unreadable_record")]


def test_what_is_no_tar_is_named_with_its_byte(tmp_path) -> None:
    tar = tar_of(PANDA)
    for name, data, byte in (
        ("picture.tar", b"\x89PNG" * 500, 0),
        ("empty.tar", b"", 0),
        ("broken.tar", tar[:1024] + b"?" * 512 + tar[1536:], 1024),
        ("two.tar", tar + tar, 2048),
    ):
        (tmp_path / name).write_bytes(data)
        with (
            open(tmp_path / name, "rb") as file,
            pytest.raises(UserError, match=f"{name}: no tar from byte {byte} on"),
        ):
            list(tar_stream.read_samples(file, "caption"))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=2000), st.integers(0, 3000), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_any_bytes_end_in_samples_or_one_error(noise: bytes, at: int, form: int) -> None:
    good = tar_of(PANDA | {"很长的名字" * 30 + ".jpg": b"x"}, form)
    for tar in (noise, good[:at] + noise + good[at + len(noise) :], gzip.compress(good)[:-5] + noise):
        try:
            found = samples(tar)
        except UserError:
            continue
        assert all(s.fault or s.image is not None for s in found)


def test_a_name_that_begins_in_the_current_folder_twice_is_one_of_a_person() -> None:
    tar = tar_of({".//1.jpg": b"1", ".//1.txt": "雨".encode(), "././2.jpg": b"2", "././2.txt": "雪".encode()})
    assert samples(tar) == [Sample("1", b"1", ["雨"]), Sample("2", b"2", ["雪"])]
