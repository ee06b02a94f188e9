"""What a process takes over from its shell: by its rules, and in real processes with hostile shells."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.checkout import ROOT
from tuwen.core import environment
from tuwen.core.errors import UserError

NOTEBOOK = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "MLFLOW_TRACKING_URI": "databricks",
    "MLFLOW_RUN_ID": "0b5f6c1e",
    "MLFLOW_EXPERIMENT_NAME": "other",
    "PREFECT_PROFILE": "cloud",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT__FLOW_RUN_ID": "1",
    "DVC_EXP_NAME": "x",
    "GX_CLOUD_ACCESS_TOKEN": "t",
    "PYTHONIOENCODING": "gbk",
    "PYTHONHOME": "/opt/python",
    "PYTHONSAFEPATH": "1",
    "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "2",
    "USE_TORCH": "0",
    "GIT_DIR": "/elsewhere/.git",
    "GIT_WORK_TREE": "/elsewhere",
    "GIT_INDEX_FILE": ".git/index.lock",
    "RANK": "3",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "10.0.0.7",
    "SSL_CERT_FILE": "/no/such/bundle.pem",
}
ON_PURPOSE = {
    "CUDA_VISIBLE_DEVICES": "1",
    "OMP_NUM_THREADS": "4",
    "HF_ENDPOINT": "https://hf.example.org",
    "PIP_INDEX_URL": "https://pypi.example.org/simple",
    "TUWEN_CACHE": "/data/cache",
    "TUWEN_TRACKING_URI": "http://mlflow:5000",
    "PREFECT_API_URL": "http://127.0.0.1:4200/api",
    "PREFECT_HOME": "/data/prefect",
    "MLFLOW_TRACKING_USERNAME": "ming",
    "MLFLOW_TRACKING_PASSWORD": "geheim",
    "DVC_SITE_CACHE_DIR": "/data/site",
    "DVC_STAGE": "finetune",
    "GIT_CONFIG_COUNT": "0",
    "PYTHONUNBUFFERED": "1",
    "PYTHON": "python3.11",  # make's own variable
    "PYTHON_VERSION": "3.11.14",  # of Python's image
    "AWS_SECRET_ACCESS_KEY": "geheim",
}
ALWAYS = {"PYTHONUTF8": "1", "THP_MEM_ALLOC_ENABLE": "1"}


def test_what_was_meant_for_other_programs_is_left_behind_and_what_is_meant_for_this_one_stays() -> None:
    inherited = environment.choose_inherited(NOTEBOOK | ON_PURPOSE)
    assert inherited == ON_PURPOSE | ALWAYS
    assert environment.choose_inherited(inherited) == inherited
    small = {"THP_MEM_ALLOC_ENABLE": "0"}
    assert environment.choose_inherited(small) == ALWAYS | small


def test_the_processes_of_torchrun_keep_their_ranks() -> None:
    ranks = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "1"}
    torchrun = ranks | {"TORCHELASTIC_RUN_ID": "none"}
    assert environment.choose_inherited(torchrun) == torchrun | ALWAYS


def test_of_pythonpath_only_folders_of_this_checkout_and_this_python_stay(tmp_path: Path) -> None:
    foreign, own = str(tmp_path / "ros"), str(ROOT / "tests")
    for given in (f"{foreign}:{own}:{sys.prefix}/lib", f":{own}::{sys.prefix}/lib:{foreign}"):
        assert environment.choose_inherited({"PYTHONPATH": given})["PYTHONPATH"] == f"{own}:{sys.prefix}/lib"
    assert "PYTHONPATH" not in environment.choose_inherited({"PYTHONPATH": foreign})


@pytest.mark.parametrize(
    ("proxies", "kept"),
    [
        ({"ALL_PROXY": "socks5://127.0.0.1:7890"}, False),
        ({"all_proxy": "socks5h://127.0.0.1:7890"}, False),
        ({"all_proxy": "socks://127.0.0.1:7890/"}, False),
        ({"HTTP_PROXY": "http://127.0.0.1:port"}, False),
        ({"https_proxy": "http=127.0.0.1:1;https=127.0.0.1:2"}, False),
        ({"HTTPS_PROXY": "http://proxy.example.org:8080", "NO_PROXY": ".cn,[::1],内网.example"}, True),
        ({"http_proxy": "127.0.0.1:7890", "no_proxy": "10.0.0.0/8"}, True),
        ({"http_proxy": "http://127.0.0.1:7890", "NO_PROXY": "*"}, True),
    ],
)
def test_a_client_of_httpx_can_be_made_under_every_proxy_and_asks_this_machine_directly(
    proxies: dict[str, str], kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    inherited = environment.choose_inherited(proxies, socks=False)
    assert (set(proxies) & set(inherited) == set(proxies)) is kept
    for name, value in inherited.items():
        monkeypatch.setenv(name, value)
    with httpx.Client() as client:
        for address in ("http://127.0.0.1:4200/api", "http://localhost:5000", "http://[::1]:5000"):
            transport = client._transport_for_url(httpx.URL(address))
            assert transport is client._transport, address


def test_programs_that_know_socks_keep_it() -> None:
    proxies = {"ALL_PROXY": "socks5://127.0.0.1:7890", "NO_PROXY": ".cn"}
    inherited = environment.choose_inherited(proxies)
    assert inherited["ALL_PROXY"] == proxies["ALL_PROXY"]
    assert inherited["NO_PROXY"] == inherited["no_proxy"] == ".cn,localhost,127.0.0.1,::1"
    broken = environment.choose_inherited(proxies | {"HTTP_PROXY": "socks://127.0.0.1:1"})
    assert "HTTP_PROXY" not in broken


def test_without_a_home_the_cache_takes_the_files_of_tools_and_without_both_one_message_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert environment.find_home({}) == {}
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    assert environment.find_home({}) == {}  # most commands only read
    given = environment.find_home({"TUWEN_CACHE": "/data", "HF_HOME": "/hf"})
    assert given == {"XDG_CACHE_HOME": "/data/tools", "MPLCONFIGDIR": "/data/tools/matplotlib"}
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)  # no user of this machine
    assert environment.find_home({"TUWEN_CACHE": "/data"})["HOME"] == "/data/tools"
    for find in (lambda: environment.find_home({}), lambda: environment.locate_cache("wheels")):
        with pytest.raises(
            UserError, match=r"^HOME is not set, .* set TUWEN_CACHE to a folder that can be written$"
        ):
            find()


def test_a_cache_that_cannot_be_written_names_the_variable_and_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TUWEN_CACHE", str(tmp_path / "file"))
    folder = environment.locate_cache("wheels")
    with pytest.raises(
        UserError, match=r"^TUWEN_CACHE: .*/file/wheels cannot be written \(Not a directory\); set "
    ):
        environment.require_writable(folder)
    monkeypatch.delenv("TUWEN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"^HOME: .*tuwen/wheels cannot be written .* set TUWEN_CACHE"):
        environment.require_writable(environment.locate_cache("wheels"))


@pytest.fixture(scope="module")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Chinese locale in GBK and an English one in ISO-8859-1."""
    folder = tmp_path_factory.mktemp("locales")
    for language, charset in (("zh_CN", "GBK"), ("en_US", "ISO-8859-1")):
        made = subprocess.run(["localedef", "-i", language, "-f", charset, f"{folder}/{language}.{charset}"])
        if made.returncode not in (0, 1):  # 1: warnings
            pytest.skip("localedef has no source of this locale")
    return folder


@pytest.mark.parametrize("name", ["zh_CN.GBK", "en_US.ISO-8859-1", "C", "POSIX"])
def test_names_and_files_are_utf_8_under_every_locale_and_no_character_ends_a_print(
    name: str, locales: Path, tmp_path: Path
) -> None:
    (tmp_path / "图片").mkdir()
    (tmp_path / "图片/说明—·.txt").write_text("一只橘猫", encoding="utf-8")
    program = (
        "import sys; sys.argv[0] = '-m'; import stages\n"
        "import multiprocessing as m, os\n"
        "print(open(sys.argv[1]).read(), '🀄\\udc80'); print('🀄\\udc80', file=sys.stderr)\n"
        "pool = m.get_context('spawn').Pool(1); print(pool.apply(sys.getfilesystemencoding)); pool.terminate()\n"
    )
    shell = {"LOCPATH": str(locales), "LC_ALL": name, "PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", program, "图片/说明—·.txt"],
        cwd=tmp_path,
        env=shell,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == "一只橘猫 🀄\\udc80\nutf-8\n"
    assert done.stderr.decode() == "🀄\\udc80\n"


def test_a_stage_says_in_one_line_what_it_leaves_behind_and_hands_on_the_rest(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "pydantic.py").write_text("raise SystemExit('the wrong package')")
    shell = os.environ | {"MPLBACKEND": "module://inline", "PYTHONPATH": f"{foreign}:{ROOT}", "RANK": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "stages.ingest"],
        cwd=tmp_path,
        env=shell,
        capture_output=True,
        text=True,
        check=False,
    )
    said, error = done.stderr.splitlines()
    assert said == (f"environment: not taken over: MPLBACKEND, RANK, {foreign} in PYTHONPATH (docs/operations.md)")
    assert error.startswith("error: params.yaml")


def test_a_shell_is_told_by_commands_of_its_own(tmp_path: Path) -> None:
    ask = 'settled=$("$0" -E -m tuwen.core.environment) && eval "$settled" && env'
    shell = {
        "PATH": os.environ["PATH"],
        "HOME": "/",
        "MPLBACKEND": "x",
        "http_proxy": "http://a:1",
        "no_proxy": "it's",
    }
    done = subprocess.run(
        ["bash", "-c", ask, sys.executable], cwd=ROOT, env=shell, capture_output=True, text=True, check=True
    )
    left = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert "MPLBACKEND" not in left
    assert left["NO_PROXY"] == "it's,localhost,127.0.0.1,::1"
    assert done.stderr == "environment: not taken over: MPLBACKEND (docs/operations.md)\n"


def test_a_full_log_disk_does_not_end_a_process_that_leaves_variables_behind() -> None:
    program = "from tuwen.core.environment import prepare_process as prepare; prepare(); print('on')"
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_EXPERIMENT_ID": "7"},
            stdout=subprocess.PIPE,
            stderr=full,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, b"on\n")


@pytest.mark.parametrize(
    "beside",
    [
        ".dvc/tmp/exps/tmpq1",
        ".dvc/tmp/exps/standalone/tmp_2",
        ".worktrees/smoke",
        ".worktrees/smoke/.dvc/tmp/exps/tmpq1",
    ],
)
def test_runs_of_a_preset_and_of_a_queued_experiment_go_to_the_store_of_the_checkout(
    beside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "项目" / beside
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    store = f"sqlite:///{tmp_path}/项目/mlflow.db"
    assert environment.find_store({}) == {"TUWEN_TRACKING_URI": store}
    assert environment.find_store({"TUWEN_TRACKING_URI": "http://mlflow:5000"}) == {}
    monkeypatch.chdir(tmp_path / "项目")
    assert environment.find_store({}) == {}
