"""How fast listed shards come in: two processes against one, from disk and from servers, and with copies ahead.

    .venv/bin/python benchmarks/streams.py [readers] [stores] [remote]

Run it alone on the machine, and with some 3 GB free in /tmp. What is read, parsed, hashed, judged by its header,
shuffled and planned are the pairs of an epoch; nothing is decoded. `stores` needs rclone (the extra `dev`), whose
server takes its part of the cores. Asked: two readers of files ≥ 1.9 × one.
"""

import argparse
import contextlib
import hashlib
import http.server
import io
import json
import os
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tuwen.core.presets import check_preset, compose_preset
from tuwen.data.augment.views import Viewer
from tuwen.data.formats import pairs
from tuwen.training.dataset import ProcessShare
from tuwen.training.streaming import Banned, StreamedViews

ROOT = Path(__file__).parents[1]
SHARDS, PAIRS_A_SHARD, IMAGE_BYTES = 24, 800, 73_000  # 1.4 GB
ROUNDS = 5
STORES = ("http", "s3")
STORE_SHARDS, STORE_ROUNDS, STORE_COPIES_GB = 12, 3, ("0", "0.25")  # read where they are; room for 4 of 12
REMOTE_SHARDS, BYTES_A_SECOND, DELAY_SECONDS = 8, 20e6, 0.05  # of one connection to a store far away


def write_shards(folder: Path, count: int, pairs_a_shard: int) -> list[dict[str, Any]]:
    """Write shards of pairs whose images are a JPEG's header and noise; return their rows."""
    from PIL import Image

    draw, rows, head = random.Random(0), [], io.BytesIO()
    Image.new("RGB", (640, 480)).save(head, "JPEG")
    filling = draw.randbytes(IMAGE_BYTES)
    folder.mkdir(parents=True)
    for shard in range(count):
        path = folder / f"{shard:03d}.tar"
        with tarfile.open(path, "w") as tar:
            for n in range(pairs_a_shard):
                key = shard * pairs_a_shard + n
                image = head.getvalue() + key.to_bytes(8, "big") + filling
                for ending, content in (("jpg", image), ("txt", f"雨后的街道上停着第{key}辆公交车".encode())):
                    info = tarfile.TarInfo(f"{key}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        row = {"address": str(path), "size": path.stat().st_size, "sha256": digest, "pairs": pairs_a_shard}
        rows.append(row | {"caption_key": "caption", "source": "web"})
    return rows


def make_views(rows: list[dict[str, Any]]) -> StreamedViews:
    """Return the views of an epoch that shows every pair once."""
    params = check_preset(compose_preset("pretrain-200m", ROOT / "presets"))
    assert params.baseline.policy
    viewer = Viewer(params.baseline.policy, params.image.size_px, 0)
    return StreamedViews(rows, viewer, pairs.Limits(200, 10**8, 32), weight=1.0, banned=Banned())


def read_epochs(listed: Path) -> None:
    """Be a reader: for each line `epoch rank ranks` read that share; print its pairs and its processor seconds."""
    views = make_views(json.loads(listed.read_text()))
    print("ready", flush=True)
    for line in sys.stdin:
        epoch, rank, ranks = map(int, line.split())
        began = time.process_time()
        seen = sum(1 for _ in views.plan(0, epoch, share=ProcessShare(rank, ranks)))
        print(seen, time.process_time() - began, flush=True)


def time_readers(readers: list["subprocess.Popen[str]"], epoch: int) -> tuple[float, float]:
    """Return the pairs/s of an epoch that these processes share, by the clock and by the processor's seconds."""
    began, seen, spent = time.perf_counter(), 0, 0.0
    for rank, reader in enumerate(readers):
        assert reader.stdin
        print(epoch, rank, len(readers), file=reader.stdin, flush=True)
    for reader in readers:
        assert reader.stdout
        pairs_read, seconds = reader.stdout.readline().split()
        seen, spent = seen + int(pairs_read), spent + float(seconds)
    return seen / (time.perf_counter() - began), len(readers) * seen / spent


def measure_readers(folder: Path, tiny_run: bool) -> None:
    """Print the pairs/s of one process and of two, in rounds that take turns; the shards lie in the page cache."""
    rows = write_shards(folder / "shards", SHARDS, 4 if tiny_run else PAIRS_A_SHARD)
    compare_readers(rows, folder, 1 if tiny_run else ROUNDS, {})


def measure_stores(folder: Path, tiny_run: bool) -> None:
    """Print the same of shards in a server of http and in one of S3, both rclone's, on this machine's cores."""
    rows = write_shards(folder / "all/shards", STORE_SHARDS, 4 if tiny_run else PAIRS_A_SHARD)
    for protocol in STORES:
        with serve_store(folder / "all", protocol) as (place, keys):
            far = [row | {"address": f"{place}/shards/{n:03d}.tar"} for n, row in enumerate(rows)]
            for room in STORE_COPIES_GB[: 1 if tiny_run else None]:
                own = {"TUWEN_SHARD_CACHE_GB": room, "TUWEN_CACHE": str(folder / "cache")}
                print(f"{protocol}, {room} GB of copies:", flush=True)
                compare_readers(far, folder, 1 if tiny_run else STORE_ROUNDS, keys | own)


@contextlib.contextmanager
def serve_store(folder: Path, protocol: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Run rclone's server of a folder; yield where the folder is, and the variables that open it."""
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    rclone = Path(sys.executable).with_name("rclone")
    server = subprocess.Popen(
        [
            rclone,
            "serve",
            protocol,
            folder,
            "--addr",
            "127.0.0.1:0",
            "--config",
            os.devnull,
            "--log-level",
            "INFO",
        ],
        env=os.environ | ({"RCLONE_AUTH_KEY": '"key,secret"'} if protocol == "s3" else {}),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr
        line = next(line for line in server.stderr if "http://" in line)
        address = "http://" + line.partition("http://")[2].partition("/")[0]
        threading.Thread(target=server.stderr.read, daemon=True).start()
        yield ("s3:/", keys | {"AWS_ENDPOINT_URL_S3": address}) if protocol == "s3" else (address, {})
    finally:
        server.kill()
        server.wait()


def compare_readers(rows: list[dict[str, Any]], folder: Path, rounds: int, variables: dict[str, str]) -> None:
    """Print the pairs/s of one process and of two, in rounds that take turns."""
    (folder / "rows.json").write_text(json.dumps(rows))
    command = [sys.executable, __file__, "--rows", str(folder / "rows.json")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    own = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    readers = [subprocess.Popen(command, **pipes, env=own) for _ in range(2)]
    try:
        for reader in readers:
            assert reader.stdout
            assert reader.stdout.readline() == "ready\n"
        time_readers(readers, 1)  # the first round warms up
        rates: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
        for number in range(rounds):
            for count in (1, 2) if number % 2 else (2, 1):
                rates[count].append(time_readers(readers[:count], number + 2))
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
    size = rows[0]["size"] / rows[0]["pairs"]
    for part, by in enumerate(("the clock", "the processor")):
        one, two = (statistics.median(rate[part] for rate in found) for found in rates.values())
        ratios = sorted(b[part] / a[part] for a, b in zip(rates[1], rates[2], strict=True))
        print(f"by {by}: one reader {one:.0f} pairs/s ({one * size / 1e6:.0f} MB/s), two {two:.0f}: ", end="")
        print(f"{two / one:.2f} times; the rounds' ratios: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")


class _SlowHandler(http.server.SimpleHTTPRequestHandler):
    """Sends each file at BYTES_A_SECOND, after a delay."""

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Send the body."""
        time.sleep(DELAY_SECONDS)
        while data := source.read(1 << 18):
            outputfile.write(data)
            time.sleep(len(data) / BYTES_A_SECOND)


def measure_remote(folder: Path, tiny_run: bool) -> None:
    """Print the MB/s from a server whose connections are slow, read where they are and with copies ahead."""
    rows = write_shards(folder / "shards", REMOTE_SHARDS, 4 if tiny_run else PAIRS_A_SHARD)
    os.environ["TUWEN_CACHE"] = str(folder / "cache")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_SlowHandler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}/shards"
        far = [row | {"address": f"{place}/{n:03d}.tar"} for n, row in enumerate(rows)]
        size = sum(row["size"] for row in rows)
        for name, bound in (("read where they are", "0"), ("copied ahead", "3")):
            os.environ["TUWEN_SHARD_CACHE_GB"] = bound
            views = make_views(far)
            for epoch in (1, 2):
                began = time.perf_counter()
                assert sum(1 for _ in views.plan(0, epoch)) == len(views)
                spent = time.perf_counter() - began
                rates = f"{size / spent / 1e6:.0f} MB/s, {len(views) / spent:.0f} pairs/s"
                print(f"{name}, epoch {epoch}: {rates}", flush=True)
        server.shutdown()


PARTS = {"readers": measure_readers, "stores": measure_stores, "remote": measure_remote}


def main() -> None:
    """Run the parts that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--tiny", action="store_true", help="at sizes of seconds: shows that it works")
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rows:
        return read_epochs(options.rows)
    for name in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[name](Path(folder), options.tiny)


if __name__ == "__main__":
    main()
