"""What a file of a stranger may not do, where servers listen, and that no secret lies in the repository."""

import ast
import configparser
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

RUNS_WHAT_IT_READS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
READERS = {"load", "loads", "Unpickler", "open"}
# A remote in .dvc/config has an address; who may use it, the environment says.
DVC_KEYS = {"analytics", "check_update", "autostage", "type", "remote", "url", "endpointurl", "region"}
SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----|\b(?:ghp|gho|github_pat|hf|xox[bp])_[A-Za-z0-9_]{30,}"
    r"|://[^\s/:@${}\[*'\"]+:(?!geheim)[^\s/@${}\[*'\"]{8,}@"  # a password, but for that of our tests
    r"|(?i:password|secret|token|api_?key)\w*\s*[=:]\s*['\"]?[A-Za-z0-9+/]{20,}"
)


def tracked(*suffixes: str) -> list[Path]:
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    paths = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    return [path for path in paths if not suffixes or path.suffix in suffixes]


def unsafe_reads(source: str) -> Iterator[str]:
    """Calls that would run code which the file that they read brings along."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in RUNS_WHAT_IT_READS:
            yield from (f"from {node.module} import {name.name}" for name in node.names if name.name in READERS)
        if not isinstance(node, ast.Call):
            continue
        called, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        module, _, name = called.rpartition(".")
        if called == "torch.load" and given.get("weights_only") != "True":
            yield called
        elif name == "load" and given.get("allow_pickle", "False") != "False":
            yield f"{called} with allow_pickle"
        elif (
            name == "read_pickle"
            or given.get("typ") == "'unsafe'"
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
    paths = [path for path in tracked(".py") if path.relative_to(ROOT).parts[0] != "tests"]
    assert len(paths) > 50
    found = {path.name: calls for path in paths if (calls := list(unsafe_reads(path.read_text(encoding="utf-8"))))}
    assert found == {}


def test_safe_reads_pass() -> None:
    safe = "torch.load(p, weights_only=True); np.load(p, allow_pickle=False); np.load(p); json.load(f); open(p)"
    assert list(unsafe_reads(safe)) == []


def test_servers_listen_on_this_machine_alone() -> None:
    makefile = (ROOT / "Makefile").read_text()
    starts = re.findall(r"^\t.*\b(?:mlflow server|prefect server start)\b.*$", makefile, re.MULTILINE)
    assert starts
    assert [line for line in starts if "--host 127.0.0.1" not in line] == []
    code = [ROOT / "Makefile", ROOT / "prefect.yaml", *tracked(".py")]
    open_to_all = re.compile(r"0\.0\.0\.0|--host[= ]::|host=\"\"")
    ours = [path for path in code if "tests" not in path.relative_to(ROOT).parts]
    assert [path.name for path in ours if open_to_all.search(path.read_text(encoding="utf-8"))] == []


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
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in tracked()}
    found = {
        str(path.relative_to(ROOT)): match[0] for path, text in texts.items() if (match := SECRET.search(text))
    }
    assert found == {}


def test_dvcs_configuration_holds_no_credentials() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc/config")
    assert {key for section in config.sections() for key in config[section]} <= DVC_KEYS
    assert not [value for section in config.sections() for value in config[section].values() if "@" in value]
    tracked_names = {str(path.relative_to(ROOT)) for path in tracked()}
    assert not tracked_names & {".dvc/config.local", ".env", "docker/.env"}


def test_under_make_nobody_else_may_write_what_dvc_unpickles(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    environment = {name: value for name, value in os.environ.items() if name != "DVC_SITE_CACHE_DIR"}
    command = ["make", "--no-print-directory", "--eval", 'shown: ; @echo "$$DVC_SITE_CACHE_DIR"', "shown"]
    shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    folder = Path(shown.stdout.strip())
    assert folder.is_relative_to(tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o700
