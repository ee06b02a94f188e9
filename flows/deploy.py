"""Register the deployments of prefect.yaml with the server at PREFECT_API_URL.    python -m flows.deploy"""

import os
import subprocess
import sys

import httpx
from prefect.settings import PREFECT_API_URL

from tuwen.core.errors import UserError, report_user_errors

POOL = "tuwen"
CHECKOUT_VARIABLE = "TUWEN_CHECKOUT"  # names the folder in which a worker runs the flows
HEALTH_SECONDS = 10.0  # for the server to answer


def deploy(api: str) -> None:
    """Create or renew the pool and the deployments. Raises UserError when the server or the registration fails."""
    try:
        httpx.get(f"{api}/health", timeout=HEALTH_SECONDS).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(
            f"PREFECT_API_URL: no Prefect server answers at {api} ({error}); start one with `make serve`"
        ) from error
    # Without the checkout's variable: each worker's own environment fills in the folder when a run starts.
    environment = {name: value for name, value in os.environ.items() if name != CHECKOUT_VARIABLE}
    environment["PREFECT_API_URL"] = api
    pool = ["work-pool", "create", POOL, "--type", "process", "--overwrite"]
    for command in (pool, ["--no-prompt", "deploy", "--all"]):
        done = subprocess.run(
            [sys.executable, "-m", "prefect", *command],
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        if done.returncode != 0:
            raise UserError(f"prefect {' '.join(command)}: {done.stdout}{done.stderr}".rstrip())


@report_user_errors
def main() -> None:
    """Register the deployments and print how to start a worker."""
    api = PREFECT_API_URL.value()
    if not api:
        raise UserError(
            "PREFECT_API_URL is not set; it must name a Prefect server, e.g. http://127.0.0.1:4200/api"
        )
    deploy(api)
    worker = (
        f"{CHECKOUT_VARIABLE}=$PWD prefect worker start --pool {POOL} --limit 1"  # two in one checkout collide
    )
    print(f"registered with {api}; a worker: {worker}")


if __name__ == "__main__":
    main()
