import pytest
import torch

from tuwen.training.negatives.vector_queue import VectorQueue


@pytest.mark.parametrize("sizes", [[3, 3, 3], [5, 2, 4, 1], [20], [7, 7, 7], [1] * 15])
def test_a_ring_of_any_size_holds_the_last_pairs_of_batches_of_any_size(sizes: list[int]) -> None:
    queue, all_ids, start = VectorQueue(7, 2, 3), [], 0
    for size in sizes:
        ids = torch.arange(start, start + size)
        queue.put(
            ids[:, None].float().expand(-1, 2), -ids[:, None].float().expand(-1, 2), torch.stack([ids] * 2, 1)
        )
        start += size
        all_ids += ids.tolist()
    read = queue.read()
    last = all_ids[-7:]
    assert sorted(read.ids[:, 0].tolist()) == last
    assert torch.equal(read.image[:, 0], read.ids[:, 0].float())
    assert torch.equal(read.text, -read.image)
    for number, weight in zip(read.ids[:, 0].tolist(), read.weight.tolist(), strict=True):
        assert weight == pytest.approx(0.5 ** ((start - 1 - number) / 3))


def test_the_queue_is_worth_as_much_at_any_batch_size() -> None:
    worth = []
    for size in (2, 8, 64):
        queue = VectorQueue(500, 1, 32)
        for first in range(0, 512, size):
            ids = torch.arange(first, first + size)
            queue.put(ids[:, None].float(), ids[:, None].float(), torch.stack([ids] * 2, 1))
        worth.append(queue.read().weight.sum().item())
    assert worth[0] == pytest.approx(worth[1]) == pytest.approx(worth[2])
    assert worth[0] == pytest.approx(1 / (1 - 0.5 ** (1 / 32)), rel=1e-3)
