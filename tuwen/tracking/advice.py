"""What to do about MLflow's failures: one advice for each cause, told by the words of the error."""

import re
import shlex
from typing import NamedTuple

from tuwen.core.errors import hide_credentials


class _Cause(NamedTuple):
    """A pattern of an error's message, and the advice; named groups of the one fill in the other."""

    words: str
    advice: str


# The first that is found counts. {address}: of the store, without its password.
CAUSES = (
    _Cause(
        r"experiment (?P<id>\w+) must be in the 'active' state. Current state is deleted",
        "the experiment was deleted, not the store: `MLFLOW_TRACKING_URI={address} mlflow experiments restore "
        "--experiment-id {id}` brings it back with its runs",
    ),
    _Cause(
        r"run (?P<id>\w+) must be in the 'active' state. Current state is deleted",
        "the run was deleted meanwhile: `MLFLOW_TRACKING_URI={address} mlflow runs restore --run-id {id}` brings "
        "it back; without that, the next `tuwen track sync` makes a new one",
    ),
    _Cause(
        r"out-of-date database schema",
        "another version of MLflow wrote this database: copy it, then `mlflow db upgrade {address}`; where the "
        "other version is the newer one, install that here",
    ),
    _Cause(
        r"database is locked",
        "another program holds the database: end it or wait for it (a file on NFS or a synchronised folder may "
        "stay locked for ever: keep it on a disk of this machine)",
    ),
    _Cause(
        r"file is not a database|disk image is malformed|file is encrypted",
        "this file is no database of MLflow, or it broke: move it away, a new one is filled from the outs",
    ),
    _Cause(
        r"readonly database|unable to open database file|[Pp]ermission denied|Read-only file system",
        "the file or its folder cannot be written: give this user the right, or name another file in "
        "TUWEN_TRACKING_URI",
    ),
    _Cause(
        r"error code 401|UNAUTHENTICATED",
        "the server asks who you are: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
        "MLFLOW_TRACKING_TOKEN",
    ),
    _Cause(
        r"error code 403|PERMISSION_DENIED|not enough permission|Invalid Host header",
        "the server knows you but refuses this: ask its owner for the right to edit the experiment `tuwen`, and "
        "for this address among its --allowed-hosts",
    ),
    _Cause(
        r"error code (3\d\d|404)|not in a valid JSON format",
        "something answers there that is not MLflow: correct the address, port and path",
    ),
    _Cause(
        r"too many 5\d\d error responses|error code 5\d\d",
        "the server is there and fails by itself: its own log says why",
    ),
    _Cause(
        r"No module named '(?P<id>\w+)'",
        "the driver of this kind of database is not installed: `pip install -c constraints.txt -e '.[postgres]'` "
        "for postgresql+psycopg2://",
    ),
    _Cause(
        r"unsupported URI|Invalid url|Could not parse SQLAlchemy URL|NoSuchModuleError|Can't load plugin",
        "this is no address of a store: give http://host:port or sqlite:///file.db",
    ),
    _Cause(
        r"CERTIFICATE_VERIFY_FAILED|CA certificate bundle",
        "its certificate is not trusted here: name its authority in MLFLOW_TRACKING_SERVER_CERT_PATH",
    ),
    _Cause(r"ProxyError|Unable to connect to proxy", "a proxy stands between: add the server's host to NO_PROXY"),
)
UNREACHABLE = "start that server or correct the address"


def find_remedy(error: BaseException, address: str) -> str:
    """Return what to do about an error of the store at `address`, whose password is not shown."""
    shown = shlex.quote(hide_credentials(address))
    message = f"{getattr(error, 'error_code', '')} {error}"
    for cause in CAUSES:
        if match := re.search(cause.words, message):
            return cause.advice.format(address=shown, **match.groupdict())
    return UNREACHABLE
