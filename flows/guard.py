"""Run a command and take everything it started down with it.    python -m flows.guard PARENT_PID COMMAND ...

SIGKILL leaves a flow no time to end its stage, and `dvc` does not pass a signal on to the stage's process. So this
process stands between them: it asks the kernel for SIGTERM when its parent dies, adopts whatever its descendants
leave behind, and when it ends, for whatever reason but a SIGKILL of its own, nothing it started is left.
Where the kernel is not Linux, only a SIGTERM from the parent has this effect.
"""

import ctypes
import os
import signal
import subprocess
import sys

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
GRACE_SECONDS = 8.0  # for a stage to end its MLflow run; a cancelled flow must be gone within 15 s


def main() -> None:
    """Run the command; exit with its code, or as a shell does with 128 + the signal that ended it."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the command too; we wait for what it does
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans become ours, whichever session they moved to
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)  # it died before we could ask
    code = 128 + signal.SIGTERM
    try:
        code = subprocess.Popen(command).wait()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_descendants()
    sys.exit(code if code >= 0 else 128 - code)


def end_descendants() -> None:
    """SIGTERM for all descendants, SIGKILL for those that stay, until none is left."""
    me = psutil.Process()
    children = me.children(recursive=True)
    for child in children:
        _send(child, signal.SIGTERM)
    psutil.wait_procs(children, timeout=GRACE_SECONDS)
    while children := me.children(recursive=True):
        for child in children:
            _send(child, signal.SIGKILL)
        psutil.wait_procs(children, timeout=1.0)


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


if __name__ == "__main__":
    main()
