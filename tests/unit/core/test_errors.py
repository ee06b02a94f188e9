"""A full disk is one message; other faults keep their traceback."""

import os
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from tuwen.core.errors import UserError, hide_credentials, report_user_errors
from tuwen.data.formats.shards import ShardWriter

LIMIT_BYTES = 1 << 16
MANY = 1 << 20  # bytes or numbers, more than the limit


def write_shard(path: Path) -> None:
    with ShardWriter(path.parent, "shards") as writer:
        writer.add("a.png", bytes(MANY))


def write_array(path: Path) -> None:
    with open(path, "wb") as file:
        np.zeros(MANY).tofile(file)


WRITERS: list[Callable[[Path], object]] = [
    write_shard,
    write_array,
    lambda path: path.write_bytes(bytes(MANY)),
    lambda path: save_file({"weight": torch.zeros(MANY)}, path),
    lambda path: pq.write_table(pa.table({"x": os.urandom(MANY).hex().split("0")}), path, compression="none"),
]


@pytest.mark.parametrize("write", WRITERS)
def test_no_room_to_write_is_one_message(
    write: Callable[[Path], object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, hard))
    try:
        with pytest.raises(SystemExit) as ended:
            report_user_errors(lambda: write(tmp_path / "out") and None)()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ended.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("error: no room to write (")
    assert message.count("\n") == 1


def test_another_fault_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        report_user_errors(lambda: tmp_path.write_text("") and None)()


def test_a_users_mistake_is_one_message_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    @report_user_errors
    def main() -> None:
        raise UserError("params.yaml: finetune.lr must be a number, got 'fast'")

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: params.yaml: finetune.lr must be a number, got 'fast'\n"


def test_credentials_of_an_address_are_hidden() -> None:
    assert (
        hide_credentials("no answer at http://li:geheim@mlflow:5000/a@b")
        == "no answer at http://***@mlflow:5000/a@b"
    )
