"""The image and the stack of docker/compose.yaml in a real engine: the machine's, or one of the tests' own."""

import json
import os
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
from tests.support.ports import free_ports

ENGINE = Path(__file__).with_name("engine.sh")
PORTS = ("PREFECT_PORT", "MLFLOW_PORT", "S3_PORT")
CARD = "GPU-test"  # stages of the CPU take turns on it as they would on a real one
STRANGER = 4321  # a user id that no image knows
UP_SECONDS, STEP_SECONDS = 1200, 600
# An image's own base comes from a registry; an engine of the tests' own has none, and stand-ins in their place.
STAND_INS = {"PYTHON_IMAGE": "python", "POSTGRES_IMAGE": "postgres", "RCLONE_IMAGE": "rclone"}


@dataclass
class Stack:
    """The compose project of a checkout of the tests' own, and commands for it."""

    checkout: Path
    environment: dict[str, str]
    options: list[str]

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
            timeout=seconds,
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

    def wait_until(self, look: Callable[[], Any], what: str, seconds: float = STEP_SECONDS) -> Any:
        """Return what `look` returns as soon as it is something."""
        deadline = time.monotonic() + seconds
        while not (result := look()):
            logged = (
                self.attempt("logs", "--tail", "40", "worker-cpu").stdout if time.monotonic() > deadline else ""
            )
            assert time.monotonic() < deadline, f"{what}\n{logged}"
            time.sleep(0.3)  # files of a container and Prefect's API announce nothing
        return result


@pytest.fixture(scope="session")
def engine() -> Iterator[dict[str, str]]:
    """The variables of an engine; skipped where there is none and none can be started."""
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        yield {}
        return
    kept = os.environ.get("TUWEN_TEST_ENGINE")
    folder = Path(kept or tempfile.mkdtemp(prefix="tuwen-engine-"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    started = subprocess.run(
        [ENGINE, folder], env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=900, check=False
    )
    try:
        if started.returncode:
            pytest.skip(f"no engine here, and none starts: {started.stderr.strip()[-300:]}")
        variables = dict(line.split("=", 1) for line in started.stdout.splitlines())
        yield variables | {name: f"stand-in/{image}" for name, image in STAND_INS.items()}
    finally:
        if not kept:
            stop_engine(folder)


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
    with tempfile.TemporaryDirectory(prefix="tuwen-stack-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        stack = make_stack(folder, engine)
        try:
            stack.run("up", "--build", "--detach", "--wait", seconds=UP_SECONDS)
            yield stack
        finally:
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
    if environment := os.environ.get("TUWEN_TEST_VENV"):
        build["additional_contexts"] = {"build-cpu": str(relocate(Path(environment), folder / "environment"))}
    worker = {"environment": {"TUWEN_CHECKPOINT_SECONDS": "0", "CUDA_VISIBLE_DEVICES": CARD}}
    (folder / "override.yaml").write_text(
        json.dumps({"services": {"prefect": {"build": build}, "worker-cpu": worker}})
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
    return Stack(checkout, os.environ | engine, [*options, "--env-file", "docker/.env", "--profile", "cpu"])


def copy_wheels(checkout: Path) -> None:
    """Copy the sample's wheels of this machine to where the worker keeps them."""
    cache = Path(os.environ.get("TUWEN_CACHE") or Path.home() / ".cache/tuwen")
    if cache.is_dir():
        shutil.copytree(cache, checkout / ".cache")


def relocate(environment: Path, folder: Path) -> Path:
    """Copy an environment as the image's stage `build-cpu` would have made it: a minute instead of six."""
    target = folder / "opt/venv"
    target.parent.mkdir(parents=True)
    subprocess.run(["cp", "-a", f"{environment.resolve()}/.", target], check=True)
    old = next(
        line.rpartition(" ")[2]
        for line in (target / "pyvenv.cfg").read_text().splitlines()
        if line.startswith("command = ")
    )
    for path in (target / "bin").iterdir():
        if path.is_file() and not path.is_symlink() and old.encode() in (content := path.read_bytes()):
            path.write_bytes(content.replace(old.encode(), b"/opt/venv"))
    for name in ("python", "python3", "python3.11"):
        (target / "bin" / name).unlink(missing_ok=True)
        (target / "bin" / name).symlink_to("/usr/local/bin/python3.11")
    (target / "pyvenv.cfg").write_text("home = /usr/local/bin\ninclude-system-site-packages = false\n")
    packages = target / "lib/python3.11/site-packages"
    for path in packages.glob("__editable__*tuwen*.py"):
        path.write_text(path.read_text().replace(str(Path(old).parent), "/project"))
    for path in packages.glob("prefect/server/ui*_build"):
        shutil.rmtree(path)  # a server that ran from this environment left them
    return folder
