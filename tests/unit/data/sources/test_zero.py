"""Lists of picture and caption in the folders that R2D2 reads them from."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuwen.core.errors import UserError
from tuwen.core.params import ZeroSource
from tuwen.data import sources
from tuwen.data.sources.records import ImageRecord, NoteRecord, PairRecord, TextRecord

IMAGES = "IQR_IQM_ICR_ICM_images"
CAT = "一只橘猫趴在窗台上晒太阳"
POPPY = "虞美人花朵鲜艳，常见于公园花坛"


def put(root: Path, name: str, content: bytes | list[Any]) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in content]
        content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(content)


def pair(picture: str, text: str = CAT, **label: int) -> dict[str, Any]:
    return {"text": text, "image_path": picture, **label}


def read(root: Path) -> list[ImageRecord | TextRecord | PairRecord | NoteRecord]:
    sets = sources.read_source(ZeroSource(kind="zero", root=str(root)))
    assert sets.keys() == {"labelled"}
    return list(sets["labelled"])


def pictures(root: Path) -> dict[str, tuple[str | None, str | None]]:
    return {p.image_id: (p.split, p.fault) for p in read(root) if isinstance(p, ImageRecord)}


def test_a_retrieval_list_finds_its_pictures_by_the_last_part_of_their_path(tmp_path: Path) -> None:
    put(tmp_path, f"{IMAGES}/cat.jpg", b"cat")
    put(tmp_path, "ICR/train/long_itr_train.json", [pair("pic/0a/cat.jpg"), pair("pic/0a/cat.jpg", POPPY)])
    file = "ICR/train/long_itr_train.json"
    assert read(tmp_path) == [
        ImageRecord(f"{IMAGES}/cat.jpg", b"cat", f"{IMAGES}/cat.jpg"),
        TextRecord(f"{file}:1", CAT, file, 1),
        PairRecord(f"{file}:1", f"{IMAGES}/cat.jpg", f"{file}:1", file, 1),
        TextRecord(f"{file}:2", POPPY, file, 2),
        PairRecord(f"{file}:2", f"{IMAGES}/cat.jpg", f"{file}:2", file, 2),
    ]


def test_a_matching_list_says_what_does_not_fit(tmp_path: Path) -> None:
    put(tmp_path, f"{IMAGES}/cat.jpg", b"cat")
    put(tmp_path, "ICM/train/long_itm_train.json", [pair("cat.jpg", label=1), pair("cat.jpg", POPPY, label=0)])
    assert [link.label for link in read(tmp_path) if isinstance(link, PairRecord)] == [1, 0]


def test_icr_is_measured_on_val_and_a_picture_of_two_lists_gets_the_stricter_split(tmp_path: Path) -> None:
    for name in "abc":
        put(tmp_path, f"{IMAGES}/{name}.jpg", name.encode())
    put(tmp_path, "ICR/train/long_itr_train.json", [pair("a.jpg")])
    put(tmp_path, "ICR/val/long_itr_val.json", [pair("b.jpg")])
    put(tmp_path, "ICM/train/long_itm_train.json", [pair("b.jpg", label=1), pair("c.jpg", label=1)])
    put(tmp_path, "ICM/val/long_itm_val.json", [pair("c.jpg", label=1)])
    put(tmp_path, "ICM/test/long_itm_test.json", [pair("a.jpg", label=1)])
    assert pictures(tmp_path) == {
        f"{IMAGES}/a.jpg": ("test", None),
        f"{IMAGES}/b.jpg": ("test", None),
        f"{IMAGES}/c.jpg": ("valid", None),
    }


def test_flickr30k_cna_with_and_without_the_number_of_the_caption(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        put(tmp_path, f"Flickr30k-images/{number}.jpg", b"%d" % number)
    put(tmp_path, "train/flickr30k_cna_train.txt", [f"1\t{CAT}", f"1\t{POPPY} ", ""])
    put(tmp_path, "val/flickr30k_cna_val.txt", [f"2\t{CAT}"])
    put(tmp_path, "test/flickr30k_cn_test.txt", [f"3#zhc#0\t{CAT}", f"3.jpg#1\t{POPPY}\t再来一句\r"])
    assert pictures(tmp_path) == {
        "Flickr30k-images/3.jpg": ("test", None),
        "Flickr30k-images/2.jpg": ("valid", None),
        "Flickr30k-images/1.jpg": ("train", None),
    }
    captions = [text for text in read(tmp_path) if isinstance(text, TextRecord)]
    assert [text.caption for text in captions] == [CAT, f"{POPPY}\t再来一句", CAT, CAT, f"{POPPY} "]
    assert captions[-1].text_id == "train/flickr30k_cna_train.txt:2"


def test_a_picture_that_is_not_there_is_named_once_in_its_list(tmp_path: Path) -> None:
    put(tmp_path, "cat.jpg", b"not here")
    names = ["../cat.jpg", "gone.jpg", "gone.jpg", "/etc/passwd", "..", "a\0b.jpg", "x" * 300 + ".jpg", ""]
    put(tmp_path / "root", f"{IMAGES}/dog.jpg", b"dog")
    put(tmp_path / "root", "train/short_itr_train.json", [pair(name) for name in names])
    found = read(tmp_path / "root")
    assert [(p.image_id, p.fault, p.row) for p in found if isinstance(p, ImageRecord)] == [
        ("../cat.jpg", "outside_source", 1),
        ("gone.jpg", "missing", 2),
        ("/etc/passwd", "outside_source", 4),
        ("..", "outside_source", 5),
        ("a\0b.jpg", "missing", 6),
        (names[6], "missing", 7),
        ("", "missing", 8),
    ]
    assert sum(isinstance(link, PairRecord) for link in found) == len(names)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("x_train.json", [pair("a.jpg")], r"x_train\.json:2: found .*, expected one JSON object"),
        ("x_train.json", {"text": CAT}, r"x_train\.json:2: the object lacks \['image_path'\]"),
        ("x_train.json", pair("a.jpg", label=2), r"x_train\.json:2: the label is 2, expected 1"),
        ("x_train.json", pair("a.jpg") | {"label": True}, r"x_train\.json:2: the label is True, expected 1"),
        ("x_train.json", pair("a.jpg") | {"image_path": None}, r"x_train\.json:2: image_path is None"),
        ("x_train.json", pair("a.jpg") | {"text": [CAT]}, r"x_train\.json:2: text is \['一只.*expected a text"),
        ("x_train.txt", f"1#0 {CAT}", r"x_train\.txt:2: found '1#0 一只.*expected number#n, tab, caption"),
        ("x_train.txt", f"#0\t{CAT}", r"x_train\.txt:2: found '#0"),
    ],
)
def test_a_line_of_another_form_is_named(tmp_path: Path, name: str, row: Any, message: str) -> None:
    put(tmp_path, name, [f"1\t{CAT}" if name.endswith(".txt") else pair("a.jpg"), row])
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_a_folder_without_lists_and_one_with_linked_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        read(tmp_path / "nowhere")
    put(tmp_path, f"root/{IMAGES}/a_train.json", [pair("a.jpg")])  # lists are not sought among pictures
    with pytest.raises(UserError, match=r"root: no list named like long_itr_train\.json"):
        read(tmp_path / "root")
    put(tmp_path, "root/IQR/train/short_itr_train.json", [pair("a.jpg")])
    (tmp_path / "root/images").symlink_to(tmp_path)
    with pytest.raises(UserError, match="root/images: a link, behind which DVC sees no change"):
        read(tmp_path / "root")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.text(), st.sampled_from(["a_train.json", "b_val.txt"]))
def test_any_bytes_end_in_records_or_one_error(tmp_path: Path, noise: bytes, text: str, name: str) -> None:
    for old in tmp_path.iterdir():
        old.unlink()
    good = [pair(text, text), pair("a.jpg", text)] if name.endswith(".json") else []
    put(tmp_path, name, b"".join(json.dumps(row).encode() + b"\n" for row in good) + noise)
    try:
        found = read(tmp_path)
    except UserError:
        return
    assert sum(isinstance(r, PairRecord) for r in found) == sum(isinstance(r, TextRecord) for r in found)


def test_names_are_read_in_the_folders_too_and_hidden_lists_passed_by(tmp_path: Path) -> None:
    put(tmp_path, f"{IMAGES}/CAT.JPG", b"cat")
    put(tmp_path, "Flickr30k-images/1.jpg", b"one")
    put(tmp_path, f"{IMAGES}/1.jpg", b"another")
    mac = b"\0\5\x16\7\0\2\0\0Mac OS X"
    put(tmp_path, "ICR/train/._long_itr_train.json", mac)
    put(tmp_path, "__MACOSX/ICR/train/long_itr_train.json", mac)
    names = ["pic/0a/cat.jpg", "E:\\pic\\cat.jpg", "pic/1.jpg", "pic/1.jpg"]
    put(tmp_path, "ICR/train/long_itr_train.json", [pair(name) for name in names])
    found = read(tmp_path)
    assert [one for one in found if isinstance(one, ImageRecord)] == [
        ImageRecord(f"{IMAGES}/CAT.JPG", b"cat", f"{IMAGES}/CAT.JPG"),
        ImageRecord("pic/1.jpg", None, "ICR/train/long_itr_train.json", 3, "missing"),
    ]
    case = "names read otherwise: upper and lower case"
    assert [one for one in found if isinstance(one, NoteRecord)] == [
        NoteRecord(case, names[0]),
        NoteRecord(case, names[1]),
        *[NoteRecord("names read otherwise: several files fit", "pic/1.jpg")] * 2,
    ]
