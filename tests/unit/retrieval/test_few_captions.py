"""Few captions are shared by the cores; each has the vector that it has alone."""

from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.small_model import CONFIG, write_small_model
from tuwen.retrieval.encode import embed_captions
from tuwen.retrieval.few_captions import embed_few_captions, split_by_work
from tuwen.retrieval.retriever import load_retriever

CAPTIONS = ["猫", "海边的日落,海边的日落", "", "大熊猫", "一只橘猫趴在窗台上", "雨", "街道"]


@pytest.mark.parametrize("workers", ["1", "2", "3", "16"])
def test_each_caption_has_the_vector_that_it_has_alone_whatever_the_number_of_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("TUWEN_WORKERS", workers)
    retriever = load_retriever(write_small_model(tmp_path / "model"))
    found = embed_few_captions(retriever.model, retriever.tokenizer, CAPTIONS)
    alone = embed_captions(retriever.model, retriever.tokenizer, CAPTIONS, 1)
    np.testing.assert_allclose(found, alone, atol=1e-6)
    assert np.linalg.norm(found - found[0], axis=1).argmin() == 0
    assert embed_few_captions(retriever.model, retriever.tokenizer, []).shape == (0, CONFIG["dim"])


@given(st.lists(st.integers(1, 20), min_size=1, max_size=8), st.integers(1, 4))
def test_the_largest_run_is_as_small_as_any_cut_can_make_it(lengths: list[int], parts: int) -> None:
    lengths.sort(reverse=True)

    def weigh(sizes: list[int]) -> int:
        starts = np.cumsum([0, *sizes])[:-1]
        return max(lengths[start] * size for start, size in zip(starts, sizes, strict=True))

    sizes = split_by_work(lengths, parts)
    assert sum(sizes) == len(lengths)
    assert min(sizes) > 0
    assert len(sizes) <= parts
    places = range(1, len(lengths))
    cuts = (cut for count in range(parts) for cut in combinations(places, count))
    assert weigh(sizes) == min(weigh([b - a for a, b in pairwise((0, *cut, len(lengths)))]) for cut in cuts)
