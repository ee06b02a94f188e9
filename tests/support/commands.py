"""Commands in real processes, as their user meets them."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(sys.executable).parent


def call(*command: str, cwd: Path, fails: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder `cwd`; fails: whether it must."""
    environment = os.environ | {"PATH": f"{SCRIPTS}:{os.environ['PATH']}", "COLUMNS": "100"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done
