"""The tokenizer of a published model comes back from its files, and captions are cleaned as its own were."""

from pathlib import Path

import pytest

from tests.support.library_models import CAPTIONS, make_gemma_tokenizer
from tuwen.data.formats.json_file import write_json
from tuwen.data.formats.text import load_tokenizer, simplify_for, tokenize
from tuwen.data.formats.tokens import library_tokenizer
from tuwen.data.formats.tokens.token_stats import measure_tokens


def write_tokenizer(folder: Path, **rule: object) -> Path:
    files = library_tokenizer.collect_tokenizer_files(make_gemma_tokenizer())
    library_tokenizer.write_tokenizer_files(files, folder / library_tokenizer.TOKENIZER_FOLDER)
    write_json(folder / "preprocessor.json", {"text": {"padding": "longest", **rule}})
    return folder / "vocab.txt"  # which such a model has not


def test_files_bring_the_same_tokens_and_bytes_back(tmp_path: Path) -> None:
    theirs, ours = make_gemma_tokenizer(), load_tokenizer(write_tokenizer(tmp_path))
    assert [ours(caption)["input_ids"] for caption in CAPTIONS] == [theirs(one)["input_ids"] for one in CAPTIONS]
    again = library_tokenizer.read_tokenizer_files(tmp_path / library_tokenizer.TOKENIZER_FOLDER)
    assert again == library_tokenizer.collect_tokenizer_files(theirs)


def test_a_text_is_padded_to_the_longest_or_to_the_models_length_without_a_mask(tmp_path: Path) -> None:
    ids, mask = tokenize(load_tokenizer(write_tokenizer(tmp_path)), ["熊猫", "一只大熊猫"], 16)
    assert ids.shape == mask.shape
    assert ids.shape[1] < 16
    assert mask.sum(1).tolist() == [(ids[0] != 0).sum().item(), ids.shape[1]]
    fixed = load_tokenizer(write_tokenizer(tmp_path, padding="max_length"))
    ids, mask = tokenize(fixed, ["熊猫", "一只大熊猫"], 16)
    assert ids.shape == (2, 16)
    assert bool(mask.all())


def test_captions_are_simplified_first_and_cleaned_then(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, simplify=True, clean="canonicalize"))
    assert simplify_for(tokenizer, ["龍貓 iPhone, 公仔！"]) == ["龙猫 iphone 公仔"]
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, clean="str.lower"))
    assert simplify_for(tokenizer, ["龍貓 iPhone"]) == ["龍貓 iphone"]


def test_what_is_cut_is_measured_of_any_tokenizer(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path))
    measured = measure_tokens(tokenizer, CAPTIONS, 16)
    assert measured["cut_share"] == pytest.approx(
        sum(len(tokenizer(one)["input_ids"]) > 16 for one in CAPTIONS) / 5
    )
    assert measured["cut_share"] > 0
