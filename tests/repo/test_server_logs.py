"""What finds errors in the logs of servers under test finds them."""

from pathlib import Path

import pytest

from tests.support.server_logs import find_errors

ALLOWED = "12:00:01.000 | ERROR | prefect - Crash detected! Execution was aborted\nTraceback\n"


@pytest.mark.parametrize("clear_line", ["", "\x1b[2K"])
@pytest.mark.parametrize(
    "fault", ["12:00:02.000 | ERROR | the disk is full", "2026-12-01 12:00:02,000 CRITICAL tuwen the disk is full"]
)
def test_an_error_is_found_beside_one_that_is_allowed(tmp_path: Path, clear_line: str, fault: str) -> None:
    log = tmp_path / "worker"
    log.write_text("".join(clear_line + line for line in ("12:00:00.000 | INFO | begins\n", ALLOWED, fault, "\n")))
    (found,) = find_errors([log])
    assert found.startswith(f"worker: {fault}")
