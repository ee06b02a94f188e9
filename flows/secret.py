"""The password of this checkout's Prefect server, which runs commands as the user for whoever may speak to it.

The server answers 401 without it and refuses pages of other origins; its own page asks for it once. It lies in
$PREFECT_HOME/auth (of `make`: .prefect/auth), readable by its owner alone, beside the database that it guards.
PREFECT_API_AUTH_STRING names another one.
"""

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from urllib.parse import urlsplit

from tuwen.core.environment import LOOPBACK
from tuwen.core.errors import UserError

VARIABLE, SERVER_VARIABLE = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"
ORIGINS_VARIABLE = "PREFECT_SERVER_CORS_ALLOWED_ORIGINS"
NO_ORIGIN = "none"  # which no browser sends; Prefect takes an empty list for its default, every origin
SECRET_BYTES = 32


def add_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with which a flow reaches its server, beside those in `environment`.

    Without PREFECT_API_URL Prefect starts a server for the flow, on a port that every user and page here reaches:
    it gets the password too, and no page may use it. A server on this machine is taken for that of `make serve`;
    another machine's is never told this checkout's password.
    """
    address = environment.get("PREFECT_API_URL", "")
    if not address:
        return guard_server(environment, [])
    path = locate(environment)
    if environment.get(VARIABLE) or urlsplit(address).hostname not in LOOPBACK or not path.exists():
        return {}
    return {VARIABLE: read_or_make(environment)}


def guard_server(environment: Mapping[str, str], origins: list[str]) -> dict[str, str]:
    """Return the variables of a server that wants the password and, in browsers, serves `origins` alone."""
    password = environment.get(VARIABLE) or read_or_make(environment)
    return {VARIABLE: password, SERVER_VARIABLE: password, ORIGINS_VARIABLE: ",".join(origins) or NO_ORIGIN}


def locate(environment: Mapping[str, str]) -> Path:
    """Return where the password lies."""
    return Path(environment.get("PREFECT_HOME") or Path.home() / ".prefect").absolute() / "auth"


def read_or_make(environment: Mapping[str, str]) -> str:
    """Return the password, made now where there is none. Raises UserError where others may read it."""
    path = locate(environment)
    path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
    if not path.exists():
        _write(path, secrets.token_hex(SECRET_BYTES))
    if path.stat().st_mode & 0o077:
        raise UserError(f"{path} may be read by other users, who could run commands as you; remove it")
    if password := path.read_text(encoding="utf-8").strip():
        return password
    raise UserError(f"{path} is empty; remove it")


def _write(path: Path, password: str) -> None:
    """Write the file whole or not at all; of two at once, processes or threads, the first one's stays."""
    with NamedTemporaryFile("w", dir=path.parent, prefix=f"{path.name}.") as draft:  # its owner's alone, mode 600
        draft.write(password)
        draft.flush()
        with suppress(FileExistsError):  # the other one's
            os.link(draft.name, path)
