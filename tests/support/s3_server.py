"""A real S3 server, rclone's, of a folder whose subfolders are the buckets."""

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

RCLONE = Path(sys.executable).with_name("rclone")
BUCKET = "shards"


class S3Server:
    """Serves the objects of one bucket, which are files; after `kill`, `start` goes on at the same address."""

    def __init__(self, folder: Path) -> None:
        self.bucket, self.key, self.secret = folder / BUCKET, secrets.token_hex(10), secrets.token_hex(20)
        self.bucket.mkdir(parents=True)
        self.endpoint = "http://127.0.0.1:0"
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that open it."""
        keys = {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}
        return keys | {"AWS_ENDPOINT_URL_S3": self.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}

    def start(self) -> None:
        """Return when it listens."""
        place = urlsplit(self.endpoint).netloc
        self._process = subprocess.Popen(
            [RCLONE, "serve", "s3", self.bucket.parent, "--addr", place, "--config", os.devnull],
            env=os.environ | {"RCLONE_AUTH_KEY": f'"{self.key},{self.secret}"'},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr
        line = self._process.stderr.readline()
        assert "Starting s3 server on [" in line, line
        self.endpoint = line.partition("[")[2].partition("/]")[0]

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None


@contextlib.contextmanager
def serve_s3(folder: Path) -> Iterator[S3Server]:
    """Run a server for a `with` block."""
    server = S3Server(folder)
    try:
        yield server
    finally:
        server.kill()
