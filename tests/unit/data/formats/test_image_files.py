"""Names as people write them, and the files that they mean; images in base64."""

import base64
import io
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from tests.support.broken import encode, landscape
from tuwen.data.formats import image_files
from tuwen.data.formats.image_files import AMBIGUOUS, ImageFiles, decode_base64, is_base64_image
from tuwen.data.formats.images import FORMATS

NFC, NFD = "图/café-ガ.jpg", unicodedata.normalize("NFD", "图/café-ガ.jpg")


def put(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


@pytest.mark.parametrize(
    ("on_disk", "name", "way"),
    [
        ("图/a.jpg", "图/a.jpg", None),
        ("图/a.jpg", "./图//a.jpg", None),
        ("图/a.jpg", "图/../图/a.jpg", None),
        (NFD, NFC, "Unicode form (NFC, NFD)"),
        (NFC, NFD, "Unicode form (NFC, NFD)"),
        ("图/a.JPG", "图/a.jpg", "upper and lower case"),
        ("Photos/a.jpg", "photos/A.Jpg", "upper and lower case"),
        ("图/a.jpg\u3000", "图/a.jpg", "blanks in the file's own name"),
        ("图 /A.jpg ", "图/a.jpg", "blanks in the file's own name"),
        ("图/a.jpg", "图\\a.jpg", "backslashes"),
        ("图/a.jpg", ".\\图\\a.jpg", "backslashes"),
        ("图/a.jpg", "图/a.jpg \t", "blanks around it"),
        ("图/a.jpg", "\u3000图/a.jpg\u3000", "blanks around it"),
        ("图/a.jpg", "\ufeff图/a.jpg", "blanks around it"),
        ("图/a.jpg", "%E5%9B%BE/a.jpg", "percent escapes"),
        ("图/a.jpg", "%CD%BC/a.jpg", "percent escapes"),  # of GBK
        ("图/a.jpg", "{root}/图/a.jpg", "absolute path"),
        ("图/a.jpg", "file://{root}/%E5%9B%BE/a.jpg", "file:// address and percent escapes and absolute path"),
        ("图/a.jpg", "file:图/a.jpg", "file:// address"),
        ("photos/a.jpg", "C:\\photos\\a.jpg", "backslashes and Windows drive"),
        ("photos/a.JPG", "d:/Users/li/photos/a.jpg", "Windows drive and upper and lower case"),
        ("photos/a.jpg", "file:///C:/my/photos/a.jpg", "file:// address and Windows drive"),
        ("photos/a.jpg", "\\\\server\\share\\photos\\a.jpg", "backslashes and network share"),
        ("图/a.JPG", "\\\\192.168.1.2\\d$\\图\\a.jpg", "backslashes and network share and upper and lower case"),
        ("a.jpg", "//server/share/a.jpg", "network share"),
        ("图/a.jpg", "file:////server/share/图/a.jpg", "file:// address and network share"),
        (
            "图/a.jpg",
            "file://server/share/%E5%9B%BE/a.jpg",
            "file:// address and percent escapes and network share",
        ),
        ("photos/a.jpg", "file://photos/a.jpg", "file:// address"),
        ("图/a.jpg", "smb://server/share/图/a.jpg", "address of a share and network share"),
        (
            "图/a.jpg",
            "\\\\?\\UNC\\server\\share\\图\\a.jpg",
            "backslashes and long Windows path and network share",
        ),
        ("图/a.jpg", "\\\\?\\D:\\shop\\图\\a.jpg", "backslashes and long Windows path and Windows drive"),
        (NFC, f"{{root}}/{NFD}", "absolute path and Unicode form (NFC, NFD)"),
    ],
)
def test_a_name_means_the_one_file_that_fits(tmp_path: Path, on_disk: str, name: str, way: str | None) -> None:
    root = put(tmp_path / "源", on_disk)
    found = ImageFiles(root).find(name.format(root=root))
    assert (found.name, found.way, found.fault) == (on_disk, way, None)
    assert Path(found.path or "").read_bytes() == on_disk.encode()


@pytest.mark.parametrize(
    "name",
    ["a%20b.jpg", "a b.jpg", " a.jpg", "a.jpg ", "a.JPG", "a.jpg", "图\\a.jpg", "图/a.jpg", NFC, NFD, "a.jpg%20"],
)
def test_a_file_of_exactly_this_name_comes_first(tmp_path: Path, name: str) -> None:
    names = [
        "a%20b.jpg",
        "a b.jpg",
        " a.jpg",
        "a.jpg ",
        "a.JPG",
        "a.jpg",
        "图\\a.jpg",
        "图/a.jpg",
        NFC,
        NFD,
        "a.jpg%20",
    ]
    found = ImageFiles(put(tmp_path, *names)).find(name)
    assert (found.name, found.way, Path(found.path or "").read_bytes()) == (name, None, name.encode())


@pytest.mark.parametrize(
    ("name", "fault", "way"),
    [
        ("b.jpg", "missing", AMBIGUOUS),  # b.JPG and B.jpg
        ("C:\\sub\\c.jpg", "missing", AMBIGUOUS),  # sub/c.jpg and c.jpg
        ("none.jpg", "missing", None),
        ("sub", "missing", None),
        ("", "missing", None),
        ("　", "missing", None),
        ("c.jpg\0", "missing", None),
        ("%00", "missing", None),
        ("c.jpeg", "missing", None),
        ("../secret.jpg", "outside_source", None),
        ("%2e%2e/secret.jpg", "outside_source", None),
        ("..\\secret.jpg", "outside_source", None),
        (" ../SECRET.jpg", "outside_source", None),
        ("out.jpg", "outside_source", None),
        ("OUT.jpg", "missing", None),
        ("/etc/hostname", "outside_source", None),
        ("file:///etc/hostname", "outside_source", None),
        ("file://server/share/none.jpg", "outside_source", None),
        ("/c.jpg", "outside_source", None),
        ("D:/none.jpg", "outside_source", None),
        ("\\\\server\\share\\none.jpg", "outside_source", None),
        ("//server/sub/c.jpg", "missing", AMBIGUOUS),
        ("//server", "outside_source", None),
        ("\\\\?\\C:\\none.jpg", "outside_source", None),
        ("https://example.org/c.jpg", "outside_source", None),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, name: str, fault: str, way: str | None) -> None:
    root = put(tmp_path / "源", "b.JPG", "B.jpg", "c.jpg", "sub/c.jpg", "d.jpg")
    put(tmp_path, "secret.jpg")
    (root / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    found = ImageFiles(root).find(name)
    assert (found.path, found.name, found.fault, found.way) == (None, name, fault, way)


def test_all_windows_paths_must_agree_where_the_folder_lay(tmp_path: Path) -> None:
    files = ImageFiles(put(tmp_path, "photos/1.jpg", "2.jpg"))
    names = ["D:\\shop\\photos\\1.jpg", "d:\\shop\\2.jpg", "D:\\shop\\other\\2.jpg", "E:\\2.jpg"]
    assert [files.find(name).path is not None for name in names] == [True, True, False, False]


def test_a_folder_is_listed_once_for_all_names_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ImageFiles(put(tmp_path, *(f"图/{n}.JPG" for n in range(50))))
    asked, listdir = [], image_files.os.listdir
    monkeypatch.setattr(image_files.os, "listdir", lambda folder: (asked.append(folder), listdir(folder))[1])
    assert {files.find(f"图/{n}.jpg").name for n in range(50)} == {f"图/{n}.JPG" for n in range(50)}
    assert len(asked) == 2  # the root, and 图


def test_hidden_files_and_extensions_are_the_same_for_every_reader() -> None:
    hidden = ["._1.jpg", "图/._1.jpg", ".DS_Store", "__MACOSX/1.jpg", "图/Thumbs.db", "desktop.ini", ".git/1.jpg"]
    assert all(map(image_files.is_hidden, hidden))
    assert not any(map(image_files.is_hidden, ["1.jpg", "./1.jpg", "../1.jpg", "图.v2/1.jpg", "a..jpg"]))
    Image.init()
    decoded = {end[1:] for end, kind in Image.EXTENSION.items() if kind in FORMATS}
    assert decoded | {"dib", "heic", "heif", "hif"} == image_files.IMAGE_EXTENSIONS
    assert all(image_files.is_image_name(f"1.{end.upper()} ") for end in decoded)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_base64_is_known_by_the_bytes_in_it(kind: str) -> None:
    data = encode(landscape(), kind)
    plain, url = base64.b64encode(data), base64.urlsafe_b64encode(data)
    mime = base64.encodebytes(data)
    addresses = [b"data:image/jpeg;base64," + plain, b"DATA:image/png;charset=utf-8;base64," + url]
    for text in (plain, url, plain.rstrip(b"="), b" " + mime, str(plain).encode(), *addresses):
        assert is_base64_image(text)
        assert decode_base64(text) == data
    assert is_base64_image(plain[:-5] + b"!")
    assert decode_base64(plain[:-5] + b"!") is None
    assert Image.open(io.BytesIO(data)).format == kind
    assert image_files.find_extension(data)


@pytest.mark.parametrize(
    "name",
    [
        *("/9j/4AAQ/photo.jpg", "iVBORw0KGgo.png", "R0lGODlh/1.gif", "Qk02/AAAA/AAAA", "图/a.jpg", "", "a" * 500),
        base64.b64encode(b"no picture at all, just a sentence").decode(),
    ],
)
def test_a_path_is_never_taken_for_base64(name: str) -> None:
    assert not is_base64_image(name.encode())
