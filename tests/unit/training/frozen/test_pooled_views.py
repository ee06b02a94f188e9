"""What frozen towers make of views: the same as in a plain batch, and once for each view."""

import pytest
import torch

from tests.support.frozen import ROWS, VOCABULARY, KeyedViews, frozen_fit, make_encoder
from tuwen.data.formats.text import make_tokenizer
from tuwen.training.frozen import pooled_views
from tuwen.training.frozen.pooled_views import PooledBatch, PooledViews
from tuwen.training.loader import load_batches

TOKENIZER = make_tokenizer(VOCABULARY)


def make_views(**changes: object) -> tuple[PooledViews, KeyedViews]:
    views = KeyedViews()
    return PooledViews(views, make_encoder(), TOKENIZER, frozen_fit(**changes)), views


def assert_same_bits(one: list[PooledBatch], other: list[PooledBatch]) -> None:
    assert len(one) == len(other) > 0
    for left, right in zip(one, other, strict=True):
        assert left.pair_ids == right.pair_ids
        assert all(torch.equal(a, b) for a, b in zip(left[:4], right[:4], strict=True))


@torch.no_grad()
def test_its_batches_are_those_of_the_loader_as_the_towers_pool_them() -> None:
    pooled, _ = make_views()
    encoder = make_encoder().eval()
    plain = list(load_batches(KeyedViews(), TOKENIZER, max_tokens=12, batch_size=8, seed=3, epoch=2))
    for one, batch in zip(pooled.load_batches(seed=3, epoch=2), plain, strict=True):
        assert one.pair_ids == batch.pair_ids
        assert torch.equal(one.positive_id, batch.positive_id)
        assert torch.equal(one.caption_id, batch.caption_id)
        near = {"atol": 1e-5, "rtol": 0}
        torch.testing.assert_close(encoder.project_image(one.image), encoder.encode_image(batch.pixels), **near)
        texts = encoder.encode_text(batch.ids, batch.mask)
        torch.testing.assert_close(encoder.project_text(one.text), texts, **near)
        assert one.image.std(0).mean() > 0.01


def test_a_view_is_decoded_once_for_all_epochs() -> None:
    pooled, views = make_views()
    for epoch in (1, 2, 3):
        assert len(list(pooled.load_batches(seed=0, epoch=epoch))) == 3
    assert views.decoded == dict.fromkeys(range(ROWS), 1)


def test_what_is_not_kept_is_computed_anew_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, _ = make_views()
    wanted = [list(kept.load_batches(seed=0, epoch=epoch)) for epoch in (1, 2)]
    monkeypatch.setattr(pooled_views, "POOLED_BYTES", 5 * 64 * 4)  # of five views
    monkeypatch.setattr(pooled_views, "POOLED_AHEAD", 8)  # one batch
    small, views = make_views()
    for epoch, batches in enumerate(wanted, 1):
        assert_same_bits(list(small.load_batches(seed=0, epoch=epoch)), batches)
    assert views.decoded.total() == ROWS + ROWS - 5


def test_an_epoch_may_begin_at_any_step() -> None:
    whole = list(make_views()[0].load_batches(seed=0, epoch=2))
    assert_same_bits(list(make_views()[0].load_batches(seed=0, epoch=2, first_step=2)), whole[2:])


def test_the_shares_of_two_processes_are_the_batches_of_one() -> None:
    whole = list(make_views()[0].load_batches(seed=0, epoch=1))
    shares = [list(make_views()[0].load_batches(seed=0, epoch=1, rank=rank, ranks=2)) for rank in (0, 1)]
    joined = [
        PooledBatch(*(torch.cat(columns) for columns in zip(*(share[:4] for share in parts), strict=True)), names)
        for parts in zip(*shares, strict=True)
        for names in [parts[0].pair_ids + parts[1].pair_ids]
    ]
    assert_same_bits(joined, whole)
