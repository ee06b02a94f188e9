"""A machine that can have no engine is told from an engine that fails: the one skips tests, the other is red."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.containers.conftest import CANNOT, ENGINE, STRANGER, stop_engine

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="what root lacks can only be shown as root")
WITHOUT_ROOT = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]


@as_root
@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        (WITHOUT_ROOT, "an engine needs root"),
        (["unshare", "--net"], "Debian's packages of an engine cannot be fetched"),
    ],
)
def test_a_machine_that_can_have_none_is_told_from_an_engine_that_fails(
    prefix: list[str], reason: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [*prefix, "bash", "-s", tmp_path],
        stdin=ENGINE.open(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == CANNOT, done.stderr
    assert done.stderr.splitlines()[-1] == reason


@as_root
def test_a_daemon_that_may_not_mount_is_no_engine(engine: dict[str, str], tmp_path: Path) -> None:
    """The packages and the root file system are those of the engine that runs; its daemon is another."""
    if "DOCKER_CONFIG" not in engine:
        pytest.skip("the engine is the machine's own")
    kept = Path(engine["DOCKER_CONFIG"]).parent
    for name in ("tools", "root", "config"):
        (tmp_path / name).symlink_to(kept / name)
    limits = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    try:
        done = subprocess.run(
            [*limits, ENGINE, tmp_path], capture_output=True, text=True, timeout=300, check=False
        )
    finally:
        stop_engine(tmp_path)
    assert done.returncode == CANNOT, done.stderr
    assert done.stderr.splitlines()[-1] == "a Docker daemon starts here, but no container"
