"""Rows of tokens of any length, on disk and back."""

import signal
import subprocess
import sys

import numpy as np
import torch

from tests.support.checkout import ROOT
from tuwen.retrieval.token_file import write_token_file


def make_blocks(lengths: list[list[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
    draw = np.random.default_rng(0)
    return [(draw.normal(size=(sum(block), 4)).astype(np.float16), np.array(block, np.int64)) for block in lengths]


def test_rows_come_back_padded_in_any_order_with_their_masks(tmp_path) -> None:
    blocks = make_blocks([[3, 1], [2], [5]])
    file = write_token_file(tmp_path, 4, iter(blocks))
    assert file.tokens.shape == (11, 4)
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
    whole, apart = (write_token_file(tmp_path, 4, blocks) for blocks in ([(tokens, lengths)], parts))
    np.testing.assert_array_equal(whole.tokens, tokens)
    np.testing.assert_array_equal(apart.tokens, tokens)
    assert whole.start.tolist() == apart.start.tolist() == [0, 3, 4, 6]


def test_no_rows_are_no_file_to_map(tmp_path) -> None:
    file = write_token_file(tmp_path, 4, [])
    assert file.tokens.shape == (0, 4)
    assert file.start.tolist() == [0]


def test_a_process_that_is_killed_while_it_writes_leaves_no_file(tmp_path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
import numpy as np
from tuwen.retrieval.token_file import write_token_file

def blocks():
    yield np.zeros((1_000_000, 4), np.float16), np.array([1_000_000])
    os.kill(os.getpid(), signal.SIGKILL)

write_token_file(Path(sys.argv[1]), 4, blocks())
"""
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []
