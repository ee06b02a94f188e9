"""Rows of tokens of any length, on disk and back."""

import numpy as np
import torch

from tuwen.retrieval.token_file import write_token_file


def make_blocks(lengths: list[list[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
    draw = np.random.default_rng(0)
    return [(draw.normal(size=(sum(block), 4)).astype(np.float16), np.array(block, np.int64)) for block in lengths]


def test_rows_come_back_padded_in_any_order_with_their_masks(tmp_path) -> None:
    blocks = make_blocks([[3, 1], [2], [5]])
    file = write_token_file(tmp_path / "texts.f16", 4, iter(blocks))
    assert (tmp_path / "texts.f16").stat().st_size == 11 * 4 * 2
    assert isinstance(file.tokens, np.memmap)
    whole = np.concatenate([tokens for tokens, _ in blocks])
    tokens, mask = file.read(np.array([2, 0, 2, 1]))
    assert tokens.dtype == torch.float16
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]]
    expected = np.zeros((4, 3, 4), np.float16)
    expected[[0, 2], :2], expected[1], expected[3, 0] = whole[4:6], whole[:3], whole[3]
    np.testing.assert_array_equal(tokens.numpy(), expected)


def test_the_file_does_not_depend_on_the_blocks(tmp_path) -> None:
    tokens, lengths = make_blocks([[3, 1, 2]])[0]
    parts = [(tokens[:4], lengths[:2]), (tokens[4:], lengths[2:])]
    whole = write_token_file(tmp_path / "a", 4, [(tokens, lengths)])
    apart = write_token_file(tmp_path / "b", 4, parts)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert whole.start.tolist() == apart.start.tolist() == [0, 3, 4, 6]


def test_no_rows_are_no_file_to_map(tmp_path) -> None:
    file = write_token_file(tmp_path / "none", 4, [])
    assert file.tokens.shape == (0, 4)
    assert file.start.tolist() == [0]
