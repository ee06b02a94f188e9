"""The Kubernetes work pool: Prefect fills in the template, and what it names is there."""

import asyncio
from typing import Any

from prefect.client.schemas.actions import WorkPoolCreate
from ruamel.yaml import YAML

from tests.support.checkout import ROOT
from tests.support.kubernetes import fill_in, read_claims, read_template

COMPOSE = ROOT / "docker/compose.yaml"


def fill(**values: Any) -> dict[str, Any]:
    return asyncio.run(fill_in(values))


def test_prefect_takes_the_template_and_every_variable_is_used() -> None:
    template = read_template()
    WorkPoolCreate(name="tuwen", type="kubernetes", base_job_template=template)
    text = str(template["job_configuration"])
    names = template["variables"]["properties"]
    assert [name for name in names if f"{{{{ {name} }}}}" not in text] == []
    assert [name for name, field in names.items() if len(field["description"]) < 15] == []


def test_a_job_without_settings_has_a_gpu_and_the_claims_of_the_repository() -> None:
    pod = fill()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    claimed = {
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert claimed == {claim["metadata"]["name"] for claim in read_claims()}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_settings_of_a_deployment_reach_the_job() -> None:
    pod = fill(gpus=8, image="registry.example.org/tuwen:7", node_selector={"card": "h200"})["spec"]["template"][
        "spec"
    ]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert pod["containers"][0]["image"] == "registry.example.org/tuwen:7"
    assert pod["nodeSelector"] == {"card": "h200"}


def test_a_pod_has_the_time_and_the_places_of_a_container_of_compose() -> None:
    worker = YAML(typ="safe", pure=True).load(COMPOSE)["services"]["worker"]
    pod = fill()["spec"]["template"]["spec"]
    assert f"{pod['terminationGracePeriodSeconds']}s" == worker["stop_grace_period"]
    variables = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
    for name in ("TUWEN_CHECKOUT", "TUWEN_CACHE", "TUWEN_STOP_SECONDS"):
        assert variables[name] == worker["environment"][name]
    assert pod["securityContext"]["runAsNonRoot"]
