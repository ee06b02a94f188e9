"""The image and the stack of docker/compose.yaml in a real engine: the machine's, or one of the tests' own."""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import smoke
from tests.support.checkout import ROOT
from tests.support.image import list_removing_commands
from tests.support.ports import free_ports
from tuwen.core.environment import locate_cache
from tuwen.core.wheels import open_wheels, read_pins

COMPOSE = ROOT / "docker/compose.yaml"
ENGINE = Path(__file__).with_name("engine.sh")
PORTS = ("PREFECT_PORT", "MLFLOW_PORT", "S3_PORT")
CARDS = ("GPU-test", "GPU-test-2")  # stages of the CPU take turns on them as they would on real ones
STRANGER = 4321  # a user id that no image knows
# Of the whole stack, from its build to its end: a test that hangs must not hold who waits for it.
STACK_SECONDS, PIP_SECONDS = 480, 900  # the second where pip fills the image
STEP_SECONDS = 300
MAX_SCRIPT_BYTES = 1_000_000
PACKAGES = Path("lib/python3.11/site-packages")  # the image's Python
NO_REGISTRY = re.compile("dial tcp|no such host|timeout|TLS handshake|toomanyrequests")
CANNOT = 3  # engine.sh: this machine can have none
# An image's own base comes from a registry; an engine of the tests' own has none, and stand-ins in their place.
STAND_INS = {"PYTHON_IMAGE": "python", "POSTGRES_IMAGE": "postgres", "RCLONE_IMAGE": "rclone"}


@dataclass
class Stack:
    """The compose project of a checkout of the tests' own, and commands for it."""

    checkout: Path
    values: dict[str, str]  # of its `.env`
    environment: dict[str, str]
    options: list[str]
    deadline: float

    def run(self, *arguments: str, seconds: float = STEP_SECONDS) -> str:
        """Run `docker compose ARGUMENTS` and return what it prints; fail where it does."""
        done = self.attempt(*arguments, seconds=seconds)
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-5000:]}{done.stderr[-5000:]}"
        return done.stdout

    def attempt(
        self, *arguments: str, seconds: float = STEP_SECONDS, **more: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "compose", *self.options, *arguments],
            cwd=self.checkout,
            env=self.environment | more,
            capture_output=True,
            text=True,
            timeout=max(1, min(seconds, self.deadline - time.monotonic())),
            check=False,
        )

    def execute(self, *command: str, seconds: float = STEP_SECONDS) -> str:
        """Run a command in the worker's container."""
        return self.run("exec", "--no-TTY", "worker-cpu", *command, seconds=seconds)

    def inspect(self, service: str) -> dict[str, Any]:
        """Return what the engine knows of a service's container."""
        container = self.run("ps", "--all", "--quiet", service).strip()
        command = ["docker", "inspect", container]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout)[0])

    def inspect_image(self, wanted: str) -> str:
        """Return what the engine knows of the image, by a Go template."""
        command = ["docker", "image", "inspect", "tuwen:cpu", "--format", wanted]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def wait_until(self, look: Callable[[], Any], what: str, seconds: float = STEP_SECONDS) -> Any:
        """Return what `look` returns as soon as it is something."""
        deadline = min(time.monotonic() + seconds, self.deadline)
        while not (result := look()):
            assert time.monotonic() < deadline, f"{what}\n{self.log('worker-cpu')}"
            time.sleep(0.3)  # files of a container, pages and Prefect's API announce nothing
        return result

    def log(self, *services: str) -> str:
        """Return the last lines that these services wrote, or all."""
        return self.attempt("logs", "--no-color", "--tail", "60", *services).stdout


@pytest.fixture(scope="session")
def engine() -> Iterator[dict[str, str]]:
    """The variables of an engine; skipped where there is none and this machine can have none."""
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        pull_images()
        yield {}
        return
    kept = os.environ.get("TUWEN_TEST_ENGINE")
    folder = Path(kept or tempfile.mkdtemp(prefix="tuwen-engine-"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    try:
        started = subprocess.run(
            [ENGINE, folder],
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        if started.returncode == CANNOT:
            pytest.skip(f"no engine runs, and none can: {' '.join(started.stderr.split())[-400:]}")
        assert started.returncode == 0, started.stderr[-5000:]
        variables = dict(line.split("=", 1) for line in started.stdout.splitlines())
        yield variables | {name: f"stand-in/{image}" for name, image in STAND_INS.items()}
    finally:
        if not kept:
            stop_engine(folder)


def pull_images() -> None:
    """Fetch the images of others into the machine's engine; skip the tests where it reaches no registry."""
    for name, image in sorted(set(re.findall(r"(\w+_IMAGE):-([^}]+)\}", COMPOSE.read_text()))):
        if name == "MILVUS_IMAGE":
            continue  # no test starts it
        command = ["docker", "pull", "--quiet", os.environ.get(name) or image]
        pulled = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        if pulled.returncode and NO_REGISTRY.search(pulled.stderr):
            pytest.skip(f"the engine of this machine gets no images: {pulled.stderr.strip()[-400:]}")
        assert pulled.returncode == 0, pulled.stderr


def stop_engine(folder: Path) -> None:
    """End an engine of the tests' own and remove all that it made."""
    pid = folder / "pid"
    if pid.exists():
        os.kill(int(pid.read_text()), 15)
        deadline = time.monotonic() + 120
        while pid.exists() and time.monotonic() < deadline:
            time.sleep(0.2)  # the engine removes the file as it ends
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def stack(engine: dict[str, str]) -> Iterator[Stack]:
    """The stack, built and healthy, whose worker is a user that the image does not know."""
    if os.geteuid() != 0:
        pytest.skip("root alone can give that user a checkout")
    with tempfile.TemporaryDirectory(prefix="tuwen-stack-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        stack = make_stack(folder, engine)
        try:
            started = stack.attempt("up", "--build", "--detach", "--wait", seconds=PIP_SECONDS)
            assert started.returncode == 0, f"{started.stderr[-3000:]}\n{stack.log()}"
            yield stack
        finally:
            stack.deadline = time.monotonic() + STEP_SECONDS
            stack.attempt("--profile", "*", "down", "--volumes", "--timeout", "5")


def make_stack(folder: Path, engine: dict[str, str]) -> Stack:
    """Make a checkout, a filled-in `.env` and what the tests alone need besides."""
    checkout = smoke.make(folder / "project")
    (checkout / "inputs").mkdir()
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    example = (checkout / "docker/.env.example").read_text().splitlines()
    values = {name.removesuffix("="): secrets.token_hex(20) for name in example if name.endswith("=")} | ports
    values |= {"HOST_UID": str(STRANGER), "HOST_GID": str(STRANGER)}
    (checkout / "docker/.env").write_text("".join(f"{name}={value}\n" for name, value in values.items()))
    (checkout / "docker/.env").chmod(0o600)
    build: dict[str, Any] = {"network": "host"}
    if environment := find_environment():
        build["additional_contexts"] = {"build-cpu": str(relocate(environment, folder / "environment"))}
    # one thread, since other tests compute beside it
    variables = {"TUWEN_CHECKPOINT_SECONDS": "0", "CUDA_VISIBLE_DEVICES": ",".join(CARDS), "OMP_NUM_THREADS": "1"}
    variables["PREFECT_WORKER_QUERY_SECONDS"] = "1"  # by default it looks for a new run every ten
    (folder / "override.yaml").write_text(
        json.dumps({"services": {"prefect": {"build": build}, "worker-cpu": {"environment": variables}}})
    )
    copy_wheels(checkout)
    subprocess.run(["chown", "-R", f"{STRANGER}:{STRANGER}", checkout], check=True)
    options = [
        "--project-name",
        "tuwen-test",
        "--file",
        "docker/compose.yaml",
        "--file",
        str(folder / "override.yaml"),
    ]
    options += ["--env-file", "docker/.env", "--profile", "cpu"]
    bound = STACK_SECONDS if environment else STACK_SECONDS + PIP_SECONDS
    return Stack(checkout, values, os.environ | engine, options, time.monotonic() + bound)


def copy_wheels(checkout: Path) -> None:
    """Copy the sample's wheels to where the worker keeps them: it may have no network."""
    open_wheels(read_pins(ROOT / "tuwen/sources/sample.txt"))  # fetches them where this machine lacks them
    shutil.copytree(locate_cache("wheels"), checkout / ".cache/wheels")


def find_environment() -> Path | None:
    """Return the environment whose packages the image takes; None where pip fills it: another Python cannot."""
    environment = os.environ.get("TUWEN_TEST_VENV")
    return Path(environment) if environment and (Path(environment) / PACKAGES).is_dir() else None


def relocate(environment: Path, folder: Path) -> Path:
    """Make of an environment what the image's stage `build-cpu` makes: seconds instead of six minutes.

    Files are links to the environment's, where both are on one disk; what differs is written anew.
    """
    target = folder / "opt/venv"
    target.parent.mkdir(parents=True)
    linked = environment.stat().st_dev == folder.stat().st_dev
    subprocess.run(["cp", "-al" if linked else "-a", environment.resolve(), target], check=True)
    command = next(
        line for line in (target / "pyvenv.cfg").read_text().splitlines() if line.startswith("command = ")
    )
    place = command.rpartition(" ")[2]
    scripts = [path for path in (target / "bin").iterdir() if path.is_file() and not path.is_symlink()]
    for path in scripts:
        replace(path, re.escape(place), "/opt/venv")
    for path in (target / PACKAGES).glob("__editable__*tuwen*.py"):
        replace(path, "(?<='tuwen': ')[^']+", "/project/tuwen")
    for name in ("python", "python3", "python3.11"):
        (target / "bin" / name).unlink(missing_ok=True)
        (target / "bin" / name).symlink_to("/usr/local/bin/python3.11")
    (target / "pyvenv.cfg").unlink()
    (target / "pyvenv.cfg").write_text("home = /usr/local/bin\ninclude-system-site-packages = false\n")
    subprocess.run(["bash", "-euc", list_removing_commands()], cwd=target / PACKAGES, check=True)
    for path in [
        *(target / PACKAGES / name for name in ("mypy", "selenium")),  # of the development extra
        *(target / PACKAGES).glob("prefect/server/ui*_build"),  # a server that ran from this environment left it
    ]:
        shutil.rmtree(path, ignore_errors=True)
    for path in scripts:
        if path.stat().st_size > MAX_SCRIPT_BYTES:
            path.unlink()  # a program of that extra, such as ruff
    return folder


def replace(path: Path, pattern: str, new: str) -> None:
    """Write a file anew with another text in place of what is found: the old one may have other links."""
    content, mode = path.read_bytes(), path.stat().st_mode
    changed = re.sub(pattern.encode(), new.encode(), content)
    if changed != content:
        path.unlink()
        path.write_bytes(changed)
        path.chmod(mode)
