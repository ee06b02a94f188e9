"""Shards dealt by their list: nothing is lost or read twice, parts are equal; 200 million pairs too."""

from collections import Counter
from itertools import islice

import pytest

from tuwen.training.streams.dealing import Span, group_blocks, list_spans, split_window

LISTED = [
    {"address": f"{n}.tar", "pairs": pairs, "size": 1000 * pairs} for n, pairs in enumerate((7, 1, 12, 4, 9))
]


def list_places(spans) -> list[tuple[str, int]]:
    """Return the samples of all spans, as if each shard had as many as are listed."""
    return [(span.shard["address"], span.first + n) for span in spans for n in range(span.pairs)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("window", [range(33), range(33, 66), range(16, 33), range(20, 101)])
def test_every_pair_of_a_window_has_one_reader(ranks, window) -> None:
    parts = [split_window(window, rank, ranks) for rank in range(ranks)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    dealt = [place for part in parts for place in list_places(list_spans(LISTED, 0, part.start, part.stop))]
    assert dealt == list_places(list_spans(LISTED, 0, window.start, window.stop))
    assert len(dealt) == len(window)
    laps = -(-window.stop // 33) - window.start // 33
    assert max(Counter(dealt).values()) <= laps


def test_each_lap_shows_all_pairs_in_an_order_of_its_own_and_to_the_end_of_each_shard() -> None:
    laps = [list(list_spans(LISTED, 0, 33 * lap, 33 * lap + 33)) for lap in range(3)]
    assert all(sorted(list_places(spans)) == sorted(list_places(laps[0])) for spans in laps)
    assert len({tuple(span.shard["address"] for span in spans) for spans in laps}) == 3
    assert all(span.last is None for spans in laps for span in spans)
    assert list_places(islice(list_spans(LISTED, 0, 30), 9))[:36] == [
        place for start, stop in ((30, 33), (33, 66)) for place in list_places(list_spans(LISTED, 0, start, stop))
    ]


@pytest.mark.parametrize("max_bytes", [500, 3000, 8500, 10**6])
def test_a_block_holds_no_more_than_its_bytes_and_none_is_missing(max_bytes) -> None:
    spans = list(list_spans(LISTED, 1, 3, 30))
    blocks = list(group_blocks(spans, max_bytes))
    assert [place for block in blocks for place in list_places(block)] == list_places(spans)
    assert all(sum(span.bytes for span in block) <= max(1000, max_bytes) for block in blocks)
    ends = {span.shard["address"]: span.last for block in blocks for span in block}
    assert ends == {span.shard["address"]: span.last for span in spans}


def test_200_million_pairs_are_dealt_to_64_processes() -> None:
    listed = [{"address": f"{n:05d}.tar", "pairs": 3700 + n % 293, "size": 480_000_000} for n in range(52_000)]
    total, ranks = sum(row["pairs"] for row in listed), 64
    assert total > 199_000_000
    parts = [split_window(range(total), rank, ranks) for rank in range(ranks)]
    assert max(map(len, parts)) <= 1.01 * min(map(len, parts))
    read = Counter[str]()
    opened = 0
    for part in parts:
        spans = list(list_spans(listed, 5, part.start, part.stop))
        assert sum(span.pairs for span in spans) == len(part)
        opened += len(spans)
        read.update({span.shard["address"]: span.pairs for span in spans})
    assert read == {row["address"]: row["pairs"] for row in listed}  # no pair twice: the parts follow each other
    assert opened <= len(listed) + ranks
    middle = parts[40][len(parts[40]) // 2]  # a resumed process begins in the middle of its part
    (first, *_) = again = list(list_spans(listed, 5, middle, parts[40].stop))
    whole = list(list_spans(listed, 5, parts[40].start, parts[40].stop))
    assert first == Span(first.shard, 0, first.first, first.last)
    assert list_places(again[1:]) == list_places(whole[1 - len(again) :])
    assert first.shard == whole[-len(again)].shard
