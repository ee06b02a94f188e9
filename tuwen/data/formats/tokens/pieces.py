"""How a vocabulary of SentencePiece's pieces spells a caption: the likeliest way to cut it (Kudo 2018).

Its vocab.txt holds the special tokens, then `piece<TAB>score` a line, as SentencePiece writes its own .vocab, so
it says of itself how captions become tokens. It may be cut to the pieces that some captions need: these are then
cut as before, since the likeliest way is still there.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tuwen.data.formats.tokens import spelling

WORD_START = "\u2581"  # before every word
SCORE_MARK = "\t"


def has_scores(tokens: Iterable[str]) -> bool:
    """Whether a vocabulary is one of pieces with scores."""
    return any(SCORE_MARK in token for token in tokens)


def write_pieces(special: Sequence[str], scores: Mapping[str, float]) -> list[str]:
    """Return the lines of a vocab.txt; scores: piece -> score."""
    return [*special, *(f"{piece}{SCORE_MARK}{score!r}" for piece, score in scores.items())]


def make_piece_tokenizer(lines: Sequence[str], special: Sequence[str]) -> Any:
    """Return a tokenizers.Tokenizer over the lines of a vocab.txt.

    special: the lines without a score, for padding, unknown pieces, beginning, end and mask.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    _, unknown, first, last, _ = special
    parts = (line.partition(SCORE_MARK) for line in lines)
    # 0 as SentencePiece has it: what is read is lower case, so that no special token is a piece of a caption
    scored = [(piece, float(score or 0)) for piece, _, score in parts]
    rust = Tokenizer(models.Unigram(scored, unk_id=lines.index(unknown)))
    rust.normalizer = make_piece_folding()
    rust.pre_tokenizer = pre_tokenizers.Metaspace(replacement=WORD_START, prepend_scheme="always")
    rust.post_processor = spelling.make_ends(first, last, rust)
    return rust


def make_piece_folding() -> Any:
    """Return the normaliser before the pieces: that of a fresh vocabulary, without blanks that part nothing."""
    from tokenizers import Regex, normalizers

    blanks = [normalizers.Replace(Regex(" +"), " "), normalizers.Strip()]
    return normalizers.Sequence([*spelling.make_character_folding(), *blanks])
