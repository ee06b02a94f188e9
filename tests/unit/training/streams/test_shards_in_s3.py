"""Shards in a real S3 server, streamed as from disk: the same pairs in the same order, over its crashes too."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import s3fs

from tests.support.s3_server import BUCKET, S3Server, serve_s3
from tests.support.training import SIZE_PX, caption, members, settings, write_shard
from tuwen.core.errors import UserError
from tuwen.data.augment.views import Viewer
from tuwen.data.formats import pairs, text
from tuwen.data.formats.foreign_tar import mended_file
from tuwen.data.formats.foreign_tar.listed_shard import read_shard
from tuwen.training import streaming
from tuwen.training.dataset import ProcessShare
from tuwen.training.loader import count_loading_workers, load_batches
from tuwen.training.streaming import Banned, StreamedViews

Rows = list[dict[str, Any]]
SHARDS, PAIRS_A_SHARD = 6, 8
POLICY, LIMITS = settings().baseline.policy, pairs.Limits(max_chars=200, max_pixels=1_000_000, min_side_px=8)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with serve_s3(tmp_path / "s3") as server:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
            monkeypatch.delenv(name, raising=False)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        monkeypatch.setenv("TUWEN_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(mended_file, "PAUSES_SECONDS", (0.001,) * 4)
        s3fs.S3FileSystem.clear_instance_cache()  # which know other keys
        yield server


@pytest.fixture
def local(tmp_path: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Rows:
    """The rows of the bucket's shards as files; a block of an epoch holds one shard."""
    numbers = (range(PAIRS_A_SHARD * n, PAIRS_A_SHARD * (n + 1)) for n in range(SHARDS))
    rows = [write_shard(server.bucket / f"图/{n}.tar", members(own), len(own)) for n, own in enumerate(numbers)]
    monkeypatch.setattr(streaming, "SHUFFLE_BYTES", max(row["size"] for row in rows))
    return rows


@pytest.fixture
def far(local: Rows) -> Rows:
    return [row | {"address": f"s3://{BUCKET}/图/{n}.tar"} for n, row in enumerate(local)]


def allow_copies(monkeypatch: pytest.MonkeyPatch, rows: Rows, count: int) -> int:
    """Have room on disk for so many shards; return it in bytes."""
    room = count * max(row["size"] for row in rows)
    monkeypatch.setenv("TUWEN_SHARD_CACHE_GB", str(room / 1e9))
    return room


def make_views(rows: Rows) -> StreamedViews:
    return StreamedViews(rows, Viewer(POLICY, SIZE_PX, 0), LIMITS, weight=1.0, banned=Banned())


def list_pairs(rows: Rows, epoch: int = 1, **options: Any) -> list[tuple[str, str]]:
    return [(spec.pair_id, spec.caption) for spec in make_views(rows).plan(0, epoch, **options)]


def measure_copies(folder: Path) -> int:
    """Return the bytes of all copies; one that goes while it is looked at counts no more."""
    count = 0
    for path in folder.glob("*/*.tar"):
        with contextlib.suppress(FileNotFoundError):
            count += path.stat().st_size
    return count


@pytest.mark.parametrize("room", [0, 2])
def test_the_pairs_and_their_order_are_those_of_local_files(local, far, tmp_path, monkeypatch, room) -> None:
    allowed = allow_copies(monkeypatch, local, room)
    shown, held = [], []
    for spec in make_views(far).plan(0, 1):
        shown.append((spec.pair_id, spec.caption))
        held.append(measure_copies(tmp_path / "cache/shards"))
    assert max(held) <= allowed
    assert bool(max(held)) == bool(room)
    assert shown == list_pairs(local)
    assert len(set(shown)) == SHARDS * PAIRS_A_SHARD
    share = ProcessShare(1, 2)
    assert list_pairs(far, epoch=2, share=share) == list_pairs(local, epoch=2, share=share)


@pytest.mark.parametrize("room", [0, 2])
def test_a_server_that_is_killed_and_comes_back_loses_and_repeats_nothing(
    server, local, far, monkeypatch, room
) -> None:
    allow_copies(monkeypatch, local, room)
    warned, lock = list[str](), threading.Lock()

    def come_back(message: str, **_: Any) -> None:
        with lock:
            if not warned:
                server.start()
            warned.append(message)

    monkeypatch.setattr(mended_file, "say", come_back)
    stream = make_views(far).plan(0, 1)
    shown = [next(stream) for _ in range(PAIRS_A_SHARD + 3)]
    server.kill()
    shown += stream
    assert [(spec.pair_id, spec.caption) for spec in shown] == list_pairs(local)
    assert any("s3://shards/图/" in message for message in warned)


def test_an_epoch_is_resumed_in_its_middle_without_the_shards_before(server, local, far, monkeypatch) -> None:
    allow_copies(monkeypatch, local, 2)
    views = make_views(far)
    stream, middle = views.plan(0, 1), 2 * PAIRS_A_SHARD + 5
    before = [next(stream).pair_id for _ in range(middle)]
    state = views.get_state()
    stream.close()
    for row, object_of_row in zip(local, far, strict=True):
        if row["sha256"] in {pair_id.split("/")[0] for pair_id in before[: 2 * PAIRS_A_SHARD]}:
            (server.bucket / object_of_row["address"].removeprefix(f"s3://{BUCKET}/")).unlink()
    resumed = make_views(far)
    resumed.set_state(state)
    after = [spec.pair_id for spec in resumed.plan(0, 1, skip=middle)]
    assert len({*before, *after}) == len([*before, *after]) == SHARDS * PAIRS_A_SHARD


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "geheim"}, r"PermissionError: Forbidden; its storage wants keys, or other"),
        ({"AWS_ACCESS_KEY_ID": "nobody"}, r"PermissionError: Forbidden; its storage wants keys, or other"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, r"PartialCredentialsError: .*; its storage wants keys, or other"),
        (
            {"AWS_ENDPOINT_URL_S3": "127.0.0.1"},
            r"ValueError: Invalid endpoint: 127\.0\.0\.1; check its address, and",
        ),
    ],
)
def test_wrong_keys_end_it_at_once_with_the_shard_and_without_the_keys(
    far, monkeypatch, capfd, changes, message
) -> None:
    allow_copies(monkeypatch, far, 2)
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"^s3://shards/图/\d\.tar: .* cannot be opened: " + message) as raised:
        list_pairs(far)
    shown = f"{raised.value}{capfd.readouterr().err}"
    assert "tried again" not in shown
    assert not any(key in shown for key in ("geheim", "nobody"))


def test_what_is_not_there_is_not_asked_for_again_and_a_server_that_is_away_is(server, far, capfd) -> None:
    for address in (f"s3://{BUCKET}/none.tar", "s3://nowhere/0.tar"):
        with pytest.raises(UserError, match=rf"{address}: .* FileNotFoundError: .*; get it again"):
            list(read_shard(far[0] | {"address": address}))
    assert "tried again" not in capfd.readouterr().err
    server.kill()
    with pytest.raises(UserError, match=r"EndpointConnectionError: .*; run the same command again"):
        list(read_shard(far[0]))
    assert capfd.readouterr().err.count("tried again") == 4


def test_batches_of_loading_processes_are_those_of_local_files(local, far, monkeypatch) -> None:
    allow_copies(monkeypatch, local, 2)
    tokenizer = text.make_tokenizer(text.build_vocabulary(map(caption, range(SHARDS * PAIRS_A_SHARD))))
    options: dict[str, Any] = {"max_tokens": 24, "batch_size": 16, "seed": 0, "epoch": 1}
    alone = list(load_batches(make_views(local), tokenizer, **options))
    next(make_views(far).plan(0, 1))  # the threads of s3fs run before the processes are made
    monkeypatch.setenv("TUWEN_WORKERS", "2")
    assert count_loading_workers() == 2
    apart = list(load_batches(make_views(far), tokenizer, **options))
    assert [batch.pair_ids for batch in apart] == [batch.pair_ids for batch in alone]
    assert all((a.pixels == b.pixels).all() for a, b in zip(apart, alone, strict=True))
