"""Run a command and take everything it started down with it.    python -m flows.guard PARENT_PID COMMAND ...

SIGKILL leaves a flow no time to end its stage or its server, and `dvc` does not pass a signal on to the stage's
process. So this process stands between: the kernel sends it SIGTERM when its parent dies (0: none to watch),
it adopts what its descendants leave behind, and when it ends, unless by a SIGKILL of its own, nothing that it
started is left. Where the kernel is not Linux, only its command's end and a SIGTERM from the parent do this.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time

import psutil

from tuwen.core.signals import SIGTERM_STATUS, exit_on_sigterm

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
GUARD_PID = "TUWEN_GUARD_PID"  # tells the command whose child it is
STAGE_SECONDS = 8.0  # for a stage to end its MLflow run
FLOW_SECONDS = 12.0  # for a flow, which waits for its stage; all must be gone within 15 s


def main() -> None:
    """Run the command; exit with its code, or as a shell does with 128 + the signal that ended it."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    exit_on_sigterm()
    # Ctrl-C is passed on as SIGTERM: a KeyboardInterrupt may get lost in a flow, and nobody would ask it again.
    signal.signal(signal.SIGINT, lambda *_: sys.exit(128 + signal.SIGINT))
    if parent:
        die_with(parent)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans become ours, whichever session they moved to
    try:
        # A group of its own: Ctrl-C must not end a flow's server together with the flow that still needs it.
        process = subprocess.Popen(command, env=os.environ | {GUARD_PID: str(os.getpid())}, process_group=0)
        code = process.returncode = wait_for(process.pid)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        end_descendants(STAGE_SECONDS if parent else FLOW_SECONDS)
    sys.exit(code if code >= 0 else 128 - code)


def wait_for(child: int) -> int:
    """The exit code of this child, as Popen gives it; what was adopted and has ended does not stay as a zombie."""
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def stand_between() -> None:
    """Go on in a child of a guard: this process becomes the guard of the very command that it was."""
    guard = os.environ.pop(GUARD_PID, None)
    if guard is None:
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execv(sys.executable, [sys.executable, __file__, "0", *command])
    die_with(int(guard))


def die_with(parent: int) -> None:
    """Get SIGTERM when `parent` dies; exit at once when it is already gone."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(SIGTERM_STATUS)


def end_descendants(patience_seconds: float) -> None:
    """SIGTERM for the children, then for what they left behind, then SIGKILL, until nobody is left."""
    me, deadline = psutil.Process(), time.monotonic() + patience_seconds
    for recursive in (False, True):  # a flow still needs its server to say how it ended
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
    """SIGKILL for all of a session: what a guard that was killed itself has left."""
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) == session:
                os.kill(pid, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


if __name__ == "__main__":
    main()
