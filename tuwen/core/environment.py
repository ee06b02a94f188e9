"""What a process takes over from the shell that started it: this place decides it for stages, flows and servers.

The shell of a notebook, a git hook, a container or a cluster's job carries variables that were meant for other
programs. What would break or steer a run unseen is left behind, and one line on stderr names it; the table in
docs/operations.md says what is taken over on purpose. Files and their names are UTF-8, whatever the locale says.

    python -E -m tuwen.core.environment     prints the same as commands of a shell: unset and export
"""

import io
import locale
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from tuwen.core.errors import UserError, report_user_errors
from tuwen.core.progress import say

_ROOT = Path(__file__).parents[2]
# Families of variables that decide how a run goes; of these only WANTED is taken over.
FOREIGN = re.compile(
    r"MPLBACKEND|MATPLOTLIBRC|USE_(TORCH|TF|FLAX|JAX)|(DVC|DVCLIVE|GX|MLFLOW|PREFECT)_\w+|PYTHON[A-Z]\w+"
    r"|GIT_(DIR|WORK_TREE|IMPLICIT_WORK_TREE|INDEX_FILE|COMMON_DIR|PREFIX|NAMESPACE|CONFIG|GRAFT_FILE|SHALLOW_FILE"
    r"|(ALTERNATE_)?OBJECT_DIRECTOR(Y|IES)|QUARANTINE_PATH|\w+_PATHSPECS)"
)
WANTED = re.compile(
    r"DVC_(SITE_CACHE_DIR|GLOBAL_CONFIG_DIR|SYSTEM_CONFIG_DIR|NO_ANALYTICS|STAGE|ROOT)"
    r"|GX_ANALYTICS_ENABLED"
    r"|MLFLOW_(TRACKING_(USERNAME|PASSWORD|TOKEN|AUTH|AWS_SIGV4|INSECURE_TLS|SERVER_CERT_PATH|CLIENT_CERT_PATH)"
    r"|(HTTP_REQUEST|S3|SYSTEM_METRICS)_\w+|PORT|DISABLE_TELEMETRY|ENABLE_ARTIFACTS_PROGRESS_BAR"
    r"|SERVER_ENABLE_JOB_EXECUTION)"
    r"|PREFECT_(HOME|DEBUG_MODE|LOGGING_LEVEL|UI_(URL|STATIC_DIRECTORY)|API_(URL|KEY|AUTH_STRING|TLS_\w+|SSL_\w+|REQUEST_TIMEOUT)"
    r"|(CLIENT|WORKER)_\w+|SERVER_(API_PORT|API_AUTH_STRING|CORS_ALLOWED_ORIGINS|ANALYTICS_ENABLED|LOGGING_LEVEL"
    r"|CONCURRENCY_\w+|EPHEMERAL_STARTUP_\w+))"
    r"|PYTHON(PATH|UTF8|UNBUFFERED|DONTWRITEBYTECODE|PYCACHEPREFIX|FAULTHANDLER|HASHSEED|NOUSERSITE|STARTUP|USERBASE)"
)
# torchrun gives them to its processes; operators of a cluster give them to every job.
PROCESSES = re.compile(r"((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)")
TORCHRUN = "TORCHELASTIC_RUN_ID"
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PROXY = re.compile(r"(all|https?)_proxy", re.IGNORECASE)
SCHEMES, SOCKS = ("http", "https"), ("socks5", "socks5h")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# Where a preset runs (core/worktree.py), and where DVC runs what it queued, and what it deletes then.
_BESIDE = re.compile(r"(.+?)(/\.worktrees/[^/]+)?(/\.dvc/tmp/exps/.+)?")
_STORE = "TUWEN_TRACKING_URI"
# torch asks the kernel for huge pages: fewer faults for each tensor, a third more pictures a second (docs/log.md)
HUGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
NO_HOME = "HOME is not set, and this user has no home; set TUWEN_CACHE to a folder that can be written"


def prepare_process(*, socks: bool = True) -> None:
    """Make this process, and all that it starts, the same under every shell; begin with it, before other imports.

    Python starts anew where the locale gave it another encoding than UTF-8. No character ends a `print`.
    socks: whether its programs know SOCKS proxies; httpx, by which flows talk to Prefect, knows none.
    Raises UserError where neither HOME nor TUWEN_CACHE names a folder.
    """
    inherited = _choose_with_home(socks=socks)
    foreign = _find_foreign_folders()
    sys.path[:] = [entry for entry in sys.path if not entry or os.path.abspath(entry) not in foreign]
    for name in set(os.environ) - set(inherited):
        del os.environ[name]
    os.environ.update(inherited)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=_get_encoding(stream), errors="backslashreplace")
    by_locale = (sys.getfilesystemencoding(), locale.getpreferredencoding(False).lower())
    if by_locale != ("utf-8", "utf-8") and not sys.flags.utf8_mode:
        _start_anew()


def choose_inherited(environment: Mapping[str, str], *, socks: bool = True) -> dict[str, str]:
    """Return the variables of `environment` that a process takes over; loopback addresses need no proxy.

    socks: whether proxies by SOCKS are among them.
    """
    foreign = {name for name in environment if FOREIGN.fullmatch(name) and not WANTED.fullmatch(name)}
    if TORCHRUN not in environment:
        foreign |= {name for name in environment if PROCESSES.fullmatch(name)}
    schemes = (*SCHEMES, *SOCKS) if socks else SCHEMES
    foreign |= {
        name
        for name, value in environment.items()
        if (PROXY.fullmatch(name) and value and not _is_proxy(value, schemes))
        or (name in CERTIFICATES and not os.path.exists(value))
    }
    inherited = {name: value for name, value in environment.items() if name not in foreign}
    if kept := list(_own_folders(inherited.pop("PYTHONPATH", ""))):
        inherited["PYTHONPATH"] = os.pathsep.join(kept)
    if any(PROXY.fullmatch(name) and value for name, value in inherited.items()):
        # both spellings, since each program prefers another one
        inherited |= dict.fromkeys(("NO_PROXY", "no_proxy"), _spare_loopback(environment))
    return HUGE_PAGES | inherited | {"PYTHONUTF8": "1"}


def find_home(environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables that give tools a place for their files where HOME is none; empty where it is one.

    Raises UserError where there is no home at all and TUWEN_CACHE is not set.
    """
    home, cache = os.path.expanduser("~"), environment.get("TUWEN_CACHE")
    if os.path.isabs(home) and os.access(home, os.W_OK):
        return {}
    if not cache:
        if os.path.isabs(home):
            return {}  # who needs the cache says so; most commands only read
        raise UserError(NO_HOME)
    tools = Path(cache).absolute() / "tools"
    places = {"XDG_CACHE_HOME": tools, "MPLCONFIGDIR": tools / "matplotlib", "HF_HOME": tools / "huggingface"}
    there = {name: str(place) for name, place in places.items() if name not in environment}
    return there if os.path.isabs(home) else there | {"HOME": str(tools)}


def find_store(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the checkout's MLflow store for a preset's worktree and for an experiment of DVC's queue.

    A store of their own would not be compared with the checkout's, and would be deleted with them.
    """
    found = _BESIDE.fullmatch(os.getcwd())
    if environment.get(_STORE) or not found or not (found[2] or found[3]):
        return {}
    return {_STORE: f"sqlite:///{found[1]}/mlflow.db"}


def locate_cache(name: str) -> Path:
    """Return the folder `name` of TUWEN_CACHE, by default of ~/.cache/tuwen. Raises UserError without a home."""
    chosen = os.environ.get("TUWEN_CACHE")
    home = os.path.expanduser("~")
    if not chosen and not os.path.isabs(home):
        raise UserError(NO_HOME)
    return Path(chosen or Path(home) / ".cache" / "tuwen") / name


def require_writable(folder: Path) -> None:
    """Make a folder of the cache. Raises UserError where it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
        why = "no permission"
    except OSError as error:
        writable, why = False, error.strerror or str(error)
    if not writable:
        variable = "TUWEN_CACHE" if os.environ.get("TUWEN_CACHE") else "HOME"
        raise UserError(
            f"{variable}: {folder} cannot be written ({why}); set TUWEN_CACHE to a folder that can be written"
        )


def _choose_with_home(*, socks: bool = True) -> dict[str, str]:
    """Return what this process takes over, and the home; print what it does not."""
    inherited = choose_inherited(os.environ, socks=socks)
    inherited |= find_home(inherited) | find_store(inherited)
    names = sorted(set(os.environ) - set(inherited) - {"PYTHONPATH"})
    names += [f"{folder} in PYTHONPATH" for folder in _find_foreign_folders()]
    if names:
        listed = ", ".join(names).encode("ascii", "backslashreplace").decode()
        say(f"environment: not taken over: {listed} (docs/operations.md)", error=True)
    return inherited


def _find_foreign_folders() -> list[str]:
    entries = os.environ.get("PYTHONPATH", "")
    own = set(_own_folders(entries))
    return [os.path.abspath(entry) for entry in entries.split(os.pathsep) if entry and entry not in own]


def _own_folders(python_path: str) -> Iterator[str]:
    """Yield the folders of PYTHONPATH that belong to this checkout or this Python, and the working directory."""
    trees = [os.path.abspath(folder) for folder in (_ROOT, sys.prefix)]
    trees += [os.path.realpath(folder) for folder in trees]
    for entry in filter(None, python_path.split(os.pathsep)):
        places = {os.path.abspath(entry), os.path.realpath(entry)}
        if os.getcwd() in places or any(Path(place).is_relative_to(tree) for place in places for tree in trees):
            yield entry


def _is_proxy(address: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        return parts.scheme in schemes and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number
        return False


def _spare_loopback(environment: Mapping[str, str]) -> str:
    """Return NO_PROXY with the loopback addresses, without what makes httpx fail: brackets, other letters."""
    given = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    names = [re.sub(r"^\[([^]]*)\](:\d+)?$", r"\1", name.strip()) for name in given.split(",")]
    if "*" in names:
        return "*"
    return ",".join(dict.fromkeys([*(name for name in names if name and name.isascii()), *LOOPBACK]))


def _get_encoding(stream: io.TextIOWrapper) -> str:
    """Return a terminal's own encoding, which its locale names, and UTF-8 for files, pipes and the C locale."""
    own = locale.getencoding()
    return own if stream.isatty() and own not in ("ANSI_X3.4-1968", "US-ASCII") else "utf-8"


def _start_anew() -> None:
    """Replace this process by the same command in Python's UTF-8 mode, which the environment now asks for."""
    asked = Path("/proc/self/cmdline")  # the very bytes; what Python decoded by the locale may not come back
    rest: list[bytes] | list[str] = asked.read_bytes().split(b"\0")[1:-1] if asked.exists() else sys.orig_argv[1:]
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *rest])


@report_user_errors
def main() -> None:
    """Print what a shell must unset and export to start programs as prepare_process would."""
    inherited = _choose_with_home()
    lines = [f"unset {name}" for name in os.environ if name not in inherited]
    lines += [
        f"export {name}={shlex.quote(value)}" for name, value in inherited.items() if os.environ.get(name) != value
    ]
    sys.stdout.buffer.write(os.fsencode("\n".join([*lines, ""])))


if __name__ == "__main__":
    main()
