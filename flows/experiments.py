"""Run the experiments that wait in DVC's queue, one after the other.    python -m flows.experiments

DVC's own worker (`dvc queue start`, `dvc exp run --run-all`) but for one thing: it reads no message before it is
whole. Both sides talk by files. kombu's writer opens a file in the folder that the reader lists and fills it
afterwards, and a reader that takes it in between ends with "Unrecoverable error: JSONDecodeError". A busy machine
sees this soon, since the worker asks itself every ten seconds whether it has work.
"""

import os
import sys
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import filesystem

from tuwen.core.errors import report_user_errors

WORKER = "dvc-exp-foreground@localhost"


class PatientChannel(filesystem.Channel):  # type: ignore[misc]  # kombu is typed in part
    """kombu's channel over files; a message that is still empty waits for the next look."""

    def _get(self, queue: str) -> Any:
        # Their names begin with the time, and each is filled by a single write.
        sizes = [path.stat().st_size for path in sorted(Path(self.data_folder_in).glob(f"*.{queue}.msg"))]
        if not sizes or not sizes[0]:
            raise Empty
        return super()._get(queue)


@report_user_errors
def main() -> None:
    """Be DVC's worker in the foreground; its experiments are processes of the `dvc` beside this Python."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    filesystem.Transport.Channel = PatientChannel
    from dvc.cli import main as run_dvc

    sys.exit(run_dvc(["exp", "queue-worker", WORKER, "--clean"]))


if __name__ == "__main__":
    main()
