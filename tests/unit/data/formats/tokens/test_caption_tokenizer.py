"""Our tokenizer against transformers': the same ids and masks, and the same file for other programs."""

import json
from typing import Any

import pytest

from tests.support.weights import CAPTIONS, VOCABULARY
from tuwen.data.formats.text import SPECIAL_TOKENS, build_vocabulary, load_tokenizer, make_tokenizer
from tuwen.data.formats.tokens.pieces import make_piece_tokenizer, write_pieces

SAID = [*CAPTIONS, "[MASK]猫[SEP]", "一\u2028二\u0000三", "ＡＢＣ é 龘\U00030ede"]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"padding": "longest", "truncation": True, "max_length": 12},
    {"padding": "max_length", "truncation": True, "max_length": 30},
]
SCORES = {"▁": -2.0, "大": -4.0, "熊": -6.0, "猫": -6.0, "▁大熊猫": -9.0, "竹": -6.0, "子": -5.0, ",": -3.0}


@pytest.mark.parametrize("options", OPTIONS)
def test_ids_and_mask_are_those_of_a_bert_tokenizer(options: dict[str, Any]) -> None:
    from transformers import BertTokenizer

    theirs = BertTokenizer(vocab=str(VOCABULARY), do_lower_case=True)
    theirs.split_special_tokens = True
    plain = [caption.replace("“", '"').replace("”", '"') for caption in SAID]
    lines = VOCABULARY.read_text(encoding="utf-8").split("\n")[:-1]
    for ours in (load_tokenizer(VOCABULARY), make_tokenizer(lines)):
        own, wanted = ours(SAID, **options, return_attention_mask=True), theirs(plain, **options)
        assert own["input_ids"] == wanted["input_ids"]
        assert own["attention_mask"] == wanted["attention_mask"]
    assert (ours.pad_token_id, ours.unk_token_id) == (theirs.pad_token_id, theirs.unk_token_id)


def test_pieces_are_cut_as_transformers_cuts_them() -> None:
    from transformers import PreTrainedTokenizerFast

    lines = write_pieces(SPECIAL_TOKENS, SCORES)
    kinds = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    names = dict(zip(kinds, SPECIAL_TOKENS, strict=True))
    theirs = PreTrainedTokenizerFast(tokenizer_object=make_piece_tokenizer(lines, SPECIAL_TOKENS), **names)
    theirs.split_special_tokens = True
    ours = make_tokenizer(lines)
    for options in OPTIONS:
        assert ours(SAID, **options)["input_ids"] == theirs(SAID, **options)["input_ids"]
    own, wanted = (json.loads(one.backend_tokenizer.to_str()) for one in (make_tokenizer(lines), theirs))
    assert (own["added_tokens"], own["model"]) == (wanted["added_tokens"], wanted["model"])


def test_another_call_is_not_cut_or_padded_by_the_one_before() -> None:
    tokenizer = make_tokenizer(build_vocabulary(CAPTIONS))
    whole = tokenizer(CAPTIONS)["input_ids"]
    cut = tokenizer(CAPTIONS, padding="max_length", truncation=True, max_length=9)["input_ids"]
    assert {len(ids) for ids in cut} == {9}
    assert tokenizer(CAPTIONS)["input_ids"] == whole
    assert len({len(ids) for ids in whole}) > 3
