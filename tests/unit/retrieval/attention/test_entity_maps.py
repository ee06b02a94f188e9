"""Maps of words, of a re-ranker with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.reranker import CAPTIONS, VOCABULARY, make_reranker, make_sides, write_small_reranker
from tests.support.small_model import write_small_model
from tuwen.core.errors import UserError
from tuwen.data.formats.images import make_pixel_tensor
from tuwen.data.formats.text import make_tokenizer, tokenize
from tuwen.model.attention_map import map_attention
from tuwen.retrieval.attention.entity_maps import AttentionReader, load_attention_reader, map_entities


def make_random_reader(simplify: bool = False) -> AttentionReader:
    tokenizer = make_tokenizer(VOCABULARY, simplify)
    return AttentionReader(make_reranker("both"), tokenizer, "")


def test_the_map_of_a_word_is_the_mean_of_its_tokens() -> None:
    reader, sides = make_random_reader(), make_sides(1)
    square, caption = sides.decode(0), "大熊猫吃竹子"
    read = map_entities(reader, square, caption)
    dual, cross = reader.reranker
    ids, mask = tokenize(reader.tokenizer, [caption], 12)
    with torch.no_grad():
        _, image_1PW = dual.encode_image_tokens(make_pixel_tensor([square]))
        _, text_1LW = dual.encode_text_tokens(ids, mask)
        assert read.match == pytest.approx(cross.score_pairs(image_1PW, text_1LW, mask).item(), abs=1e-6)
    of_tokens = map_attention(cross, image_1PW[0], text_1LW[0]).numpy()  # [CLS] 大 熊 猫 吃 竹 子 [SEP]
    for one, word, rows in zip(read.maps, ("大熊猫", "竹子"), ([1, 2, 3], [5, 6]), strict=True):
        assert one.word == word
        expected = of_tokens[rows].mean(0)
        np.testing.assert_allclose(one.patches, expected / expected.sum(), rtol=1e-4)


def test_words_are_those_that_the_model_reads() -> None:
    square = make_sides(1).decode(0)
    words = [one.word for one in map_entities(make_random_reader(simplify=True), square, "大熊貓吃竹子").maps]
    assert words == ["大熊猫", "竹子"]
    long = "大熊猫吃吃吃吃吃吃吃吃吃竹子"  # of 12 tokens, both ends are two
    assert [one.word for one in map_entities(make_random_reader(), square, long).maps] == ["大熊猫"]
    assert map_entities(make_random_reader(), square, "").maps == []


def test_the_number_of_threads_changes_no_bit() -> None:
    reader, sides = make_random_reader(), make_sides(1)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(map_entities(reader, sides.decode(0), CAPTIONS[0]))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert found[0].match == found[1].match
    assert len(found[0].maps) > 1
    for one, other in zip(found[0].maps, found[1].maps, strict=True):
        assert np.array_equal(one.patches, other.patches)


def test_a_folder_is_read_with_the_reason_why_it_has_no_maps(tmp_path: Path) -> None:
    folder = write_small_model(tmp_path / "reranked")
    with pytest.raises(UserError, match="it holds no re-ranker"):
        load_attention_reader(folder)
    for layers, reason in ((1, "a map needs a re-ranker of two layers or more"), (2, "")):
        reader = load_attention_reader(write_small_reranker(folder, layers))
        assert (reader.picture_rule.size_px, reader.reason[: len(reason)]) == (16, reason)
        assert bool(reader.reason) == (layers == 1)
    assert map_entities(reader, make_sides(1).decode(0), "海边的日落").maps[0].word == "海边"
