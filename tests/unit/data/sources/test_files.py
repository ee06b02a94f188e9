import os
from pathlib import Path

import pytest

from tuwen.core.errors import UserError
from tuwen.data.formats.image_files import ImageFiles
from tuwen.data.sources.files import check_name, check_names, make_relative, read_image_file

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
