"""Vocabularies of pieces with scores: the likeliest cut, what a smaller vocabulary keeps, special tokens."""

import pickle
from pathlib import Path

import pytest

from tuwen.data.formats.text import SPECIAL_TOKENS, load_tokenizer, locate_tokens, make_tokenizer, tokenize
from tuwen.data.formats.tokens.pieces import has_scores, write_pieces
from tuwen.data.formats.tokens.spelling import list_pieces

SCORES = {"▁": -2.0, "▁大": -5.0, "大": -4.0, "熊": -6.0, "猫": -6.0, "大熊猫": -9.0, "熊猫": -7.0, "吃": -5.0}
SCORES |= {"竹": -6.0, "子": -5.0, "竹子": -8.0, ",": -3.0, "a": -4.0}
LINES = write_pieces(SPECIAL_TOKENS, SCORES)


def cut(lines: list[str], caption: str) -> list[str]:
    """The tokens of a caption, without the first and the last."""
    tokenizer = make_tokenizer(lines)
    ids, _ = tokenize(tokenizer, [caption], 32)
    tokens = list(map(tokenizer.backend_tokenizer.id_to_token, ids[0].tolist()))
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")
    return list(tokens[1:-1])


def test_a_caption_is_cut_in_the_likeliest_way() -> None:
    assert cut(LINES, "大熊猫吃竹子") == ["▁", "大熊猫", "吃", "竹子"]


def test_a_smaller_vocabulary_with_the_pieces_of_a_caption_cuts_it_alike() -> None:
    kept = {piece: score for piece, score in SCORES.items() if piece in ("▁", "大熊猫", "吃", "竹子", "大")}
    assert cut(write_pieces(SPECIAL_TOKENS, kept), "大熊猫吃竹子") == cut(LINES, "大熊猫吃竹子")
    without = {piece: score for piece, score in SCORES.items() if piece != "大熊猫"}
    assert cut(write_pieces(SPECIAL_TOKENS, without), "大熊猫") == ["▁大", "熊猫"]


@pytest.mark.parametrize("written", ["Ａ，大熊猫", " a,  大熊猫 ", "a,\u200b大熊猫"])
def test_captions_are_folded_before_they_are_cut(written: str) -> None:
    assert cut(LINES, written)[:3] == ["▁", "a", ","]


def test_an_unknown_character_is_one_token_and_a_special_one_is_no_piece_of_a_caption() -> None:
    assert cut(LINES, "大象") == ["▁大", "[UNK]"]
    assert "[MASK]" not in cut(LINES, "[MASK]")


def test_a_file_is_read_as_its_lines_are(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    captions = ["大熊猫", "吃竹子"]
    ids, mask = tokenize(load_tokenizer(path), captions, 4)
    wanted, _ = tokenize(make_tokenizer(LINES), captions, 4)
    assert ids.tolist() == wanted.tolist()
    assert mask.sum(1).tolist() == [4, 4]  # cut to max_tokens, the last one included
    assert ids[:, -1].tolist() == [SPECIAL_TOKENS.index("[SEP]")] * 2


def test_a_tokenizer_goes_to_other_processes_and_knows_where_tokens_stand() -> None:
    again = pickle.loads(pickle.dumps(make_tokenizer(LINES)))
    for captions in (["吃竹子"], ["[MASK]"]):
        assert again(captions)["input_ids"] == make_tokenizer(LINES)(captions)["input_ids"]
    assert locate_tokens(make_tokenizer(LINES), "吃竹子", 32)[2:4] == [(0, 1), (1, 3)]


def test_scores_tell_such_a_vocabulary_from_others() -> None:
    assert has_scores(LINES)
    assert not has_scores([*SPECIAL_TOKENS, *list_pieces(["大熊猫"])])
