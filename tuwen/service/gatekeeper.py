"""What every request passes: its host, its token, its rate, room for it, its length, its time; and what it leaves.

Pure ASGI, around the whole application: nothing below it sees a request that is refused here.
"""

import asyncio
import hashlib
import hmac
import json
import logging
import math
import traceback
from collections import Counter, OrderedDict
from time import monotonic, perf_counter

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tuwen.service.messages import RequestError
from tuwen.service.search_metrics import SearchMetrics
from tuwen.service.settings import SearchSettings, is_loopback

OPEN_PATHS = ("/", "/health", "/ready", "/session")  # without a token; and /static/…, which is the page
UNTIMED_PATHS = ("/reload",)  # takes as long as a model takes to load; who asks sets a limit himself
WATCHED_PATHS = ("/health", "/ready", "/metrics")  # asked every few seconds by programs
UNCOUNTED_PATHS = ("/health", "/ready")  # what starts and stops the service must not be turned away
COOKIE = "tuwen_search"
CLIENTS_KEPT = 10_000
BURST_SECONDS = 2.0  # of the rate, that a client may use at once
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
_log = logging.getLogger("tuwen.search")


class Gatekeeper:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, settings: SearchSettings, metrics: SearchMetrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._rates = {"POST": ClientRates(settings.rate), "GET": ClientRates(settings.get_rate)}
        self._under_way: Counter[str] = Counter()  # pictures do not keep queries out

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = perf_counter(), 0

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                named = {name for name, _ in message["headers"]}
                added = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in added if pair[0] not in named)]
            await send(message)

        try:
            await self._admit(scope, receive, send_guarded)
        except RequestError as error:
            await _send_error(error, send_guarded)
        except Exception as error:
            told = traceback.format_exc() if self._settings.log_queries else describe_fault(error)
            _log.error("%s %s failed\n%s", scope["method"], _name_route(scope), told)
            if status:
                return  # too late for another answer; the server closes the connection
            words = "the service could not answer; its log says why"
            await _send_error(RequestError(500, "internal", words), send_guarded)
        finally:
            seconds, route, path = perf_counter() - start, _name_route(scope), scope["path"]
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.latency.labels(route).observe(seconds)
            client = scope["client"][0] if scope.get("client") else "-"
            level = logging.DEBUG if path in WATCHED_PATHS else logging.INFO
            _log.log(level, "%s %s %s %d %.1f ms", client, scope["method"], route, status, 1000 * seconds)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection, settings = HTTPConnection(scope), self._settings
        self._check_caller(connection)
        self._count_request(scope)
        kind = "queries" if scope["method"] == "POST" else "pictures"
        if kind == "pictures" and not scope["path"].startswith("/image/"):
            await self._app(scope, receive, send)
            return
        if self._under_way[kind] >= settings.queue:
            raise _too_many(f"{settings.queue} requests are under way; try again in a moment", 1.0)
        self._under_way[kind] += 1
        seconds = None if scope["path"] in UNTIMED_PATHS else settings.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                await self._app(scope, limit_body(connection.headers, receive, settings.max_body_bytes), send)
        except TimeoutError:
            words = f"no answer within {settings.timeout_seconds:g} s; ask again, or for less"
            raise RequestError(504, "timeout", words) from None
        finally:
            self._under_way[kind] -= 1

    def _count_request(self, scope: Scope) -> None:
        if scope["path"] in UNCOUNTED_PATHS:
            return
        rates = self._rates["POST" if scope["method"] == "POST" else "GET"]
        if wait := rates.count(scope["client"][0] if scope.get("client") else ""):
            raise _too_many(f"more than {rates.rate:g} requests a second; wait a moment", wait)

    def _check_caller(self, connection: HTTPConnection) -> None:
        # the path as it is routed: that of connection.url begins with what the client wrote as its host
        settings, path = self._settings, connection.scope["path"]
        if not settings.token:
            # a page of another site may have its name point here, and ask as if it were ours
            host = connection.headers.get("host", "")
            known = {name.strip() for name in settings.hosts.split(",")} - {""}
            if not is_loopback(_strip_port(host)) and known.isdisjoint({host, _strip_port(host)}):
                words = f"host {host[:100]!r} is not known here; call 127.0.0.1, or set TUWEN_SEARCH_HOSTS"
                raise RequestError(403, "foreign_host", words)
            return
        if path in OPEN_PATHS or path.startswith("/static/"):
            return
        if not is_authorised(connection, settings.token):
            words = "a token is needed: send Authorization: Bearer …, or type it on the page"
            raise RequestError(401, "unauthorised", words, {"WWW-Authenticate": "Bearer"})


class ClientRates:
    """How many requests each client may still make: a bucket that fills at `rate` a second."""

    def __init__(self, rate: float) -> None:
        self.rate, self._burst = rate, max(1.0, rate * BURST_SECONDS)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> tokens, and when that was

    def count(self, client: str) -> float:
        """Count a request; return the seconds to wait, 0 where it may go on."""
        if not self.rate:
            return 0.0
        now = monotonic()
        left, before = self._left.pop(client, (self._burst, now))
        left = min(self._burst, left + (now - before) * self.rate)
        admitted = left >= 1
        self._left[client] = (left - 1 if admitted else left, now)
        if len(self._left) > CLIENTS_KEPT:
            self._left.popitem(last=False)
        return 0.0 if admitted else (1 - left) / self.rate


def describe_fault(error: BaseException) -> str:
    """Return types and places of an exception and of those that led to it, first to last.

    Their messages are left out, since they may quote what somebody asked.
    """
    parts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        kind = f"{type(cause).__module__}.{type(cause).__qualname__}"
        parts.append(
            f"Traceback, most recent call last:\n{''.join(traceback.format_tb(cause.__traceback__))}{kind}"
        )
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\n".join(reversed(parts))


def is_authorised(connection: HTTPConnection, token: str) -> bool:
    """Whether a request knows the token, by its header or by the session's cookie."""
    scheme, _, given = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and is_token(given, token):
        return True
    return hmac.compare_digest(connection.cookies.get(COOKIE, "").encode(), make_cookie(token).encode())


def is_token(given: str, token: str) -> bool:
    """Whether a client's token is the right one, in a time that does not tell how much of it was."""
    return bool(token) and hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def make_cookie(token: str) -> str:
    """Return what a browser keeps in place of the token."""
    return hmac.new(token.encode(), b"tuwen search session", hashlib.sha256).hexdigest()


def limit_body(headers: Headers, receive: Receive, most: int) -> Receive:
    """Return `receive` that raises RequestError once the body is longer than `most` bytes."""
    error = RequestError(413, "too_large", f"the body is over {most:,} bytes; send a smaller picture")
    length = headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 20 or int(length) > most:
        raise error
    read = 0

    async def receive_limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > most:
            raise error
        return message

    return receive_limited


def _too_many(words: str, wait_seconds: float) -> RequestError:
    return RequestError(429, "too_many", words, {"Retry-After": str(math.ceil(wait_seconds))})


def _strip_port(host: str) -> str:
    return host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and ":" in host else host


def _name_route(scope: Scope) -> str:
    """Return the template of a route: never what a client wrote."""
    return str(getattr(scope.get("route"), "path", "other"))


async def _send_error(error: RequestError, send: Send) -> None:
    body = json.dumps(error.body, ensure_ascii=False).encode("utf-8", "replace")
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
    raw = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
