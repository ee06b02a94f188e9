"""What `make run` and the extra onnx install needs no compiler: pip finds a wheel of every pin, for each Python.

Only metadata are fetched. pip judges markers such as `python_version < "3.13"` by the Python that it runs in.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.repo.files import text_of
from tests.support.checkout import PYTHONS, ROOT

# Pure Python whose releases are source archives alone: pip makes their wheels without a compiler.
SOURCES = ["antlr4-python3-runtime==4.9.3"]
RUN = ("towers", "data", "pipeline", "cluster")


def project() -> dict[str, Any]:
    read: dict[str, Any] = tomllib.loads(text_of(Path("pyproject.toml")))["project"]
    return read


def pip(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "pip", *map(str, arguments), "--disable-pip-version-check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    pip("wheel", "--quiet", "--no-deps", "--wheel-dir", folder, *SOURCES)
    assert all(path.name.endswith("-py3-none-any.whl") for path in folder.iterdir())
    return folder


@pytest.mark.parametrize("version", PYTHONS)
def test_every_pin_of_make_run_and_of_onnx_has_a_wheel(version: str, wheels: Path, tmp_path: Path) -> None:
    extras = project()["optional-dependencies"]
    assert extras["all"] == [f"tuwen[{','.join(RUN)}]"]
    asked = tmp_path / "requirements.txt"
    wanted = (name for extra in (*RUN, "onnx") for name in extras[extra])
    asked.write_text("\n".join([*project()["dependencies"], *wanted]))
    for_version = ("--only-binary", ":all:", "--python-version", version, "--target", tmp_path / "none")
    asked_for = ("--find-links", wheels, "--constraint", "constraints.txt", "--requirement", asked)
    found = pip("install", "--dry-run", "--use-feature=fast-deps", "--ignore-installed", *for_version, *asked_for)
    would = re.search(r"^Would install (.+)$", found, re.MULTILINE)
    assert would
    assert len(would[1].split()) > 150
    assert re.search(r"\btorch-2\.", would[1])
