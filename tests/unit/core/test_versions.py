"""versions.yaml as it is read, and the check of what is installed before a stage starts."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.checkout import ROOT
from tests.support.smoke import environment
from tuwen.core.errors import UserError
from tuwen.core.versions import read_versions, require_versions

LISTED = """
data: {formats: {images: {pillow: &pillow "13.0.0"}, tables: {pyarrow: "25.0.1"}}, paraphrase: {none: {}}}
model: {torch: "2.13.0", pillow: *pillow}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "versions.yaml").write_text(LISTED)
    return tmp_path


def test_versions_are_read_by_key_and_without_the_file_there_are_none(folder: Path) -> None:
    everything = {"pillow": "13.0.0", "pyarrow": "25.0.1", "torch": "2.13.0"}
    assert read_versions() == everything
    assert read_versions(["data.formats", "model"]) == everything
    assert read_versions(["data.formats.tables", "data.paraphrase.none", "prediction"]) == {"pyarrow": "25.0.1"}
    (folder / "versions.yaml").unlink()
    assert read_versions() == read_versions(["model"]) == {}


def test_what_is_installed_as_listed_or_not_at_all_is_accepted(folder: Path) -> None:
    builds = {name: version(name).partition("+")[0] for name in ("pillow", "torch")}  # torch may be 2.13.0+cpu
    lines = [f'{name}: "{number}"\n' for name, number in (builds | {"no-such-package": "1.0"}).items()]
    (folder / "versions.yaml").write_text("".join(lines))
    require_versions()
    (folder / "versions.yaml").unlink()
    require_versions()


def test_another_installed_version_is_refused_with_both_ways_out(folder: Path) -> None:
    (folder / "versions.yaml").write_text('{pillow: "1.0", numpy: "0.9"}')
    with pytest.raises(UserError) as refused:
        require_versions()
    message = str(refused.value)
    for name, listed in (("pillow", "1.0"), ("numpy", "0.9")):
        assert f"{name} {version(name)} is installed, {listed} is listed" in message
    assert "pip install -c constraints.txt" in message
    assert "write the installed ones into that file" in message


def test_a_stage_does_not_start_under_another_version(folder: Path) -> None:
    (folder / "versions.yaml").write_text('{pillow: "1.0"}')
    command = [sys.executable, "-m", "stages.ingest"]
    done = subprocess.run(
        command, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: versions.yaml: pillow {version('pillow')} is installed, 1.0 is listed.")
