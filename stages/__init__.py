"""The stages of dvc.yaml, a thin script each: read params, call one function of the library, write outs."""

import sys

from tuwen.core.environment import prepare_process
from tuwen.core.errors import report_user_errors
from tuwen.core.linked_outs import copy_linked_outs
from tuwen.core.versions import require_versions

if sys.argv[0] == "-m":  # `python -m stages.x` looks for x: nothing that the shell could spoil is imported yet
    report_user_errors(prepare_process)()
    report_user_errors(require_versions)()
    copy_linked_outs(f"python -m {' '.join(sys.orig_argv).partition(' -m ')[2]}")
