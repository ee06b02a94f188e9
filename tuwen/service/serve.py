"""The process of the service: one event loop, one model, uvicorn."""

import logging
import os
import sys

import torch
import uvicorn

from tuwen.core.errors import UserError
from tuwen.service.app import build_app
from tuwen.service.live import LiveModel
from tuwen.service.search_metrics import SearchMetrics
from tuwen.service.settings import read_search_settings

KEEP_ALIVE_SECONDS = 30
SWITCH_SECONDS = 0.0005  # that a thread which computes waits for Python's lock, after each of its products


def run_service() -> None:
    """Serve until a signal. Raises UserError for settings that do not fit, or a model that cannot be loaded."""
    settings, metrics = read_search_settings(os.environ), SearchMetrics()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    sys.setswitchinterval(SWITCH_SECONDS)
    torch.set_num_threads(1)  # threads of our own share the cores, and each computes for itself
    faults: list[str] = []

    def fail(reason: str) -> None:
        faults.append(reason)
        server.should_exit = True

    app = build_app(settings, LiveModel(settings, metrics, fail), metrics)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,  # it would show the page's address, which holds the query
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.timeout_seconds) + 1,
    )
    server = uvicorn.Server(config)
    try:
        server.run()
    except SystemExit:  # how uvicorn says that it cannot listen there
        place = f"{settings.host}:{settings.port}"
        raise UserError(f"TUWEN_SEARCH_PORT: cannot listen on {place}; set it to a free port") from None
    if faults:
        raise UserError(faults[0])
