"""The job that Prefect's worker would make of docker/kubernetes/base-job-template.json."""

import json
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.workers.base import BaseJobConfiguration
from ruamel.yaml import YAML

from tests.support.checkout import ROOT

FOLDER = ROOT / "docker/kubernetes"
COMMAND = ["prefect", "flow-run", "execute"]  # the worker's own default


class Configuration(BaseJobConfiguration):
    """What the Kubernetes worker's configuration has besides."""

    job_manifest: dict[str, Any]


def read_template() -> dict[str, Any]:
    return dict(json.loads((FOLDER / "base-job-template.json").read_text(encoding="utf-8")))


def read_claims() -> list[dict[str, Any]]:
    return list(YAML(typ="safe", pure=True).load_all(FOLDER / "claims.yaml"))


async def fill_in(values: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a job with these settings, its command and variables as the worker writes them."""
    nowhere = PrefectClient("http://127.0.0.1:1/api")  # asked only where a value names a block or a variable
    job = await Configuration.from_template_and_values(read_template(), {"name": "run"} | values, client=nowhere)
    (container,) = job.job_manifest["spec"]["template"]["spec"]["containers"]
    container["args"] = COMMAND
    container["env"] = [{"name": name, "value": value} for name, value in job.env.items()]
    return job.job_manifest
