"""The nightly comparison, moved to where no test is."""

from datetime import UTC, datetime
from pathlib import Path

NIGHTLY = 'cron: "0 3 * * *"'


def move_nights(config: Path) -> None:
    """Let the schedule of a copy of prefect.yaml be due in half a day: a test that meets it has a run too many."""
    text = config.read_text(encoding="utf-8")
    assert text.count(NIGHTLY) == 1
    hour = (datetime.now(UTC).hour + 12) % 24
    config.write_text(text.replace(NIGHTLY, f'cron: "0 {hour} * * *"'), encoding="utf-8")
