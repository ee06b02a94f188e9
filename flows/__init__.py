"""Prefect flows: they start DVC stages in child processes and watch them; DVC owns the graph and the state."""

import sys
from functools import partial

from tuwen.core.environment import prepare_process
from tuwen.core.errors import report_user_errors

if sys.argv[0] == "-m":  # `python -m flows.x` looks for x: nothing that the shell could spoil is imported yet
    report_user_errors(partial(prepare_process, socks=False))()
