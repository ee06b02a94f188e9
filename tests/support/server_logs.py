"""What servers under test wrote of errors, without the few entries that report no fault."""

import re
from collections.abc import Iterable
from pathlib import Path

# An entry begins with a time or a level, as Prefect, uvicorn, MLflow, PostgreSQL and rclone write them.
BEGIN = re.compile(r"^(?=\d\d:\d\d:\d\d|\d{4}[-/]\d\d[-/]\d\d|(?:INFO|WARNING|ERROR|NOTICE)\b)", re.MULTILINE)
CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # of a terminal: Prefect's worker clears a line before it writes
ERROR = re.compile(r"\b(ERROR|CRITICAL|FATAL|PANIC)\b|^Traceback", re.MULTILINE)
# Each with the reason why it is none.
ALLOWED = {
    "a test cancelled or ended the run": r"Crash detected! Execution was (aborted|cancelled)"
    r"|Finished in state Failed\('stage \S+: ended with the flow'\)"
    r"|Finished in state Crashed\('Execution was (aborted|cancelled)",
    "a test killed the flow's process": r"exited with status code: -(9|15)|Reported flow run '\S+' as crashed",
    "SQLite gives way to another writer; the next beat comes within 30 s": r"heartbeat persistence failed"
    r"[\s\S]*database is locked",
    "Prefect renews a pool by trying to make it first": r"duplicate key value violates unique constraint"
    r' "uq_work_pool__name"',
    "Prefect's API and its recorder may write one task run at once, guarded by its natural key alone": r"duplicate"
    r' key value violates unique constraint "pk_task_run"',
    "a test makes Prefect's server anew under a run: its observers lose it and poll instead": r"FlowRun"
    r"(Suspending|Cancelling)Observer - (The \S+ websocket failed|Consumer task exited)"
    r"|Exception in callback FlowRunCancellingObserver\._handle_polling_task_done",
    "a test asks PostgreSQL with a foreign password or role": r"FATAL: +(password authentication failed"
    r"|permission denied for database)",
}


def find_errors(logs: Iterable[Path]) -> list[str]:
    """Return the entries of these logs that report an error, each after the name of its log."""
    allowed = re.compile("|".join(ALLOWED.values()))
    return [
        f"{log.name}: {entry[:2000]}"
        for log in logs
        for entry in BEGIN.split(CONTROL.sub("", log.read_text(encoding="utf-8", errors="replace")))
        if ERROR.search(entry) and not allowed.search(entry)
    ]
