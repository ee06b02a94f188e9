"""How a fresh vocabulary spells any caption: folded, character by character, what it does not hold in UTF-8 bytes.

A vocabulary that holds all of BYTES is read in this way, so a vocab.txt says of itself how captions become tokens.
Published vocabularies do not hold them and are read as they were trained.
"""

import functools
import string
from collections.abc import Iterable, Sequence
from typing import Any

from tuwen.core.errors import UserError

# Characters that nobody sees and that steer nothing but how a line is drawn: soft hyphen, zero-width and
# bidirectional controls, variation selectors. Not U+E0020 to U+E007F, which tell the flags of regions apart.
ZERO_WIDTH = "\u00ad\u115f\u1160\u180b-\u180e\u200b\u200c\u2060-\u2065\u3164\ufeff\uffa0"
BIDI_CONTROLS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"
JOINERS = "\u200d\ufe00-\ufe0f"  # with the variation selectors: parts of some emoji
UNSEEN_CHARACTERS = f"[{ZERO_WIDTH}{BIDI_CONTROLS}{JOINERS}]"
CONTROL_CHARACTERS = r"[\p{Cc}\p{Zl}\p{Zp}]"
QUOTES = "[“”„‟]"
# All bytes of UTF-8 that ASCII has not; ASCII itself is in every fresh vocabulary.
BYTES = tuple(f"<0x{byte:02X}>" for byte in (*range(0x80, 0xC0), *range(0xC2, 0xF5)))
GOES_ON = "##"  # before a character that is not the first of its word
ASCII = "".join(sorted({*string.ascii_lowercase, *string.digits, *string.punctuation}))


def list_pieces(captions: Iterable[str]) -> list[str]:
    """Return the tokens that spell `captions`, and any other text by BYTES; the special ones are not among them.

    Every character of the captions as `make_folding` leaves it, and of ASCII; `##c` too for each that can stand
    within a word, as Chinese characters and punctuation never do.
    """
    fold = make_folding().normalize_str
    letters = {*ASCII}.union(*map(fold, captions))
    characters = sorted(c for c in letters if not c.isspace())
    return [*BYTES, *characters, *(f"{GOES_ON}{c}" for c in characters if _stands_within_words(c))]


@functools.cache
def make_folding() -> Any:
    """Return the normaliser before a fresh vocabulary: a tokenizers.normalizers.Normalizer.

    NFKC, which makes full-width characters half-width, lower case, no character that nobody sees, blanks for
    control characters, one kind of double quotes. Accents stay: without theirs, ガラス and カラス would be equal.
    """
    from tokenizers import normalizers

    # for the blanks around Chinese characters alone: its clean_text drops what Unicode 14 did not know
    blanks = normalizers.BertNormalizer(clean_text=False, strip_accents=False, lowercase=False)
    return normalizers.Sequence([*make_character_folding(), blanks])


def make_character_folding() -> list[Any]:
    """Return the steps of `make_folding` that replace characters, and no blanks between them."""
    from tokenizers import Regex, normalizers

    return [
        normalizers.NFKC(),
        normalizers.Replace(Regex(CONTROL_CHARACTERS), " "),
        normalizers.Replace(Regex(UNSEEN_CHARACTERS), ""),
        normalizers.Replace(Regex(QUOTES), '"'),
        normalizers.Lowercase(),
    ]


def has_bytes(tokens: Iterable[str]) -> bool:
    """Whether a vocabulary is one of `list_pieces`."""
    return {*BYTES} <= {*tokens}


def make_word_tokenizer(lines: Sequence[str], special: Sequence[str]) -> Any:
    """Return a tokenizers.Tokenizer over a vocabulary of `list_pieces`, or else over a published one, as BERT's.

    special: as in pieces.py; a published vocabulary may lack some.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    # a line end of Unicode is a token of published vocabularies, and blank to their readers
    tokens = {token.rstrip(): number for number, token in enumerate(lines)}
    _, unknown, first, last, _ = special
    rust = Tokenizer(models.WordPiece(tokens, unk_token=unknown))
    if has_bytes(tokens):
        _set_spelling(rust, unknown)
    else:
        marks = [normalizers.Replace(mark, '"') for mark in "“”" if mark not in tokens]
        rust.normalizer = normalizers.Sequence([*marks, normalizers.BertNormalizer()])
        rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rust.post_processor, rust.decoder = make_ends(first, last, rust), decoders.WordPiece()
    return rust


def make_ends(first: str, last: str, tokenizer: Any) -> Any:
    """Return what puts the tokens `first` and `last` around those of a caption.

    Raises UserError where the vocabulary lacks one of them.
    """
    from tokenizers import processors

    numbers = [(token, tokenizer.token_to_id(token)) for token in (first, last)]
    if missing := [token for token, number in numbers if number is None]:
        raise UserError(f"the vocabulary lacks {' and '.join(missing)}, which begin and end every caption")
    return processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=numbers)


def _set_spelling(tokenizer: Any, unknown: str) -> None:
    """Make a tokenizers.Tokenizer over a vocabulary of `list_pieces` spell every text; `unknown`: its token.

    A word becomes one token a character. A character that the vocabulary lacks is a word of its own, one token a
    byte.
    """
    from tokenizers import Regex, models, pre_tokenizers

    tokens = tokenizer.get_vocab()
    known = "".join(f"\\x{{{ord(token):x}}}" for token in sorted(tokens) if len(token) == 1)
    tokenizer.normalizer = make_folding()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Split(Regex(f"[^{known}]"), "isolated")]
    )
    # without merges each character stays for itself; WordPiece has no bytes, and gives up at a hundred letters
    tokenizer.model = models.BPE(
        tokens, [], unk_token=unknown, continuing_subword_prefix=GOES_ON, byte_fallback=True
    )


def simplify_captions(captions: Sequence[str]) -> list[str]:
    """Return captions in simplified characters by OpenCC's t2s, which leaves simplified ones as they are."""
    convert = _make_converter()
    return [convert(caption) for caption in captions]


@functools.cache
def _make_converter() -> Any:
    try:
        from opencc import OpenCC
    except ImportError:
        raise UserError("text.simplify: this model reads simplified characters: pip install opencc") from None
    return OpenCC("t2s").convert


@functools.cache
def _stands_within_words(character: str) -> bool:
    from tokenizers import pre_tokenizers

    fold, split = make_folding(), pre_tokenizers.BertPreTokenizer()
    return len(split.pre_tokenize_str(fold.normalize_str(f"a{character}a"))) == 1
