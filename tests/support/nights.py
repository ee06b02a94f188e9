"""The nightly comparison, moved to where no test is."""

import re
from datetime import UTC, datetime
from pathlib import Path

DAILY = re.compile(r'cron: "0 (\d+) \* \* \*"')


def move_nights(config: Path) -> None:
    """Let the schedule of a copy of prefect.yaml be due in half a day: a test that meets it has a run too many."""
    hour = (datetime.now(UTC).hour + 12) % 24
    text, count = DAILY.subn(f'cron: "0 {hour} * * *"', config.read_text(encoding="utf-8"))
    assert count == 1
    config.write_text(text, encoding="utf-8")


def read_hour(config: Path) -> int:
    """Return the hour, UTC, of the schedule in a prefect.yaml."""
    (hour,) = DAILY.findall(config.read_text(encoding="utf-8"))
    return int(hour)
