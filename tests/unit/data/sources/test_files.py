import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from tuwen.core.errors import UserError
from tuwen.core.params import Source
from tuwen.data import sources
from tuwen.data.formats.image_files import ImageFiles
from tuwen.data.sources.files import check_name, check_names, make_relative, read_image_file
from tuwen.data.sources.records import ImageRecord

PNG = b"\x89PNG"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "图").mkdir(parents=True)
    (root / "图/猫.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG)
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "in.png").symlink_to("图/猫.png")
    return root


@pytest.mark.parametrize("name", ["图/猫.png", "图\\猫.png", "./图/../图/猫.png", "in.png"])
def test_an_image_under_the_root_is_read(root: Path, name: str) -> None:
    data, found = read_image_file(ImageFiles(root), name)
    assert (data, found.fault) == (PNG, None)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("图/狗.png", "missing"),
        ("图", "missing"),
        ("", "missing"),
        ("图/猫.png\0", "missing"),
        ("../secret.png", "outside_source"),
        ("..\\secret.png", "outside_source"),
        ("out.png", "outside_source"),
        ("/etc/hostname", "outside_source"),
        ("C:\\猫.png", "outside_source"),
    ],
)
def test_an_image_that_cannot_be_had_has_a_fault(root: Path, name: str, fault: str) -> None:
    data, found = read_image_file(ImageFiles(root), name)
    assert (data, found.fault) == (None, fault)


def test_names_that_no_table_could_hold_are_refused(root: Path) -> None:
    check_names(root)
    path = root / "图" / os.fsdecode("狗.png".encode("gbk"))
    path.write_bytes(PNG)
    for refused in (lambda: check_names(root), lambda: check_name(path)):
        with pytest.raises(UserError, match=r"\\udcb9\\udcb7\.png': the name is not UTF-8; .* `convmv -r -f gbk"):
            refused()


def test_a_path_is_given_from_the_root(root: Path) -> None:
    assert make_relative(root / "图/猫.png", root) == "图/猫.png"


@pytest.mark.parametrize("name", ["1.jp2", "1.PPM", "1.pgm", "1.tga", "1.jxl", "1.psd", "1.svg"])
def test_a_picture_of_a_form_that_is_not_read_is_one_to_every_reader(tmp_path: Path, name: str) -> None:
    picture, caption = b"P5 1 1 255 x", "一只猫在沙发上"
    roots = {kind: tmp_path / kind for kind in ("contest", "table", "zero", "webdataset")}
    (roots["contest"] / "ImageData").mkdir(parents=True)
    (roots["contest"] / "ImageData" / name).write_bytes(picture)
    (roots["contest"] / "ImageWordData.csv").write_text("image_id,caption\n", encoding="utf-8")
    for kind in ("table", "zero"):
        roots[kind].mkdir()
        (roots[kind] / name).write_bytes(picture)
    (roots["table"] / "a.csv").write_text(f"path,zh\n{name},{caption}\n", encoding="utf-8")
    (roots["zero"] / "flickr30k_cna_train.txt").write_text(f"{name}#0\t{caption}\n", encoding="utf-8")
    roots["webdataset"].mkdir()
    with tarfile.open(roots["webdataset"] / "a.tar", "w") as tar:
        for member, data in ((name, picture), ("1.txt", caption.encode())):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    more = {"table": {"file": "a.csv", "image": "path", "captions": ["zh"]}}
    for kind, root in roots.items():
        values = {"kind": kind, "root": str(root)} | more.get(kind, {})
        records = sources.read_source(TypeAdapter[Any](Source).validate_python(values))["labelled"]
        (image,) = (one for one in records if isinstance(one, ImageRecord))
        assert (image.data, image.fault) == (picture, None)
