"""Files that a web server gives with interruptions, as bytes."""

import random
from pathlib import Path

import pytest
import s3fs
from botocore.exceptions import ClientError, ConfigParseError

from tests.support.shaky_server import serve_shakily
from tuwen.data.formats.foreign_tar import mended_file
from tuwen.data.formats.foreign_tar.mended_file import (
    KEYS_REMEDY,
    LATER_REMEDY,
    SETTINGS_REMEDY,
    MendedFile,
    find_local,
    find_storage_remedy,
)

CONTENT = random.Random(0).randbytes(300_000)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(mended_file, "PAUSES_SECONDS", (0.001,) * 4)
    (tmp_path / "a.bin").write_bytes(CONTENT)
    return tmp_path


def read_all(address: str) -> bytes:
    file = MendedFile(address)
    return b"".join(iter(lambda: file.read(10_000), b""))


@pytest.mark.parametrize("ranges", [True, False])
def test_what_breaks_in_the_middle_goes_on_at_the_byte_that_was_reached(folder: Path, ranges: bool, capfd) -> None:
    faults = ["drop", "503", "drop", "slow"]
    with serve_shakily(folder, faults, ranges=ranges) as server:
        assert read_all(f"{server.address}/a.bin") == CONTENT
        assert len(server.asked) == len(faults)
        assert "a.bin: ClientPayloadError" in capfd.readouterr().err


def test_what_breaks_in_s3_is_tried_again_by_us_alone(folder: Path, monkeypatch, capfd) -> None:
    (folder / "bucket").mkdir()
    (folder / "a.bin").rename(folder / "bucket/a.bin")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "any")
    with serve_shakily(folder, ["503", "drop", "503", "drop", "slow"]) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.address)
        s3fs.S3FileSystem.clear_instance_cache()  # which know another server
        assert read_all("s3://bucket/a.bin") == CONTENT
        assert [path for path, _ in server.asked] == ["/bucket/a.bin"] * 5
    assert capfd.readouterr().err.count("tried again") == 4


def test_after_the_last_try_it_raises_what_the_server_said(folder: Path) -> None:
    with serve_shakily(folder, ["503"] * 99) as server, pytest.raises(Exception, match="503"):
        read_all(f"{server.address}/a.bin")
    assert len(server.asked) == 1 + 4


def test_a_file_that_is_not_there_is_not_asked_for_again(folder: Path) -> None:
    with serve_shakily(folder) as server, pytest.raises(FileNotFoundError):
        MendedFile(f"{server.address}/b.bin")
    assert len(server.asked) == 1
    with pytest.raises(FileNotFoundError):
        MendedFile(str(folder / "b.bin"))


def test_a_server_that_is_away_is_waited_for_and_a_local_fault_is_not(folder: Path, capfd) -> None:
    with serve_shakily(folder) as server:
        address = f"{server.address}/a.bin"
    with pytest.raises(FileNotFoundError):  # as fsspec calls it
        MendedFile(address)
    assert capfd.readouterr().err.count("tried again") == 4
    with pytest.raises(IsADirectoryError):
        MendedFile(str(folder))
    assert not capfd.readouterr().err


def make_answer(status: int) -> ClientError:
    """Return what botocore raises at an answer without a body."""
    answer = {"Error": {"Code": str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "HeadObject")


def make_not_found(cause: Exception | None) -> FileNotFoundError:
    error = FileNotFoundError("0.tar")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ValueError("Invalid endpoint: 127.0.0.1"), SETTINGS_REMEDY),
        (ConfigParseError(path="~/.aws/config"), SETTINGS_REMEDY),
        (make_answer(301), SETTINGS_REMEDY),  # of a bucket in another region
        (make_answer(400), SETTINGS_REMEDY),
        (make_not_found(ValueError("no such host")), SETTINGS_REMEDY),
        (make_not_found(None), None),
        (make_not_found(make_answer(404)), None),
        (make_answer(410), None),
        (make_answer(403), KEYS_REMEDY),
        (make_answer(503), LATER_REMEDY),
        (make_not_found(ConnectionError()), LATER_REMEDY),
    ],
)
def test_the_remedy_is_to_list_anew_only_where_the_file_is_not_there(error: Exception, remedy: str | None) -> None:
    assert find_storage_remedy(error) == remedy


def test_local_addresses_are_told_from_others(folder: Path) -> None:
    assert find_local(str(folder / "a.bin")) == find_local((folder / "a.bin").as_uri()) == folder / "a.bin"
    assert find_local("http://127.0.0.1/a.bin") is None
    assert find_local("memory://a.bin") is None
    assert read_all(str(folder / "a.bin")) == CONTENT
