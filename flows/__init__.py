"""Prefect flows: they start DVC stages in child processes and watch them; DVC owns the graph and the state."""

import os
import sys

from tuwen.core.environment import prepare_process
from tuwen.core.errors import report_user_errors


@report_user_errors
def _prepare() -> None:
    """Leave behind what the shell could spoil, and take this checkout's password for Prefect."""
    prepare_process(socks=False)
    from flows.secret import add_credentials

    os.environ.update(add_credentials(os.environ))


# What they start must end with them (flows/guard.py).
GUARDED = {"flows.pipeline", "flows.publish", "flows.reevaluate", "flows.serve", "flows.worker"}

if sys.argv[0] == "-m":  # `python -m flows.x` looks for x: nothing that the shell could spoil is imported yet
    _prepare()
    if GUARDED.intersection(sys.orig_argv):
        from flows.guard import stand_between

        stand_between()  # before Prefect is imported: the guard's child would import it a second time
