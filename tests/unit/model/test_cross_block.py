"""One block, against a layer of our BERT, which text_towers/test_bert.py compares with transformers' own."""

import pytest
import torch

from tests.support.weights import stir
from tuwen.model.cross_block import CrossBlock, copy_bert_layer
from tuwen.model.towers import make_text_tower

WIDTH, HEADS, MLP, OTHER = 128, 2, 192, 64


@pytest.fixture
def tower() -> torch.nn.Module:
    torch.manual_seed(0)
    config = {"width": WIDTH, "layers": 2, "heads": HEADS, "mlp": MLP, "dropout": 0.1, "max_tokens": 12}
    return stir(make_text_tower(config, 20))


def make_block(other_width: int | None = OTHER) -> CrossBlock:
    torch.manual_seed(1)
    return CrossBlock(WIDTH, HEADS, MLP, 0.1, other_width).eval()


def test_without_another_stream_a_block_is_a_layer_of_a_bert(tower) -> None:
    block = make_block(None)
    copy_bert_layer(block, tower.encoder.layer[1])
    x, mask = torch.randn(3, 7, WIDTH), torch.ones(3, 7, dtype=torch.long)
    mask[1, 4:] = 0
    hidden = []
    tower.encoder.layer[1].register_forward_pre_hook(lambda layer, given: hidden.append(given[0]))
    out = tower(None, mask.bool()[:, None, None], x)
    found = block(hidden[0], mask, None)
    torch.testing.assert_close(found[mask.bool()], out[mask.bool()], atol=1e-5, rtol=0)


def test_a_fresh_cross_attention_adds_nothing(tower) -> None:
    block = make_block()
    copy_bert_layer(block, tower.encoder.layer[0])
    x, mask = torch.randn(2, 5, WIDTH), torch.ones(2, 5, dtype=torch.long)
    first, second = (block(x, mask, block.other.read(torch.randn(2, 9, OTHER))) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(block.other.norm.weight, tower.encoder.layer[0].attention.output.LayerNorm.weight)
    second.sum().backward()
    assert block.other.out.weight.grad.abs().sum() > 0  # it can begin to learn


def test_the_first_position_alone_is_the_first_of_all() -> None:
    block = stir(make_block())
    x, mask = torch.randn(2, 5, WIDTH), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    memory = block.other.read(torch.randn(2, 9, OTHER))
    alone = block(x, mask, memory, first_alone=True)
    assert alone.shape == (2, 1, WIDTH)
    torch.testing.assert_close(alone, block(x, mask, memory)[:, :1], atol=1e-5, rtol=0)


def test_what_does_not_count_is_not_read() -> None:
    block = stir(make_block())
    x, other = torch.randn(1, 5, WIDTH), torch.randn(1, 9, OTHER)
    mask, other_mask = torch.tensor([[1, 1, 1, 0, 0]]), torch.tensor([[1] * 6 + [0] * 3])
    padded = block(x, mask, block.other.read(other, other_mask))[:, :3]
    torch.testing.assert_close(padded, block(x[:, :3], None, block.other.read(other[:, :6])), atol=1e-5, rtol=0)


def test_a_memory_is_picked_row_by_row() -> None:
    block = stir(make_block())
    other, mask, rows = torch.randn(3, 9, OTHER), torch.ones(3, 9), torch.tensor([2, 0, 2])
    memory, picked = block.other.read(other[rows], mask[rows]), block.other.read(other, mask).pick(rows)
    for one, another in zip(memory, picked, strict=True):
        torch.testing.assert_close(one.float(), another.float(), atol=1e-6, rtol=0)


def test_dropout_is_of_training_alone() -> None:
    block = stir(make_block())
    x, memory = torch.randn(2, 5, WIDTH), block.other.read(torch.randn(2, 9, OTHER))
    assert torch.equal(block(x, None, memory), block(x, None, memory))
    block.train()
    assert not torch.equal(block(x, None, memory), block(x, None, memory))


def test_the_weights_written_out_are_those_of_the_sums() -> None:
    block = stir(make_block()).double()  # in float32 kernels of processors differ by 1e-6
    x, other = torch.randn(2, 5, WIDTH).double(), torch.randn(2, 9, OTHER).double()
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
    attention, memory = block.other, block.other.read(other, mask)
    weights = attention.weigh(x, memory)
    assert weights.shape == (2, HEADS, 5, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS, 5).double())
    assert not weights[1, :, :, 6:].any()
    summed = (weights @ memory.value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(
        attention.norm(x + attention.out(summed)), attention(x, memory), atol=1e-12, rtol=1e-12
    )
