"""A web server of a folder's files that fails as real ones do: at one request after the other, as it is told."""

import contextlib
import http.server
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

PIECE_BYTES, PIECE_SECONDS = 4096, 0.002  # of a slow answer


class ShakyServer(http.server.ThreadingHTTPServer):
    """Answers as `faults` says, one for each GET: "503", "drop" (half of the bytes), "slow"; then it is well."""

    def __init__(self, folder: Path, faults: Iterable[str] = (), *, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, folder=folder))
        self.faults, self.ranges = deque(faults), ranges
        self.asked: list[tuple[str, int]] = []  # path and first byte of each GET

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def serve_shakily(folder: Path, faults: Iterable[str] = (), *, ranges: bool = True) -> Iterator[ShakyServer]:
    """Run a server for a `with` block."""
    with ShakyServer(folder, faults, ranges=ranges) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: ShakyServer

    def __init__(self, *arguments: Any, folder: Path) -> None:
        self._folder = folder
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        first = int(self.headers.get("Range", "bytes=0-")[len("bytes=") :].split("-")[0])
        self.server.asked.append((self.path, first))
        fault = self.server.faults.popleft() if self.server.faults else ""
        if fault == "503":
            self.send_error(503)
            return
        self._answer(None, first if self.server.ranges else 0, fault)

    def _answer(self, body: bytes | None, first: int = 0, fault: str = "") -> None:
        path = self._folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        whole = path.read_bytes()[first:]
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(whole)))
        self.end_headers()
        body = whole if body is None else body
        if fault == "slow":
            for start in range(0, len(body), PIECE_BYTES):
                self.wfile.write(body[start : start + PIECE_BYTES])
                time.sleep(PIECE_SECONDS)
        else:
            self.wfile.write(body[: len(body) // 2] if fault == "drop" else body)
