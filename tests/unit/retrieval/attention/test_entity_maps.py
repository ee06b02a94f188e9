"""Maps of words: of a re-ranker that has learned to tell made pictures apart, and of one with random weights."""

import itertools
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from tests.support.reranker import CAPTIONS, VOCABULARY, make_reranker, make_sides, write_small_reranker
from tests.support.small_model import write_small_model
from tuwen.core.errors import UserError
from tuwen.data.formats.images import Pixels, make_pixel_tensor
from tuwen.data.formats.text import SPECIAL_TOKENS, make_tokenizer, tokenize
from tuwen.model import architectures
from tuwen.model.attention_map import map_attention
from tuwen.model.cross_encoder import CrossEncoder
from tuwen.model.dual_encoder import DualEncoder
from tuwen.model.reranker import ReRanker, make_cross_encoder
from tuwen.retrieval.attention.entity_maps import AttentionReader, load_attention_reader, map_entities

THINGS = {"圆盘": "#dc1e1e", "方块": "#1e3cdc", "菱形": "#f0c814"}
THINGS |= {"星星": "#1ea03c", "月牙": "#8232b4", "圆环": "#f08214"}
NAMES = list(THINGS)
CELLS, CELL_PX, SHOWN = 3, 8, 3  # a picture is 3 × 3 cells, and three of them hold a thing each
PICTURES, STEPS, BATCH, LR = 300, 300, 64, 2e-3


class Made(NamedTuple):
    """A picture on white, and where each of its things stands, by row and column of its cells."""

    square: Pixels
    place: dict[str, tuple[int, int]]


def draw_picture(names: list[str], draw: np.random.Generator) -> Made:
    """Round things are discs of their colour, the others squares."""
    picture = Image.new("RGB", (CELLS * CELL_PX,) * 2, "white")
    pen, place = ImageDraw.Draw(picture), {}
    for name, cell in zip(names, draw.permutation(CELLS**2), strict=False):
        place[name] = row, column = divmod(int(cell), CELLS)
        left, top = column * CELL_PX, row * CELL_PX
        shape = pen.ellipse if name.startswith("圆") else pen.rectangle
        shape((left, top, left + CELL_PX - 1, top + CELL_PX - 1), fill=THINGS[name])
    return Made(np.asarray(picture), place)


def make_towers(tokens: int) -> DualEncoder:
    """Small towers with random weights, whose tokens tell colours and words apart, and not where they stand."""
    image = architectures.make_vit_config(CELLS * CELL_PX, CELL_PX, 64, 1)
    text = architectures.make_bert_config(64, 1, 32, 16)
    dual = DualEncoder({"dim": 16, "image": image, "text": text, "vocabulary": tokens}).eval()
    with torch.no_grad():
        dual.image_tower.position_embedding.zero_()
        dual.text_tower.embeddings.position_embeddings.weight.zero_()
    return dual


def make_word_reader(dual: DualEncoder) -> CrossEncoder:
    """Layers that can learn nothing but word by word: [CLS] has no way around what the words read.

    The first layer reads the picture before any word knows of another, the second one does not read it.
    """
    shape = {"layers": 2, "width": 64, "heads": 1, "mlp": 128, "dropout": 0.0, "image_tokens": None}
    cross = make_cross_encoder(dual, {"fusion": "text_image", **shape})
    cross.text_blocks[0].own.requires_grad_(False)
    cross.text_blocks[1].other.requires_grad_(False)  # whose output is zero at the start
    return cross


@pytest.fixture(scope="module")
def reader() -> AttentionReader:
    """A re-ranker that has learned whether what a caption names, one thing or two, is in a picture of three."""
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    vocabulary = [*SPECIAL_TOKENS, *sorted(set("".join(NAMES)))]
    tokenizer, dual = make_tokenizer(vocabulary), make_towers(len(vocabulary))
    cross = make_word_reader(dual)
    shown = [draw.permutation(NAMES)[:SHOWN].tolist() for _ in range(PICTURES)]
    captions = [words for count in (1, 2) for words in itertools.permutations(NAMES, count)]
    row_of = {words: row for row, words in enumerate(captions)}
    with torch.no_grad():
        squares = [draw_picture(names, draw).square for names in shown]
        _, image_IPW = dual.encode_image_tokens(make_pixel_tensor(squares))
        ids, mask_TL = tokenize(tokenizer, list(map("".join, captions)), 16)
        _, text_TLW = dual.encode_text_tokens(ids, mask_TL)

    def choose_caption(names: list[str], match: int) -> int:
        words = draw.permutation(names)[: draw.integers(1, 3)].tolist()
        if not match:
            words[draw.integers(len(words))] = draw.choice(sorted({*NAMES} - {*names}))
        return row_of[tuple(words)]

    optimizer = torch.optim.AdamW([one for one in cross.parameters() if one.requires_grad], LR)
    match = torch.arange(BATCH) % 2
    for _ in range(STEPS):
        image = draw.integers(0, PICTURES, BATCH)
        text = [choose_caption(shown[i], told) for i, told in zip(image, match.tolist(), strict=True)]
        loss = nn.functional.cross_entropy(cross(image_IPW[image], text_TLW[text], mask_TL[text]).match, match)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(cross.parameters(), 1.0)
        optimizer.step()
    return AttentionReader(ReRanker(dual, cross.eval()), tokenizer, "")


def test_the_map_of_a_word_lies_on_the_thing_that_it_names(reader: AttentionReader) -> None:
    """By chance a ninth of a map lies on any thing, and every ninth map is highest there."""
    draw, chance = np.random.default_rng(1), 1 / CELLS**2
    on_own, highest, on_it_most = defaultdict(list), defaultdict(list), defaultdict(list)
    for _ in range(40):
        third = str(draw.choice(NAMES[2:]))
        made = draw_picture(["圆盘", "方块", third], draw)
        maps = {one.word: one.patches for one in map_entities(reader, made.square, "方块圆盘").maps}
        for word in ("圆盘", "方块"):
            share_of = {name: maps[word][place] for name, place in made.place.items()}
            assert maps[word].sum() == pytest.approx(1, abs=1e-5)
            on_own[word].append(share_of[word])
            highest[word].append(maps[word].max() == share_of[word])
            on_it_most[word].append(max(share_of, key=share_of.__getitem__) == word)
    for word in ("圆盘", "方块"):
        assert np.mean(on_own[word]) > 2 * chance
        assert np.mean(highest[word]) > 2 * chance
        assert np.mean(on_it_most[word]) > 2 / SHOWN  # of the three things, the right one


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
        assert (reader.size_px, reader.reason[: len(reason)]) == (16, reason)
        assert bool(reader.reason) == (layers == 1)
    assert map_entities(reader, make_sides(1).decode(0), "海边的日落").maps[0].word == "海边"
