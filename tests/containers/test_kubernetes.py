"""The job and the claims against the schemas of Kubernetes: 72 MB, too large for the development extra."""

import asyncio

import pytest

from tests.support.kubernetes import fill_in, read_claims

VERSION = "1.37"


def test_the_job_and_the_claims_keep_the_schemas_of_kubernetes() -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate==1.37.0")
    job = asyncio.run(fill_in({}))
    for manifest in (job, *read_claims()):
        assert schemas.validate(manifest, VERSION, strict=True) == VERSION
    job["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(schemas.ValidationError):
        schemas.validate(job, VERSION, strict=True)
