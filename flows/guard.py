"""Run a command, and end everything it started together with it.    python -m flows.guard PARENT_PID COMMAND ...

SIGKILL leaves a flow no time to end its stage or its server, and `dvc` does not pass a signal on to the stage's
process. This process therefore stands between them. The kernel sends it SIGTERM when its parent dies (0: no
parent to watch), and makes it the parent of processes whose own parent has ended. When it ends, nothing that it
started is left, unless it was itself killed by SIGKILL. Where the kernel is not Linux, it acts only when its
command ends or SIGTERM is sent to it.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time

import psutil

from tuwen.core.signals import SIGTERM_STATUS

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
GUARD_PID = "TUWEN_GUARD_PID"  # variable that names the guard to its command
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# For a stage to write its checkpoint and to end its MLflow run. By default everything has ended within 15 s.
STAGE_SECONDS = float(os.environ.get("TUWEN_STOP_SECONDS") or 8)
FLOW_SECONDS = STAGE_SECONDS + 4.0  # for a flow, which waits for its stage


def main() -> None:
    """Run the command; exit with its code, or as a shell does with 128 + the signal that ended it."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    exit_on_signals()  # the command gets SIGTERM for Ctrl-C too: a flow may swallow a KeyboardInterrupt
    if parent:
        die_with(parent)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans become its children, whichever session they moved to
    try:
        # A group of its own: Ctrl-C must not end a flow's server together with the flow that still needs it.
        process = subprocess.Popen(command, env=os.environ | {GUARD_PID: str(os.getpid())}, process_group=0)
        code = process.returncode = wait_for_child(process.pid)
    finally:
        ignore_signals()
        end_descendants(STAGE_SECONDS if parent else FLOW_SECONDS)
    sys.exit(code if code >= 0 else 128 - code)


def exit_on_signals() -> None:
    """Make SIGTERM and Ctrl-C a SystemExit with 128 + the signal, so that every `finally` runs."""
    for number in ENDING_SIGNALS:
        signal.signal(number, lambda received, _: sys.exit(128 + received))


def ignore_signals() -> None:
    """Ignore SIGTERM and Ctrl-C from now on: this process is ending already, in an order that must be kept."""
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def wait_for_child(child: int) -> int:
    """Return this child's exit code as Popen does; orphans that end meanwhile do not stay as zombies."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def stand_between() -> None:
    """Replace this process by a guard that runs the same command; return in the guard's child alone.

    There, SIGTERM and Ctrl-C are a SystemExit from now on, so that a server that the child starts is ended too.
    """
    guard = os.environ.pop(GUARD_PID, None)
    if guard is None:
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execv(sys.executable, [sys.executable, __file__, "0", *command])
    exit_on_signals()
    die_with(int(guard))


def die_with(parent: int) -> None:
    """Have the kernel send SIGTERM when `parent` dies; exit at once where it is dead already."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(SIGTERM_STATUS)


def end_descendants(patience_seconds: float) -> None:
    """Send SIGTERM to the children, then to all their descendants, then SIGKILL until no process is left."""
    me, deadline = psutil.Process(), time.monotonic() + patience_seconds
    for recursive in (False, True):  # the children first: a flow still reports its end to its server
        left = me.children(recursive)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        psutil.wait_procs(left, timeout=max(0.0, deadline - time.monotonic()))
    while left := me.children(recursive=True):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=1.0)


def end_session(session: int) -> None:
    """Send SIGKILL to all processes of a session, which is what a guard leaves that was killed by SIGKILL."""
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) == session:
                os.kill(pid, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    main()
