"""How the service runs: TUWEN_SEARCH_… variables, read once at its start.

TUWEN_SEARCH_HOST, _PORT            where it listens; beyond loopback only with a token
TUWEN_SEARCH_TOKEN                  what a client must know; empty: nothing, on loopback alone
TUWEN_SEARCH_HOSTS                  names, by commas, that pages may call it by where no token is asked for
TUWEN_SEARCH_MODEL                  a model folder, or models:/tuwen@champion; empty: the checkout's own
TUWEN_SEARCH_INDEX, _DATA           the index, and the data root that its pictures lie below
TUWEN_SEARCH_BATCH_SIZE             queries that a core computes at once, at most
TUWEN_SEARCH_BATCH_WAIT_MS          how long the first of them waits for others
TUWEN_SEARCH_PRECISION              bf16: of searched texts, where that is faster; or fp32, as of the index
TUWEN_SEARCH_QUEUE                  requests under way before others are turned away
TUWEN_SEARCH_TIMEOUT_SECONDS        for one request
TUWEN_SEARCH_MAX_K, _MAX_BODY_BYTES, _MAX_PIXELS, _MAX_CHARS   what one request may ask for and bring
TUWEN_SEARCH_RATE, _GET_RATE        POST requests a second of one client, and others; 0 for any number
TUWEN_SEARCH_POLL_SECONDS           how often the champion is looked up, 0 for never
TUWEN_SEARCH_LOG_QUERIES            1: the log holds what people ask
"""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tuwen.core.errors import UserError

PREFIX = "TUWEN_SEARCH_"
LEAST_TOKEN_CHARS = 16
Precision: TypeAlias = Literal["bf16", "fp32"]
Seconds = Annotated[float, Field(ge=0, le=86_400)]


class SearchSettings(BaseModel):
    """The variables of the module's docstring, without their prefix."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    token: str = Field("", repr=False)
    hosts: str = ""
    model: str = ""
    index: Path = Path("index")
    data: Path = Path("data")
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 16
    batch_wait_ms: Annotated[float, Field(ge=0, le=1000)] = 2.0
    precision: Precision = "bf16"
    queue: Annotated[int, Field(ge=1)] = 128
    timeout_seconds: Annotated[float, Field(gt=0)] = 20.0
    max_k: Annotated[int, Field(ge=1, le=10_000)] = 200
    max_body_bytes: Annotated[int, Field(ge=1024)] = 10 << 20
    max_pixels: Annotated[int, Field(ge=1)] = 50_000_000
    max_chars: Annotated[int, Field(ge=1)] = 1000
    rate: Annotated[float, Field(ge=0)] = 50.0
    get_rate: Annotated[float, Field(ge=0)] = 400.0  # a page shows 200 pictures at once
    poll_seconds: Seconds = 30.0
    log_queries: bool = False

    @property
    def is_registered(self) -> bool:
        """Whether the model is one of the registry, models:/…, and no folder."""
        return self.model.startswith("models:")


def read_search_settings(environment: Mapping[str, str]) -> SearchSettings:
    """Return the settings; empty variables count as unset.

    Raises UserError that names the variable for a value that does not fit, for one that is unknown, and for an
    address beyond loopback without a token of LEAST_TOKEN_CHARS characters.
    """
    given = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(PREFIX) and value
    }
    if unknown := sorted(set(given) - set(SearchSettings.model_fields)):
        known = ", ".join(f"{PREFIX}{name.upper()}" for name in SearchSettings.model_fields)
        raise UserError(f"{PREFIX}{unknown[0].upper()} is no setting; there are {known}")
    values: Mapping[str, Any] = given
    try:
        settings = SearchSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{PREFIX}{str(first['loc'][0]).upper()}: {first['msg'].lower()}") from None
    _check_token(settings)
    return settings


def is_loopback(host: str) -> bool:
    """Whether nobody beyond this machine can reach an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _check_token(settings: SearchSettings) -> None:
    if settings.token and (len(settings.token) < LEAST_TOKEN_CHARS or not settings.token.isascii()):
        raise UserError(
            f"{PREFIX}TOKEN: {LEAST_TOKEN_CHARS} ASCII characters or more, please; make one: openssl rand -hex 24"
        )
    if not settings.token and not is_loopback(settings.host):
        raise UserError(
            f"{PREFIX}HOST: {settings.host} can be reached from other machines, so a token is needed: set "
            f"{PREFIX}TOKEN (openssl rand -hex 24), or listen on 127.0.0.1"
        )
