"""The workflows: by their schema, by zizmor, and by a rule that no tool checks: where a fork's code may run."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.checkout import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
SAME_REPOSITORY = "github.event.pull_request.head.repo.full_name == github.repository"


def check(*command: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / command[0]
    return subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=120, check=False)


def schema(*paths: Path) -> subprocess.CompletedProcess[str]:
    return check("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *map(str, paths))


def zizmor(*paths: Path) -> subprocess.CompletedProcess[str]:
    return check(
        "zizmor", "--offline", "--no-config", "--strict-collection", "--persona=pedantic", *map(str, paths)
    )


def read(path: Path) -> dict[str, Any]:
    workflow: dict[str, Any] = YAML(typ="safe", pure=True).load(path)
    return workflow


def test_there_are_the_two_workflows() -> None:
    assert [path.stem for path in WORKFLOWS] == ["reevaluate", "test"]


def test_they_fit_their_schema() -> None:
    done = schema(*WORKFLOWS)
    assert done.returncode == 0, done.stdout


def test_zizmor_finds_nothing() -> None:
    done = zizmor(*WORKFLOWS)
    assert done.returncode == 0, done.stdout
    assert "No findings" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("good", "bad", "tool"),
    [
        ("runs-on:", "run-on:", schema),
        (r"@[0-9a-f]{40} # v6\.0\.2", "@v6", zizmor),
        (r" +persist-credentials: false\n", "", zizmor),
        ("permissions: {}", "permissions: write-all", zizmor),
        (r'"\$CACHE"; fi', "${{ github.head_ref }}; fi", zizmor),
    ],
)
def test_what_is_wrong_would_be_found(tmp_path: Path, good: str, bad: str, tool: Any) -> None:
    text = (ROOT / ".github/workflows/reevaluate.yml").read_text(encoding="utf-8")
    changed, times = re.subn(good, bad, text)
    assert times
    folder = tmp_path / ".github/workflows"
    folder.mkdir(parents=True)
    (folder / "reevaluate.yml").write_text(changed, encoding="utf-8")
    assert tool(folder / "reevaluate.yml").returncode != 0


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_forks_code_runs_neither_on_our_machine_nor_with_a_secret(path: Path) -> None:
    workflow = read(path)
    assert "pull_request_target" not in workflow["on"]
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        if "self-hosted" in job["runs-on"] or "secrets." in str(job):
            alternatives = job["if"].split(" || ")
            assert alternatives == ["github.event_name == 'workflow_dispatch'", SAME_REPOSITORY], name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_who_may_write_runs_no_code_of_the_pull_request(path: Path) -> None:
    for name, job in read(path)["jobs"].items():
        if "write" in job["permissions"].values():
            assert job["permissions"] == {"pull-requests": "write"}, name
            assert not [step for step in job["steps"] if "uses" in step], name
            assert all(step["run"].startswith("gh pr comment ") for step in job["steps"]), name
        else:
            assert job["permissions"] == {"contents": "read"}, name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_they_make_exists(path: Path) -> None:
    targets = set(re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    steps = [step.get("run", "") for job in read(path)["jobs"].values() for step in job["steps"]]
    named = {
        target
        for run in steps
        for line in re.findall(r"^make (.+)$", run, re.MULTILINE)
        for target in line.split()
    }
    assert named
    assert named <= targets
