"""Views of shards that stay where they are: which an epoch shows, and what is skipped."""

import hashlib
import http.server
import io
import json
import threading
from collections import Counter
from functools import partial
from itertools import chain

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from tests.support.looks import draw_picture
from tests.support.training import SIZE_PX, caption, decode_all, drawn, members, settings, write_shard
from tuwen.core.errors import UserError
from tuwen.data.augment.views import Viewer
from tuwen.data.formats import pairs
from tuwen.data.formats.foreign_tar.listed_shard import read_shard
from tuwen.data.formats.foreign_tar.tar_stream import count_pairs
from tuwen.data.formats.images import decode_image
from tuwen.data.formats.near_images.looks import measure_look
from tuwen.data.quality.duplicates.near_duplicates import find_near_images
from tuwen.training import streaming
from tuwen.training.dataset import ProcessShare
from tuwen.training.streaming import Banned, StreamedViews, read_banned
from tuwen.training.streams import blocks

NONE = Banned()
POLICY = settings().baseline.policy
LIMITS = pairs.Limits(max_chars=200, max_pixels=1_000_000, min_side_px=8)


def digest(number: int) -> str:
    return hashlib.sha256(drawn(number)).hexdigest()


def make_views(*rows, weight: float = 1.0, banned: Banned = NONE) -> StreamedViews:
    return StreamedViews(list(rows), Viewer(POLICY, SIZE_PX, 0), LIMITS, weight=weight, banned=banned)


def list_shown(views: StreamedViews, epoch: int, seed: int = 0) -> list[str]:
    return [item.positive_id for item in decode_all(views, seed, epoch)]


@pytest.fixture
def three(tmp_path) -> list:
    """Three shards of eight pairs."""
    return [write_shard(tmp_path / f"{n}.tar", members(range(8 * n, 8 * n + 8)), 8) for n in range(3)]


def test_each_epoch_shows_every_pair_once_in_an_order_of_its_own(three) -> None:
    views = make_views(*three)
    assert len(views) == 24
    orders = [list_shown(views, epoch) for epoch in (1, 2, 3)]
    assert all(sorted(order) == sorted(digest(n) for n in range(24)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert list_shown(make_views(*three), 2) == orders[1]  # a training that resumes at epoch 2 has seen no other
    assert list_shown(views, 2, seed=1) != orders[1]
    assert not views.count_skipped()


def test_names_with_dots_are_streamed_by_the_rule_that_counts_them(tmp_path) -> None:
    named = [(f"iPhone6.7寸-{n:03d}.jpg", drawn(n)) for n in range(12)]
    named += [(f"iPhone6.7寸-{n:03d}.seg.png", drawn(n + 20)) for n in range(12)]
    named += [(f"iPhone6.7寸-{n:03d}.txt", caption(n).encode()) for n in range(12)]
    row = write_shard(tmp_path / "0.tar", sorted(named), 12)
    with open(tmp_path / "0.tar", "rb") as file:
        assert count_pairs(file) == 12
    views = make_views(row)
    shown = {item.positive_id: item.caption for item in decode_all(views, 0, 1)}
    assert shown == {digest(n): caption(n) for n in range(12)}
    assert not views.count_skipped()


def test_a_view_is_that_of_its_pair_and_epoch_wherever_the_shard_lies(three, tmp_path) -> None:
    views = make_views(*three)
    seen = [{item.positive_id: item for item in decode_all(views, 0, epoch)} for epoch in (1, 2)]
    row = {"pair_id": f"{three[1]['sha256']}/9", "caption": caption(9), "paraphrase": None, "mirroring": "free"}
    expected = Viewer(POLICY, SIZE_PX, 0).render(decode_image(drawn(9)), row, 2)
    assert np.array_equal(seen[1][digest(9)].pixels, expected.pixels)
    assert seen[1][digest(9)].caption == caption(9)
    assert not np.array_equal(seen[0][digest(9)].pixels, expected.pixels)
    moved = [row | {"address": (tmp_path / f"{n}.tar").as_uri()} for n, row in enumerate(three)]
    assert [item.pixels.tobytes() for item in decode_all(make_views(*moved), 0, 1)] == [
        item.pixels.tobytes() for item in decode_all(views, 0, 1)
    ]


@pytest.mark.parametrize(("weight", "epochs", "times"), [(0.5, 4, 2), (2.0, 2, 4), (0.25, 4, 1)])
def test_a_weight_says_how_often_an_epoch_shows_each_pair(three, weight, epochs, times) -> None:
    views = make_views(*three, weight=weight)
    per_epoch = [list_shown(views, epoch) for epoch in range(1, epochs + 1)]
    assert {len(order) for order in per_epoch} == {len(views)} == {int(24 * weight)}
    assert Counter(chain.from_iterable(per_epoch)) == {digest(n): times for n in range(24)}


def test_a_pair_shown_twice_in_one_epoch_has_two_views(three) -> None:
    items = decode_all(make_views(*three, weight=2.0), 0, 1)
    assert len({item.pixels.tobytes() for item in items}) == 48


def draw_blank(width: int, height: int) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(encoded, "PNG")
    return encoded.getvalue()


def list_broken() -> list[tuple[str, bytes]]:
    """Return eight good pairs among a dozen bad keys."""
    good = list(members(range(8)))
    return [
        *good[:6],
        *(("cut.png", drawn(20)[:90]), ("cut.txt", "一张残缺的图片".encode())),
        *(("line.png", draw_blank(40, 7)), ("line.txt", "一条细线".encode())),
        *(("rod.png", draw_blank(7, 40)), ("rod.txt", "一根细杆".encode())),
        *(("zip.jpg", b"PK\x03\x04" + bytes(60)), ("zip.txt", "一个压缩包".encode())),
        *(("bomb.png", draw_blank(1001, 1000)), ("bomb.txt", "一张大得打不开的图片".encode())),
        *(("alone.txt", "没有图片的说明".encode()), ("mute.png", drawn(21))),
        *(("blank.png", drawn(22)), ("blank.txt", b" \n")),
        *(("long.png", drawn(23)), ("long.txt", "很长".encode() * 101)),
        *(("../up.png", drawn(24)), ("../up.txt", "文件夹之外".encode())),
        *(("odd.png", drawn(25)), ("odd.json", b"{")),
        *(("test.png", drawn(26)), ("test.txt", caption(26).encode())),
        *good[6:],
    ]


def test_what_is_bad_is_skipped_and_counted_and_the_epoch_keeps_its_length(tmp_path) -> None:
    views = make_views(write_shard(tmp_path / "0.tar", list_broken(), 18), banned=Banned(frozenset({digest(26)})))
    cut = hashlib.sha256(drawn(20)[:90]).hexdigest()  # its header is sound, so it is planned
    for epoch in (1, 2):
        seen = Counter(spec.positive_id for spec in views.plan(0, epoch))
        assert sum(seen.values()) == len(views) == 18
        assert set(seen) == {*(digest(n) for n in range(8)), cut}
        assert set(seen.values()) == {2}  # two whole laps
        assert set(list_shown(views, epoch)) == set(seen) - {cut}
    assert {reason: count / 2 for reason, count in views.count_skipped().items()} == {
        "unreadable": 1,
        "too_large": 1,
        "too_low": 1,
        "too_narrow": 1,
        "missing": 1,
        "empty": 2,
        "too_long": 1,
        "outside_source": 1,
        "unreadable_record": 1,
        "in_valid_or_test": 1,
    }


def test_a_changed_copy_of_a_held_out_image_is_seen_when_it_is_decoded(tmp_path) -> None:
    """By the rule that takes it out of a stored corpus; the process that trains counts it (test_loader.py)."""
    shown = {n: draw_picture(n) for n in range(6)}
    copied = {2: draw_picture(2, mirrored=True), 4: draw_picture(4, margin=0.05)}
    files = [
        file
        for n, encoded in (shown | copied).items()
        for file in ((f"{n}.png", encoded), (f"{n}.txt", caption(n).encode()))
    ]
    write_held_out(tmp_path, [shown[2], shown[4], draw_blank(40, 40), draw_picture(9)])
    views = make_views(write_shard(tmp_path / "0.tar", files, 6), banned=read_banned(tmp_path))
    decoded = {spec.pair_id[-1]: views.decoders[0](spec.source) for spec in views.plan(0, 1)}
    assert {key for key, pixels in decoded.items() if isinstance(pixels, str)} == {"2", "4"}
    assert decoded["2"] == decoded["4"] == "in_valid_or_test"
    images = pd.DataFrame([measure_look(encoded) for encoded in (shown | copied).values()])
    held_out = pd.DataFrame([measure_look(encoded) for encoded in (shown[2], shown[4])])
    assert find_near_images(images, held_out).tolist() == [n in copied for n in range(6)]


def write_held_out(clean, images: list[bytes]) -> None:
    looks = [measure_look(encoded) for encoded in images]
    rows = {
        "sha256": [hashlib.sha256(encoded).hexdigest() for encoded in images],
        "thumbnail": [None if look.blank else look.thumbnail for look in looks],
    }
    pairs.write_table(clean / "corpus/held_out.parquet", pa.table(rows, schema=pairs.HELD_OUT))


def test_without_the_table_of_what_is_held_out_there_is_no_training(tmp_path) -> None:
    with pytest.raises(UserError, match=r"held_out\.parquet: this table is missing; run the stage"):
        read_banned(tmp_path)


def test_shards_without_a_pair_that_can_be_shown_end_the_training_with_their_names(tmp_path) -> None:
    bad = [*list_broken()[8:16], *list_broken()[18:20]]
    with pytest.raises(UserError, match=r"0\.tar, .*of far can be shown: {.*'unreadable': .*params.yaml: c"):
        list_shown(make_views(write_shard(tmp_path / "0.tar", bad, 4)), 1)
    with pytest.raises(UserError, match=r"1\.tar, .*: {'missing': 1}"):
        list_shown(make_views(write_shard(tmp_path / "1.tar", [("alone.txt", b"a")], 4)), 1)


def test_another_size_or_hash_or_no_shard_at_all_is_named(three, tmp_path) -> None:
    whole = (tmp_path / "1.tar").read_bytes()
    with pytest.raises(
        UserError, match=rf"1\.tar: {len(whole)} bytes found, {len(whole) + 1} expected; get it again"
    ):
        list(read_shard(three[1] | {"size": len(whole) + 1}))
    changed = whole.replace("红".encode(), "黄".encode(), 1)
    (tmp_path / "1.tar").write_bytes(changed)
    with pytest.raises(UserError, match=rf"1\.tar: sha256 {hashlib.sha256(changed).hexdigest()} found"):
        list_shown(make_views(*three), 1)
    (tmp_path / "1.tar").write_bytes(bytes(100) + whole[100:])
    with pytest.raises(UserError, match=r"1\.tar: no tar from byte"):
        list_shown(make_views(*three), 1)
    (tmp_path / "1.tar").unlink()
    with pytest.raises(UserError, match=r"1\.tar: this shard cannot be opened: FileNotFoundError"):
        list_shown(make_views(*three), 1)
    with pytest.raises(UserError, match=r"nowhere://x/1\.tar: this shard cannot be opened: .*nowhere"):
        list_shown(make_views(three[1] | {"address": "nowhere://x/1.tar"}), 1)
    with pytest.raises(UserError, match=r"dropbox://1\.tar: .*: ImportError: .*; for s3:// install"):
        list_shown(make_views(three[1] | {"address": "dropbox://1.tar"}), 1)


def test_a_shard_is_read_from_a_web_server(three, tmp_path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        far = [row | {"address": f"{address}/{n}.tar"} for n, row in enumerate(three)]
        assert list_shown(make_views(*far), 1) == list_shown(make_views(*three), 1)
        with pytest.raises(UserError, match=rf"{address}/9\.tar: this shard cannot be opened: FileNotFoundError"):
            list(read_shard(three[0] | {"address": f"{address}/9.tar"}))
        server.shutdown()


def test_pairs_are_shuffled_within_a_block_and_a_resumed_epoch_reads_no_earlier_one(three, monkeypatch) -> None:
    monkeypatch.setattr(streaming, "SHUFFLE_BYTES", max(row["size"] for row in three))  # a shard each
    views = make_views(*three)
    stream = views.plan(0, 1)
    rows = [next(stream) for _ in range(13)]
    state, skipped = views.get_state(), views.count_skipped()
    order = [spec.pair_id for spec in chain(rows, stream)]
    assert len(set(order)) == 24
    assert [len({pair_id.split("/")[0] for pair_id in order[n : n + 8]}) for n in (0, 8, 16)] == [1, 1, 1]
    assert order[:8] != sorted(order[:8])
    opened = []
    monkeypatch.setattr(
        blocks, "read_shard", lambda row, copy: opened.append(row["sha256"]) or read_shard(row, copy=copy)
    )
    resumed = make_views(*three)
    resumed.set_state(state)
    assert [spec.pair_id for spec in resumed.plan(0, 1, skip=13)] == order[13:]
    assert opened == [order[8].split("/")[0], order[16].split("/")[0]]
    assert resumed.count_skipped() == skipped
    assert [spec.pair_id for spec in make_views(*three).plan(0, 1, skip=13)] == order[13:]  # without the state too


@pytest.mark.parametrize("ranks", [2, 5])
def test_processes_read_parts_of_their_own_and_show_all_pairs(ranks, three) -> None:
    shares = [ProcessShare(rank, ranks) for rank in range(ranks)]
    parts = [[spec.pair_id for spec in make_views(*three).plan(0, 2, share=share)] for share in shares]
    assert {len(part) for part in parts} == {-(-24 // ranks)}  # none waits for another, a pair may stand twice
    assert len({pair_id for part in parts for pair_id in part}) == 24
    again = [spec.pair_id for spec in make_views(*three).plan(0, 2, share=ProcessShare(1, ranks))]
    assert again == parts[1]


def test_each_lap_shows_another_caption_of_an_image_and_none_is_mirrored_against_its_words(tmp_path) -> None:
    captions = ["一只小狗", "画面左边的小狗", ""]
    row = write_shard(
        tmp_path / "0.tar", [("a.png", drawn(3)), ("a.json", json.dumps({"caption": captions}).encode())], 1
    )
    views = make_views(row)
    assert [item.caption for epoch in range(1, 5) for item in decode_all(views, 0, epoch)] == captions[:2] * 2
    still = {"rotate_degrees": 0.0, "zoom": [1.0, 1.0], "crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0]}
    policy = POLICY.model_copy(update=still | {"colour": 0.0, "grey": 0.0, "outline": 0.0})
    kept = StreamedViews([row], Viewer(policy, SIZE_PX, 0), LIMITS, weight=20.0, banned=Banned())
    assert len({item.pixels.tobytes() for item in decode_all(kept, 0, 1)}) == 1  # a mirrored one would differ
