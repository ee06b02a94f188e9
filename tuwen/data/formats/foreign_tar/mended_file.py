"""Files on disk, or anywhere that fsspec reaches, read once from start to end; a connection that breaks is mended.

fsspec speaks to the storage (http; s3 and gcs where s3fs and gcsfs are installed) and gives up where a connection
breaks in the middle of a file. Here the file is opened again and read on from the byte that was reached. Tries of
s3fs and of botocore beneath it are left out: 25 silent ones of each of ours would pass unseen.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tuwen.core.errors import hide_credentials
from tuwen.core.progress import say

Done = TypeVar("Done")
PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)  # before each try that follows one without a byte
SILENT_CONNECT_SECONDS, SILENT_READ_SECONDS = 30.0, 60.0  # of a server of http or S3 that says nothing
PASSING_STATUS = (408, 425, 429)  # of http: another time it may answer; so it may with all from SERVER_FAULT on
SERVER_FAULT, PARTIAL_CONTENT = 500, 206
REFUSED_STATUS, ABSENT_STATUS = (401, 403), (404, 410)
# Of botocore, which need not be installed: no keys, or settings that it cannot take
UNSET_KEYS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "UnauthorizedSSOTokenError")
BAD_SETTINGS = (*UNSET_KEYS, "ConfigParseError", "InvalidConfigError", "ParamValidationError")
SKIPPED_BYTES = 1 << 20  # at a time
S3_BLOCK_BYTES = 16 << 20  # of a request; s3fs's own 50 MiB take more memory and are no faster
WEB, S3 = ("http://", "https://"), ("s3://", "s3a://")
KEYS_REMEDY = "its storage wants keys, or other ones: docs/data.md, Remote shards"
PACKAGE_REMEDY = "for s3:// install tuwen's extra `s3`, for other storage the package that is named"
SETTINGS_REMEDY = "check its address, and its storage's endpoint and region: docs/data.md, Remote shards"
LATER_REMEDY = "run the same command again when the storage answers"


def find_local(address: str) -> Path | None:
    """Return the path of an address on this machine, None where it leads elsewhere."""
    from fsspec.core import split_protocol

    if split_protocol(address)[0] not in (None, "file", "local"):
        return None  # what opens it need not be installed, and says so when it is opened
    return Path(_find_file(address)[1])


def _find_file(address: str) -> tuple[Any, str]:
    """Return a file system of fsspec and the path that the address has there."""
    import fsspec

    options: dict[str, Any] = {}
    if address.startswith(WEB):
        import aiohttp

        patience = aiohttp.ClientTimeout(
            total=None, sock_connect=SILENT_CONNECT_SECONDS, sock_read=SILENT_READ_SECONDS
        )
        options = {"client_kwargs": {"timeout": patience}}
    files, path = fsspec.core.url_to_fs(address, **options)
    if address.startswith(S3):  # not as options, which would replace those of the user's FSSPEC_S3
        files.retries = 1
        files.connect_timeout, files.read_timeout = SILENT_CONNECT_SECONDS, SILENT_READ_SECONDS
        files.config_kwargs.setdefault("retries", {"total_max_attempts": 1})
    return files, path


class MendedFile:
    """A file that is read once from its start; what fails is tried again, after longer and longer pauses.

    `size` is in bytes, None where the storage does not tell it. Raises what the storage raises: at once where
    another try would fail likewise, else after the last of PAUSES_SECONDS without a byte.
    """

    def __init__(self, address: str) -> None:
        self._address, self._failed = address, 0  # tries since the last byte
        self._files, self._path = _find_file(address)
        self._is_local = "file" in _list_protocols(self._files)
        self._file: Any = None
        self._at = 0  # bytes that were read
        self.size: int | None = self._try(lambda: self._files.size(self._path))
        self._try(self._open)

    def close(self) -> None:
        """Close what is open of it."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, with -1 all that are left; none at the end."""
        data = self._try(lambda: self._read(size))
        self._at += len(data)
        return data

    def _read(self, size: int) -> bytes:
        if self._at == self.size:
            return b""
        if self._file is None:
            self._open()
        data: bytes = self._file.read(size)
        if not data and size and self.size is not None:
            raise EOFError(f"ends after {self._at} of {self.size} bytes")
        return data

    def _open(self) -> None:
        if not self._address.startswith(WEB):
            blocks = {"block_size": S3_BLOCK_BYTES} if self._address.startswith(S3) else {}
            self._file = self._files.open(self._path, "rb", **blocks)
            self._file.seek(self._at)
            return
        # one answer for the whole file: blocks would cost a request each, and fail where a server knows no ranges
        wanted = {"headers": {"Range": f"bytes={self._at}-"}} if self._at else {}
        self._file = self._files.open(self._path, "rb", block_size=0, size=self.size, **wanted)
        skipped = self._at if self._file.r.status == PARTIAL_CONTENT else 0
        while skipped < self._at:
            passed = len(self._file.read(min(self._at - skipped, SKIPPED_BYTES)))
            if not passed:
                raise EOFError(f"ends after {skipped} bytes, {self._at} were there before")
            skipped += passed

    def _try(self, work: Callable[[], Done]) -> Done:
        while True:
            try:
                done = work()
            except Exception as error:  # each kind of storage has its own
                if self._is_local or _is_final(error) or self._failed == len(PAUSES_SECONDS):
                    raise
                pause = PAUSES_SECONDS[self._failed] * random.SystemRandom().uniform(0.5, 1.0)
                self._failed += 1
                place, reason = hide_credentials(self._address), describe_error(error)
                say(f"warning: {place}: {reason}; tried again in {pause:.1f} s", error=True)
                self.close()
                time.sleep(pause)
            else:
                self._failed = 0
                return done


def describe_error(error: BaseException) -> str:
    """Return kind and message of what a storage raised, at most 200 characters."""
    return f"{type(error).__name__}: {error}"[:200]


def find_storage_remedy(error: BaseException) -> str | None:
    """Return what helps against an error of remote storage; None where the file is not there."""
    if isinstance(error, PermissionError) or _find_status(error) in REFUSED_STATUS or _is_of(error, UNSET_KEYS):
        return KEYS_REMEDY
    if isinstance(error, ImportError):
        return PACKAGE_REMEDY
    if not _is_final(error):
        return LATER_REMEDY
    return None if _is_absent(error) else SETTINGS_REMEDY


def _is_absent(error: BaseException) -> bool:
    """Return whether the storage answered that there is no such file."""
    if (status := _find_status(error)) is not None:
        return status in ABSENT_STATUS
    return isinstance(error, FileNotFoundError) and (error.__cause__ is None or _is_absent(error.__cause__))


def _is_final(error: BaseException) -> bool:
    """Return whether another try would fail likewise."""
    if isinstance(error, TimeoutError):  # S3 says so with status 400 too
        return False
    if (status := _find_status(error)) is not None:
        return 0 < status < SERVER_FAULT and status not in PASSING_STATUS
    if isinstance(error, FileNotFoundError) and error.__cause__:  # so fsspec calls all that keeps it from looking
        return _is_final(error.__cause__)
    final = FileNotFoundError | PermissionError | ImportError | NotImplementedError | ValueError
    return isinstance(error, final) or _is_of(error, BAD_SETTINGS)


def _find_status(error: BaseException) -> int | None:
    """Return the status of http that is in an error of aiohttp or botocore, or in one that fsspec made of it."""
    for one in (error, error.__cause__):
        status, response = getattr(one, "status", None), getattr(one, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if isinstance(status, int):
            return status
    return None


def _is_of(error: BaseException, names: tuple[str, ...]) -> bool:
    return type(error).__name__ in names


def _list_protocols(files: Any) -> tuple[str, ...]:
    protocol: str | tuple[str, ...] = files.protocol
    return (protocol,) if isinstance(protocol, str) else protocol
