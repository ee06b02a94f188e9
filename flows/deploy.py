"""Register the deployments of prefect.yaml with the server at PREFECT_API_URL.    python -m flows.deploy"""

import base64
import os
import subprocess
import sys
from collections.abc import Mapping

import httpx
from prefect.settings import PREFECT_API_URL

from flows.secret import VARIABLE
from tuwen.core.errors import UserError, report_user_errors

POOL = "tuwen"
CHECKOUT_VARIABLE = "TUWEN_CHECKOUT"  # names the folder in which a worker runs the flows
HEALTH_SECONDS = 60.0  # for a busy server to answer


def deploy(api: str, environment: Mapping[str, str]) -> None:
    """Create or renew the pool and the deployments. Raises UserError when the server or the registration fails.

    environment: the variables of this process's children; PREFECT_API_AUTH_STRING is the server's password.
    """
    require_server(api, environment.get(VARIABLE, ""))
    # Without the checkout's variable: each worker's own environment fills in the folder when a run starts.
    environment = {name: value for name, value in environment.items() if name != CHECKOUT_VARIABLE}
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


def require_server(api: str, password: str) -> None:
    """Return where a server answers to this password, empty for none. Raises UserError where none does."""
    credentials = base64.b64encode(password.encode()).decode()
    headers = {"Authorization": f"Basic {credentials}"} if password else {}
    try:
        answer = httpx.get(f"{api}/admin/version", headers=headers, timeout=HEALTH_SECONDS)
        if answer.status_code != httpx.codes.UNAUTHORIZED:
            answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(
            f"PREFECT_API_URL: no Prefect server answers at {api} ({error}); start one with `make serve`"
        ) from error
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        raise UserError(
            f"{VARIABLE} is not the password of the Prefect server at {api}; set it to what is in .prefect/auth "
            "of the checkout where `make serve` runs, or to PREFECT_AUTH_STRING of docker/.env"
        )


@report_user_errors
def main() -> None:
    """Register the deployments and print how to start a worker."""
    api = PREFECT_API_URL.value()
    if not api:
        raise UserError(
            "PREFECT_API_URL is not set; it must name a Prefect server, e.g. http://127.0.0.1:4200/api"
        )
    deploy(api, os.environ)
    worker = (
        f"{CHECKOUT_VARIABLE}=$PWD prefect worker start --pool {POOL} --limit 1"  # two in one checkout collide
    )
    print(f"registered with {api}; a worker: {worker}")


if __name__ == "__main__":
    main()
