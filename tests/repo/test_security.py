"""No file that is read can run code, servers listen on this machine alone, and the repository holds no secret."""

import ast
import configparser
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repo.files import text_of, tracked_files
from tests.support.checkout import ROOT

RUNS_WHAT_IT_READS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
READERS = {"load", "loads", "Unpickler", "open"}
# A remote in .dvc/config has an address; the credentials for it stand in the environment.
DVC_KEYS = {"analytics", "check_update", "autostage", "type", "remote", "url", "endpointurl", "region"}
SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----|\b(?:ghp|gho|github_pat|hf|xox[bp])_[A-Za-z0-9_]{30,}"
    r"|://[^\s/:@${}\[*'\"]+:(?!geheim)[^\s/@${}\[*'\"]{8,}@"  # a password, but for that of our tests
    r"|(?i:password|secret|token|api_?key)\w*\s*[=:]\s*['\"]?[A-Za-z0-9+/]{20,}"
)


def python_files() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".py"]


def unsafe_reads(source: str) -> Iterator[str]:
    """Yield the calls that would run code from the file that they read."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in RUNS_WHAT_IT_READS:
            yield from (f"from {node.module} import {name.name}" for name in node.names if name.name in READERS)
        if not isinstance(node, ast.Call):
            continue
        called, options = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        module, _, name = called.rpartition(".")
        if called == "torch.load" and options.get("weights_only") != "True":
            yield called
        elif name == "load" and options.get("allow_pickle", "False") != "False":
            yield f"{called} with allow_pickle"
        elif (
            name == "read_pickle"
            or options.get("typ") == "'unsafe'"
            or (module in RUNS_WHAT_IT_READS and name in READERS)
        ):
            yield called


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path, allow_pickle=True)",
        "pickle.loads(data)",
        "joblib.load(path)",
        "from pickle import load",
        "pd.read_pickle(path)",
        "YAML(typ='unsafe')",
    ],
)
def test_an_unsafe_read_is_found(source: str) -> None:
    assert list(unsafe_reads(source))


def test_no_file_that_is_read_can_bring_code_along() -> None:
    # tests are left out: one of them shows what a pickle does to a reader that is not careful
    paths = [path for path in python_files() if path.parts[0] != "tests"]
    assert len(paths) > 50
    assert {path: calls for path in paths if (calls := list(unsafe_reads(text_of(path))))} == {}


def test_safe_reads_pass() -> None:
    safe = "torch.load(p, weights_only=True); np.load(p, allow_pickle=False); np.load(p); json.load(f); open(p)"
    assert list(unsafe_reads(safe)) == []


def test_servers_listen_on_this_machine_alone() -> None:
    makefile = (ROOT / "Makefile").read_text()
    starts = re.findall(r"^\t.*\b(?:mlflow server|prefect server start)\b.*$", makefile, re.MULTILINE)
    assert starts
    assert [line for line in starts if "--host 127.0.0.1" not in line] == []
    code = [Path("Makefile"), Path("prefect.yaml"), *python_files()]
    open_to_all = re.compile(r"0\.0\.0\.0|--host[= ]::|host=\"\"")
    assert [path for path in code if path.parts[0] != "tests" and open_to_all.search(text_of(path))] == []


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + "IOSFODNN7EXAMPLE",
        "postgresql://mlflow" + ":hunter2hunter2@db/mlflow",
        "S3_SECRET_KEY=" + "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY",
        "-----BEGIN RSA" + " PRIVATE KEY-----",
        "hf_" + "a" * 34,
    ],
)
def test_a_secret_is_found(text: str) -> None:
    assert SECRET.search(text)


@pytest.mark.parametrize(
    "text", ["postgresql://mlflow:${MLFLOW_DB_PASSWORD:?x}@postgres", "password=", "//***@host"]
)
def test_the_name_of_a_secret_is_none(text: str) -> None:
    assert not SECRET.search(text)


def test_no_secret_lies_in_the_repository() -> None:
    assert {path: match[0] for path in tracked_files() if (match := SECRET.search(text_of(path)))} == {}


def test_dvcs_configuration_holds_no_credentials() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc/config")
    assert {key for section in config.sections() for key in config[section]} <= DVC_KEYS
    assert not [value for section in config.sections() for value in config[section].values() if "@" in value]
    assert not set(map(str, tracked_files())) & {".dvc/config.local", ".env", "docker/.env"}


def test_under_make_nobody_else_may_write_what_dvc_unpickles(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "DVC_SITE_CACHE_DIR"}
    command = ["make", "--no-print-directory", "--eval", 'shown: ; @echo "$$DVC_SITE_CACHE_DIR"', "shown"]
    shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    folder = Path(shown.stdout.strip())
    assert folder.is_relative_to(tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o700
