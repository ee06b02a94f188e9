"""Locks on files that are open."""

import os
import subprocess
from pathlib import Path

import pytest

from tuwen.core.locks import lock_or_close


def test_one_descriptor_locks_a_file_and_the_next_is_closed_until_the_first_and_its_heir_are(tmp_path) -> None:
    path = tmp_path / "lock"
    path.touch()
    first = lock_or_close(open_only_to_read(path))
    assert first is not None
    heir = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[first])
    refused = open_only_to_read(path)
    assert lock_or_close(refused) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(refused)
    os.close(first)
    assert lock_or_close(open_only_to_read(path)) is None
    heir.communicate(timeout=60)
    second = open_only_to_read(path)
    assert lock_or_close(second) == second
    os.close(second)


def open_only_to_read(path: Path) -> int:
    return os.open(path, os.O_RDONLY)
