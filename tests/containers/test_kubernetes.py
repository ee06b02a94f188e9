"""The job and the claims against the schemas of Kubernetes: 72 MB, too large for the development extra."""

import asyncio
import subprocess
import sys
from types import ModuleType

import pytest

from tests.support.kubernetes import fill_in, read_claims
from tuwen.core.environment import locate_cache

PACKAGE, VERSION = "kubernetes-validate==1.37.0", "1.37"


@pytest.fixture
def schemas(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package, in a folder of its own that the first call fills from pip's index; skipped without an index."""
    folder = locate_cache(PACKAGE.replace("==", "-"))
    if not (folder / "kubernetes_validate").is_dir():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, PACKAGE]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"pip install {PACKAGE} failed: {done.stderr[-300:]}")
    monkeypatch.syspath_prepend(folder)
    return pytest.importorskip("kubernetes_validate")


def test_the_job_and_the_claims_keep_the_schemas_of_kubernetes(schemas: ModuleType) -> None:
    job = asyncio.run(fill_in({}))
    for manifest in (job, *read_claims()):
        assert schemas.validate(manifest, VERSION, strict=True) == VERSION
    job["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(schemas.ValidationError):
        schemas.validate(job, VERSION, strict=True)
