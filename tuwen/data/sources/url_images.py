"""Images behind URLs: fetched once into a cache, several at a time, with a line for each in a table of status.

    <TUWEN_CACHE>/pictures/<2 digits>/<sha256 of the URL>    the bytes
    <TUWEN_CACHE>/pictures/status.jsonl                      url, status, sha256, bytes, error; the last counts

A killed run goes on where it was; what failed is tried again in the next run, and so is what no longer
has the sha256 of its line.
"""

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tuwen.core.environment import locate_cache, require_writable
from tuwen.data.formats.impostors import find_impostor, find_unread_form
from tuwen.data.formats.manifest import hash_file
from tuwen.data.formats.text_files import TextRow

URL_STARTS = ("http://", "https://")
AT_ONCE = 16  # downloads
ROWS_AHEAD = 256  # of a table, whose images are fetched together
MAX_BYTES = 1 << 26  # of an image; a longer answer is cut off and refused
SILENCE_SECONDS = 30  # without a byte
TRIES = 3
PAUSE_SECONDS = 1.0  # before the second try, twice that before the third
REQUEST_HEADERS = {"User-Agent": "tuwen (Chinese image-text retrieval)", "Accept": "image/*"}


def is_url(name: str) -> bool:
    """Tell whether the name of an image is an address to fetch it from."""
    return name.lower().startswith(URL_STARTS)


def fetch_ahead(rows: Iterator[TextRow], image: str) -> Iterator[TextRow]:
    """Yield the rows of a table in order, each when the image behind its URL was fetched, or could not be.

    image: the column that may hold a URL. Raises UserError where the cache cannot be written.
    """
    known: dict[str, str] | None = None  # URL -> sha256, as the table of status has it
    with ThreadPoolExecutor(AT_ONCE) as threads:
        while group := list(islice(rows, ROWS_AHEAD)):
            cells = [cells[image] for _, cells in group]
            if urls := dict.fromkeys(cell for cell in cells if isinstance(cell, str) and is_url(cell)):
                known = _read_status() if known is None else known
                known |= _fetch([url for url in urls if not _is_kept(url, known)], threads)
            yield from group


def read_url_image(url: str) -> tuple[bytes | None, str | None]:
    """Return (bytes, None) of an image that `fetch_ahead` has fetched, else (None, "not_fetched")."""
    path = _locate(url)
    return (path.read_bytes(), None) if path.is_file() else (None, "not_fetched")


def _read_status() -> dict[str, str]:
    """Return URL -> sha256 of what was fetched; lines that a killed run left half are passed over."""
    path = locate_cache("pictures") / "status.jsonl"
    known: dict[str, str] = {}
    if path.is_file():
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                with suppress(ValueError, KeyError, TypeError):
                    status = json.loads(line)
                    known[status["url"]] = status["sha256"]
    return known


def _is_kept(url: str, known: Mapping[str, str]) -> bool:
    """Whether the cache has the bytes of an image; those of another sha256 than its line are thrown away."""
    path = _locate(url)
    if not path.is_file():
        return False
    if url in known and hash_file(path) != known[url]:
        path.unlink()
        return False
    return True


def _fetch(wanted: Sequence[str], threads: ThreadPoolExecutor) -> dict[str, str]:
    """Fetch images into the cache; return URL -> sha256 of those that came."""
    if not wanted:
        return {}
    came: dict[str, str] = {}
    cache = locate_cache("pictures")
    require_writable(cache)
    with open(cache / "status.jsonl", "a", encoding="utf-8") as file:
        for line in threads.map(_fetch_one, wanted):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            file.flush()
            came |= {line["url"]: line["sha256"]} if "sha256" in line else {}
    return came


def _fetch_one(url: str) -> dict[str, Any]:
    """Fetch one image into the cache and return its line of status."""
    error = ""
    for attempt in range(TRIES):
        time.sleep(PAUSE_SECONDS * attempt)
        try:
            data = _download(url)
        except urllib.error.HTTPError as answer:
            error = f"HTTP {answer.code}"
            if answer.code < 500 and answer.code != 429:  # the server will say the same again
                break
        except (OSError, http.client.HTTPException, ValueError) as fault:
            error = f"{type(fault).__name__}: {fault}"
        else:
            if len(data) > MAX_BYTES:
                error = f"more than {MAX_BYTES} bytes"
                break
            if (impostor := find_impostor(data)) and find_unread_form(data) is None:
                error = f"no picture, but {impostor[1]}"  # as shops answer whom they do not know
                break
            _keep(url, data)
            digest = hashlib.sha256(data).hexdigest()
            return {"url": url, "status": "success", "sha256": digest, "bytes": len(data)}
    return {"url": url, "status": "failed_to_download", "error": error[:300]}


def _download(url: str) -> bytes:
    """Return what the address answers, one byte more than MAX_BYTES at most."""
    quoted = quote(url, safe="%/:=&?~#+!$,;'@()*[]")  # Chinese letters, as browsers do
    request = urllib.request.Request(quoted, headers=REQUEST_HEADERS)
    with urllib.request.urlopen(request, timeout=SILENCE_SECONDS) as answer:
        data: bytes = answer.read(MAX_BYTES + 1)
        length = answer.headers.get("Content-Length")
    if length and len(data) <= MAX_BYTES and len(data) != int(length):
        raise OSError(f"the answer ended after {len(data)} of {length} bytes")
    return data


def _keep(url: str, data: bytes) -> None:
    """Write the bytes so that a killed run leaves none or all of them."""
    path = _locate(url)
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_bytes(data)
    part.replace(path)


def _locate(url: str) -> Path:
    digest = hashlib.sha256(url.encode()).hexdigest()
    return locate_cache("pictures") / digest[:2] / digest
