"""The HTTP face: routes, and what stands around them. answers.py has the steps, gatekeeper.py what is refused."""

import html
import json
import logging
import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from tuwen.service.answers import LiveAnswers
from tuwen.service.describe import describe_service
from tuwen.service.gatekeeper import COOKIE, Gatekeeper, is_authorised, is_token, make_cookie
from tuwen.service.live import LiveModel
from tuwen.service.messages import (
    AttentionBody,
    EmbedBody,
    RequestError,
    SearchBody,
    SessionBody,
    describe_body,
    make_invalid,
)
from tuwen.service.read_request import read_body
from tuwen.service.search_metrics import SearchMetrics
from tuwen.service.settings import SearchSettings

PAGE_FOLDER = Path(__file__).parent / "page"
PAGE_SECONDS = 300  # that a browser keeps the page's files
IMAGE_SECONDS = 3600  # and thumbnails, before it asks whether they changed
NO_STORE = {"cache-control": "no-store"}
_log = logging.getLogger("tuwen.search")
API_PAGE_HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>tuwen search: API</title>
<h1>tuwen search</h1><p>Errors are <code>{"error": {"code", "message"}}</code>.
The schema for programs: <a href="openapi.json">openapi.json</a></p>"""


def build_app(settings: SearchSettings, live: LiveModel, metrics: SearchMetrics) -> FastAPI:
    """Return the application; it loads the model as it starts, and answers /health before that."""

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        live.start()
        yield
        await live.close()

    app = FastAPI(title="tuwen search", docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=run)
    app.add_middleware(Gatekeeper, settings=settings, metrics=metrics)
    app.add_exception_handler(RequestError, _answer_refusal)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    _add_queries(app, settings, live)
    _add_operations(app, settings, live, metrics)
    _add_page(app)
    return app


def _add_queries(app: FastAPI, settings: SearchSettings, live: LiveModel) -> None:
    def use() -> AbstractAsyncContextManager[LiveAnswers]:
        return live.use()

    @app.post("/search", openapi_extra=describe_body(SearchBody, with_upload=True))
    async def search(request: Request) -> Response:
        """Find what belongs to a text, a picture or an item of the index."""
        body, upload = await read_body(request, SearchBody)
        if settings.log_queries:
            _log.info("query %r", body.text or body.image_id or body.text_id or "a picture")
        async with use() as answers:
            return JSONResponse(await answers.search(body, upload), headers=NO_STORE)

    @app.post("/attention", openapi_extra=describe_body(AttentionBody))
    async def attention(request: Request) -> Response:
        """Show what the re-ranker reads in a picture for each noun of a text."""
        body, _ = await read_body(request, AttentionBody)
        async with use() as answers:
            return JSONResponse(await answers.map_words(body), headers=NO_STORE)

    @app.post("/embed", openapi_extra=describe_body(EmbedBody))
    async def embed(request: Request) -> Response:
        """Return unit vectors of texts or pictures."""
        body, _ = await read_body(request, EmbedBody)
        async with use() as answers:
            return JSONResponse(await answers.embed(body), headers=NO_STORE)

    @app.get("/image/{image_id:path}")
    async def image(request: Request, image_id: str, size: int = 320) -> Response:
        """Return the thumbnail of an image of the index, a JPEG of 160, 320 or 640 pixels."""
        async with use() as answers:
            known = request.headers.get("if-none-match", "")
            tag, data = await answers.read_thumbnail(image_id, size, known)
        headers = {"etag": tag, "cache-control": f"private, max-age={IMAGE_SECONDS}"}
        return Response(data, 304 if data is None else 200, headers, media_type="image/jpeg")

    @app.get("/about")
    async def about() -> Response:
        """Say which model and index answer, and what filters may name."""
        async with use() as answers:
            return JSONResponse(describe_service(answers.engine, settings), headers=NO_STORE)


def _add_operations(app: FastAPI, settings: SearchSettings, live: LiveModel, metrics: SearchMetrics) -> None:
    @app.get("/health")
    async def health() -> Response:
        """Say that the process lives."""
        return JSONResponse({"status": "alive"}, headers=NO_STORE)

    @app.get("/ready")
    async def ready() -> Response:
        """Say whether model and index are loaded; 503 before."""
        async with live.use():
            return JSONResponse({"status": "ready"}, headers=NO_STORE)

    @app.get("/metrics")
    async def measured() -> Response:
        """Return what Prometheus collects."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.post("/session", openapi_extra=describe_body(SessionBody))
    async def session(request: Request) -> Response:
        """Put the token into a cookie that scripts cannot read: pictures of the page need it."""
        if not (settings.token and is_authorised(request, settings.token)):
            body, _ = await read_body(request, SessionBody)
            if settings.token and not is_token(body.token, settings.token):
                raise RequestError(401, "unauthorised", "this is not the token; ask who runs the service")
        answer = Response(status_code=204)
        if settings.token:
            is_secure = request.url.scheme == "https"
            value = make_cookie(settings.token)
            answer.set_cookie(COOKIE, value, httponly=True, samesite="strict", secure=is_secure, path="/")
        return answer

    @app.post("/reload")
    async def reload(request: Request) -> Response:
        """Load model and index anew beside those in service, try them, and let them take over."""
        if not settings.token:
            words = "a token is needed to reload: start the service with TUWEN_SEARCH_TOKEN"
            raise RequestError(403, "no_token", words)
        return JSONResponse(await live.reload(), headers=NO_STORE)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(_render_api_page(app.openapi()), media_type="text/html")


def _render_api_page(schema: Mapping[str, Any]) -> str:
    """Return the OpenAPI schema as a page to read: FastAPI's own loads its scripts from another site."""
    parts = [API_PAGE_HEAD]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2><code>{method.upper()} {html.escape(path)}</code></h2>")
            parts.append(f"<p>{html.escape(operation.get('description', ''))}</p>")
            for media, content in operation.get("requestBody", {}).get("content", {}).items():
                text = json.dumps(content["schema"]["properties"], indent=1, ensure_ascii=False)
                parts.append(f"<p><code>{html.escape(media)}</code></p><pre>{html.escape(text)}</pre>")
    return "\n".join(parts)


def _add_page(app: FastAPI) -> None:
    """Serve the page's files, which are read once: no path of a request is opened."""
    files = {
        str(path.relative_to(PAGE_FOLDER)): path.read_bytes() for path in PAGE_FOLDER.rglob("*") if path.is_file()
    }
    kept = {"cache-control": f"private, max-age={PAGE_SECONDS}"}

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        if "index.html" not in files:
            raise RequestError(404, "no_page", "this installation has no page; see /docs")
        return Response(files["index.html"], headers={"cache-control": "no-cache"}, media_type="text/html")

    @app.get("/static/{name:path}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in files:
            raise RequestError(404, "unknown", "the page has no such file")
        return Response(files[name], headers=kept, media_type=mimetypes.guess_type(name)[0])


Handler = Callable[[Request, Any], Awaitable[Response]]


async def _answer_refusal(request: Request, error: Any) -> Response:
    return JSONResponse(error.body, error.status, error.headers)


async def _answer_http_error(request: Request, error: Any) -> Response:
    words = {
        404: "there is nothing at this address; see /docs",
        405: "this address takes another method; see /docs",
    }
    refusal = RequestError(error.status_code, "unknown", words.get(error.status_code, str(error.detail)))
    return JSONResponse(refusal.body, refusal.status, error.headers)


async def _answer_validation(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    return await _answer_refusal(request, make_invalid(f"{first['loc'][-1]}: {first['msg'].lower()}"))
