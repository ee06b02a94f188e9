"""What servers under test wrote of errors, without the few lines that report no fault."""

import re
from collections.abc import Iterable
from pathlib import Path

# Levels as Prefect, uvicorn, MLflow, PostgreSQL and rclone write them, and the first line of an exception.
ERROR = re.compile(r"\b(ERROR|CRITICAL|FATAL|PANIC|Exception|NOTICE: S3 .* error)\b|^Traceback")
# Each with the reason why it is none.
ALLOWED: dict[str, re.Pattern[str]] = {}


def find_errors(logs: Iterable[Path]) -> list[str]:
    """Return the lines of these logs that report an error, each after the name of its log."""
    return [
        f"{log.name}: {line}"
        for log in logs
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()
        if ERROR.search(line) and not any(allowed.search(line) for allowed in ALLOWED.values())
    ]
