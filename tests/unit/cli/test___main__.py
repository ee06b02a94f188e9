"""The whole command line, in real processes."""

import sys
from pathlib import Path

from tests.support.commands import call


def test_help_names_the_commands_and_imports_nothing_heavy(tmp_path: Path) -> None:
    program = "import sys; sys.argv[1:] = ['--help']; import atexit; from tuwen.cli import main\n"
    program += (
        "atexit.register(lambda: print(sorted({'torch', 'mlflow', 'pandas', 'pyarrow'} & set(sys.modules))))\n"
    )
    printed = call(sys.executable, "-c", program + "main()", cwd=tmp_path).stdout
    assert all(command in printed for command in ("export", "params", "results", "shards", "track", "worktree"))
    assert printed.rstrip().endswith("[]")


def test_the_module_runs_as_the_command_does(tmp_path: Path) -> None:
    by_module = call(sys.executable, "-m", "tuwen.cli", "--help", cwd=tmp_path).stdout.splitlines()
    assert by_module[2:] == call("tuwen", "--help", cwd=tmp_path).stdout.splitlines()[2:]  # above is the name
