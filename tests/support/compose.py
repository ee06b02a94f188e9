"""The services of docker/compose.yaml without Docker: each with its command, environment and health check there.

Hosts and ports of the containers become free ports of 127.0.0.1; `/data`, `/project` and what lies in `/srv`
become folders of the test. The database server is Debian's: the wheel `pgserver` lacks pg_trgm, which Prefect's
tables need. The sample's wheels are this machine's. Where the tests are root, the services run as they do in
containers: under a user id that has no name, which writes nothing but its own folders. Nothing else differs.
"""

import contextlib
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from prefect.client.schemas.objects import FlowRun
from ruamel.yaml import YAML

from flows import guard
from flows.worker import is_alive
from tests.support import smoke
from tests.support.checkout import ROOT
from tests.support.nights import move_nights
from tests.support.ports import free_ports

PORTS = (5432, 8333, 5000, 4200, 8080)  # postgres, s3, mlflow, prefect, the worker's health page
# What a user fills in
SECRETS = re.findall(r"^(\w+)=$", (ROOT / "docker/.env.example").read_text(), re.MULTILINE)
# Debian's user for the server, which refuses to be root
AS_POSTGRES = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
START_SECONDS, END_SECONDS = 300.0, 60.0
# The owner of a checkout that the image does not know. It reads all, as in an image: the environment is root's.
STRANGER = 4321
CAPABILITY = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
AS_STRANGER = (
    ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", *CAPABILITY]
    if os.geteuid() == 0
    else []
)
# a developer's own settings must not reach the services
FOREIGN = re.compile(r"AWS_|PREFECT_|MLFLOW_|TUWEN_|DVC_|HOME$|USER$|LOGNAME$|LNAME$|USERNAME$|XDG_")
DOCKERFILE = ROOT / "docker/Dockerfile"


@dataclass
class Services:
    """The running services, and commands against them."""

    folder: Path
    project: Path
    secrets: dict[str, str] = field(default_factory=lambda: {name: secrets.token_hex(20) for name in SECRETS})
    ports: dict[int, int] = field(default_factory=lambda: dict(zip(PORTS, free_ports(len(PORTS)), strict=True)))
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def compose(self) -> dict[str, Any]:
        return dict(YAML(typ="safe", pure=True).load(ROOT / "docker/compose.yaml")["services"])

    def localise(self, text: str) -> str:
        """Return a command, address or value of the compose file as it is on this machine."""
        text = text.replace("0.0.0.0", "127.0.0.1")
        for port, ours in self.ports.items():
            text = re.sub(rf"\b(postgres|s3|mlflow|prefect):{port}\b", f"127.0.0.1:{ours}", text)
            text = re.sub(rf"\b{port}\b", str(ours), text)
        text = text.replace("/data", str(self.folder / "s3")).replace("/project", str(self.project))
        text = text.replace("/srv/", f"{self.folder}/srv/").replace("$$", "$")
        return re.sub(
            r"\$\{(\w+)(?::-([^}]*)|[^}]*)\}", lambda match: self.secrets.get(match[1], match[2] or ""), text
        )

    def environment(self, service: str) -> dict[str, str]:
        """Return the environment of a process of that service."""
        values = self.compose[service].get("environment", {}).items()
        cleaned = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
        (self.folder / "no keys").touch()
        no_keys = dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), str(self.folder / "no keys"))
        own = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "TMPDIR": str(self.folder / "srv/tmp"),  # Prefect makes a folder there, which may be another user's
            "PREFECT_WORKER_QUERY_SECONDS": "1",  # by default it looks for a new run every ten
            "TUWEN_CHECKPOINT_SECONDS": "0",  # so that a training can be stopped as soon as it has begun
        }
        image = {name: self.localise(value) for name, value in read_image_environment().items()}
        wheels = {"TUWEN_CACHE": str(self.folder / "srv/cache")}
        return cleaned | no_keys | image | own | {name: self.localise(value) for name, value in values} | wheels

    @property
    def login(self) -> tuple[str, str]:
        """User and password of MLflow's server."""
        known = self.environment("worker-cpu")
        return known["MLFLOW_TRACKING_USERNAME"], known["MLFLOW_TRACKING_PASSWORD"]

    def start(self, service: str, command: list[str], healthy: list[str], cwd: Path | None = None) -> None:
        """Start a service under a guard, which ends all of it when the tests end, and wait until it is healthy."""
        environment = self.environment(service)
        with self.log(service).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, guard.__file__, str(os.getpid()), *command],
                cwd=cwd or self.project,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.running[service] = process
        deadline = time.monotonic() + START_SECONDS
        while subprocess.run(healthy, env=environment, capture_output=True, check=False, timeout=120).returncode:
            output = self.log(service).read_text(errors="replace")[-3000:]
            assert process.poll() is None, f"{service} ended with {process.returncode}:\n{output}"
            assert time.monotonic() < deadline, f"{service} is not healthy:\n{output}"
            time.sleep(0.2)  # a health check is repeated, as Compose does

    def log(self, service: str) -> Path:
        return self.folder / f"{service}.log"

    def stop(self) -> None:
        for process in reversed(self.running.values()):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
            guard.end_session(process.pid)
            process.wait()

    def stop_container(self, service: str) -> list[str]:
        """Stop it as an engine does: SIGTERM to its first process, SIGKILL to all others once that has ended.

        Returns the commands of those that had not ended by themselves.
        """
        guarding = psutil.Process(self.running.pop(service).pid)
        (main,) = guarding.children()
        guarding.suspend()  # it would be kinder
        others = main.children(recursive=True)
        main.terminate()
        deadline = time.monotonic() + float(self.compose[service]["stop_grace_period"].removesuffix("s"))
        while main.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.02)  # only its parent, which is suspended, could wait for it
        alive = [" ".join(one.cmdline()) for one in (main, *others) if is_alive(one)]
        for process in (main, *others, guarding):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return alive

    def start_service(self, name: str) -> None:
        """Start a service with the command and the health check of the compose file."""
        service = self.compose[name]
        command = [*service.get("entrypoint", []), *split_words(service.get("command", []))]
        check = split_words(service["healthcheck"]["test"])[1:]
        if check[0] == "nc":  # as busybox has it
            check = ["python", "-c", f"import socket; socket.create_connection(('127.0.0.1', {check[-1]}))"]
        command, check = ([self.localise(word) for word in words] for words in (command, check))
        self.start(name, [*AS_STRANGER, *command], check)

    def give(self, *paths: Path) -> None:
        """Make the services' user the owner of these folders and of all in them."""
        if AS_STRANGER:
            subprocess.run(["chown", "-R", f"{STRANGER}:{STRANGER}", *paths], check=True)

    def run(self, *command: str, folder: Path | None = None, **environment: str) -> str:
        """Run a command as the worker would and return its output; fail where the command does."""
        done = self.attempt(*command, folder=folder, **environment)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def attempt(
        self, *command: str, folder: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*AS_STRANGER, *command],
            cwd=folder or self.project,
            env=self.environment("worker-cpu") | environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    def query(self, database: str, sql: str) -> list[str]:
        """Return the rows of a query, sent as the database's own role."""
        return self.run_tool(database, "psql", "-Atc", sql).splitlines()

    def run_tool(self, database: str, tool: str, *arguments: str) -> str:
        """Return what a program of PostgreSQL prints, connected as the database's own role."""
        address = f"postgresql://{database}@127.0.0.1:{self.ports[5432]}/{database}"
        password = {"PGPASSWORD": self.secrets[f"{database.upper()}_DB_PASSWORD"]}
        return self.run(postgresql(tool), *arguments, address, **password)

    def run_as_admin(self, tool: str, *arguments: str, **environment: str) -> str:
        """Return what a program of PostgreSQL prints, connected as the administrator to the whole cluster."""
        address = f"postgresql://postgres@127.0.0.1:{self.ports[5432]}/postgres"
        password = {"PGPASSWORD": self.secrets["POSTGRES_PASSWORD"]}
        return self.run(postgresql(tool), *arguments, "--dbname", address, **environment, **password)


@contextlib.contextmanager
def start_services() -> Iterator[Services]:
    """Yield all services of docker/compose.yaml, healthy, with a worker in a copy of this working tree."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # not in a folder of pytest's: no other user may enter those
        with start_services_in(Path(folder)) as services:
            yield services


@contextlib.contextmanager
def start_services_in(folder: Path) -> Iterator[Services]:
    """Yield them with their files in that folder, which every user may enter."""
    services = Services(folder, smoke.make(folder / "project"))
    move_nights(services.project / "prefect.yaml")
    for name in ("s3/dvc", "s3/mlflow", "srv/tuwen", "srv/prefect", "srv/tmp"):
        (folder / name).mkdir(parents=True)
    cache = Path(os.environ.get("TUWEN_CACHE") or Path.home() / ".cache/tuwen")
    if cache.is_dir():
        shutil.copytree(cache, folder / "srv/cache")
    # As any user that serves MLflow may read it: it holds no secret
    settings = (ROOT / "docker/mlflow-auth.ini").read_text()
    (folder / "srv/mlflow-auth.ini").write_text(services.localise(settings))
    services.give(services.project, folder / "s3", folder / "srv")
    # the one line that a user adds; address and credentials of the store stay in the environment
    services.run("dvc", "remote", "add", "--default", "store", "s3://dvc/tuwen")
    author = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    services.run("git", *author, "commit", "--quiet", "--all", "--message", "remote")
    with tempfile.TemporaryDirectory() as data, contextlib.ExitStack() as ends:
        ends.callback(services.stop)
        start_postgres(services, Path(data))
        for name in ("s3", "mlflow", "prefect", "worker-cpu"):
            services.start_service(name)
        yield services


def split_words(words: str | list[str]) -> list[str]:
    """Return a command of the compose file as a list, whichever way it is written."""
    return shlex.split(words) if isinstance(words, str) else words


def read_image_environment() -> dict[str, str]:
    """Return what the Dockerfile's base sets, but for the places of its programs."""
    (block,) = re.findall(r"^ENV (HOME=(?:.*\\\n)*.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    pairs = (word.split("=", 1) for word in block.replace("\\\n", " ").split())
    return {name: value for name, value in pairs if name != "PATH"}


def start_postgres(services: Services, data: Path) -> None:
    """Start a cluster in which every role needs a password, with the databases of docker/databases.sql."""
    password = data / "password"
    password.write_text(services.secrets["POSTGRES_PASSWORD"])
    if AS_POSTGRES:
        for path in (data, password):
            shutil.chown(path, "postgres", "postgres")
    cluster, port = str(data / "cluster"), str(services.ports[5432])
    make = [postgresql("initdb"), "--pgdata", cluster, "--username", "postgres", "--encoding", "UTF8"]
    make += ["--auth", "scram-sha-256", "--pwfile", str(password), "--no-sync"]
    subprocess.run([*AS_POSTGRES, *make], check=True, capture_output=True, cwd=data, timeout=240)
    password.unlink()
    serve = [postgresql("postgres"), "-D", cluster, "-p", port, "-h", "127.0.0.1", "-k", "", "-F"]
    check, *options = services.compose["postgres"]["healthcheck"]["test"][1:]
    healthy = [postgresql(check), *options, "--port", port]
    services.start("postgres", [*AS_POSTGRES, *serve], healthy, cwd=data)
    script = ["--set", "ON_ERROR_STOP=1", "--file", str(ROOT / "docker/databases.sql")]
    services.run_as_admin("psql", *script, **services.environment("postgres"))  # it reads the passwords there


def postgresql(name: str) -> str:
    """Return the path of a program of Debian's newest PostgreSQL, which is not on the PATH."""
    programs = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    if not programs:
        pytest.fail("no PostgreSQL: apt-get install postgresql")
    return str(programs[-1])


class Stopped(NamedTuple):
    """What a worker left that was stopped in a training, as an engine stops a container."""

    run: FlowRun  # that was under way
    waiting: FlowRun  # that would have been the next
    alive: list[str]  # commands that had not ended by themselves
