"""The process: what cannot serve says why and ends."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tuwen.service import __main__ as entry


def start(folder: Path, **settings: object) -> subprocess.CompletedProcess[str]:
    variables = {f"TUWEN_SEARCH_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", entry.__name__.removesuffix(".__main__")]
    return subprocess.run(
        command,
        **{"cwd": folder, "env": os.environ | variables | {"PYTHONPATH": str(ROOT)}, "timeout": 300},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "0.0.0.0"}, "error: TUWEN_SEARCH_HOST: 0.0.0.0 can be reached from other machines"),
        ({"port": 0}, "error: index/manifest.json: missing; run `dvc repro index`"),
    ],
)
def test_what_it_cannot_serve_is_one_line(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    done = start(tmp_path, **settings)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(message)
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = start(tmp_path, port=port)
    assert done.returncode == 1
    assert f"TUWEN_SEARCH_PORT: cannot listen on 127.0.0.1:{port}" in done.stderr
