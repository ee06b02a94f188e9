"""A model's vocabulary as a file: a token's place in it is its id, so a lost or added line moves all ids."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tuwen.core.errors import UserError
from tuwen.data.formats.impostors import refuse_impostor
from tuwen.data.formats.json_file import read_json_object
from tuwen.data.formats.text import CHINESE

NEEDED = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# of the 21,128 tokens of Google's Chinese BERT, which cn_clip and Hugging Face's Chinese-CLIP have too: in the
# order of their ids, and sorted
CHINESE_BERT_SHA256 = "45bbac6b341c319adc98a532532882e91a9cefc0329aa57bac9ae761c27b291c"
CHINESE_BERT_SORTED_SHA256 = "273caa0b1d58d05c9f88484c2c0abaa1ac9b990246ab6272cbb4a8b0055ae480"
PADDED_ROWS = 127  # that a table may have more than tokens: some round it up to a multiple of 128
LARGE = 1000  # tokens, from which on a vocabulary for captions in Chinese holds Chinese ones
LINE_SHIFT = "every id behind would be another token's"


def read_token_lines(path: Path, remedy: str) -> list[str]:
    """Return the tokens of a `vocab.txt` in the order of their ids; byte order mark, CR and last blank lines go.

    remedy: what gets the right file. Raises UserError where the file is missing, something else, or not UTF-8.
    """
    try:
        refuse_impostor(path, "vocabulary")
        encoded = path.read_bytes()
        # not splitlines: published vocabularies hold tokens that Unicode counts as line ends
        lines = encoded.decode("utf-8-sig").rstrip("\r\n").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path}: missing; expected the model's tokens, one a line: {remedy}") from None
    except UnicodeDecodeError as error:
        line = encoded.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: cannot be read as a vocabulary: line {line} is not UTF-8 (byte 0x{encoded[error.start]:02x})"
            f"{_guess_encoding(encoded)}; save it as UTF-8, or fetch it again: {remedy}"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a vocabulary ({error}): {remedy}") from None
    return [line.removesuffix("\r") for line in lines]


def read_packed_tokens(path: Path, remedy: str) -> list[str]:
    """Return the tokens of a WordPiece tokenizer.json in the order of their ids; [] where it is no such file."""
    model = read_json_object(path, remedy).get("model") if path.is_file() else None
    ids = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(ids, dict) or sorted(ids.values(), key=str) != sorted(range(len(ids)), key=str):
        return []
    return sorted(ids, key=ids.__getitem__)


def _guess_encoding(encoded: bytes) -> str:
    if encoded.startswith((b"\xff\xfe", b"\xfe\xff")):
        return ", but UTF-16"
    try:
        encoded.decode("gb18030")
    except UnicodeDecodeError:
        return ""
    return ", but may be GBK or GB18030"


def digest_tokens(tokens: Iterable[str]) -> str:
    """Return the sha256 of the tokens in their order."""
    return hashlib.sha256("".join(f"{token}\n" for token in tokens).encode()).hexdigest()


def check_tokens(tokens: Sequence[str], path: Path, rows: int) -> None:
    """Raise UserError where the tokens in `path` cannot be those of a table of embeddings with `rows` rows."""
    if fault := find_token_fault(tokens, rows):
        raise UserError(f"{path}: {fault}; take the vocabulary that was published with these weights")


def find_token_fault(tokens: Sequence[str], rows: int) -> str:
    """Return why the tokens cannot be those of a table of embeddings with `rows` rows; empty where they can."""
    repeated, times = Counter(tokens).most_common(1)[0]
    if times > 1:
        second = tokens.index(repeated, tokens.index(repeated) + 1)
        return f"lines {tokens.index(repeated) + 1} and {second + 1} are both {repeated!r}: {LINE_SHIFT}"
    if missing := [token for token in NEEDED if token not in tokens]:
        return f"{len(tokens)} tokens without {', '.join(missing)}"
    if tokens[0] != "[PAD]":
        return f"[PAD] is line {tokens.index('[PAD]') + 1}, expected the first: {LINE_SHIFT}"
    if (lossy := sum("\ufffd" in token for token in tokens)) > 1:  # one may come from captions
        return f"{lossy} tokens hold U+FFFD, which a lossy change of encoding leaves"
    if len(tokens) > LARGE and not any(map(CHINESE.search, tokens)):
        return f"none of {len(tokens)} tokens is Chinese: its encoding was mistaken, or it is of another language"
    if not rows - PADDED_ROWS <= len(tokens) <= rows:
        return f"the vocabulary has {len(tokens)} tokens, expected {rows}, the rows of the table of embeddings"
    if (
        digest_tokens(tokens) != CHINESE_BERT_SHA256
        and digest_tokens(sorted(tokens)) == CHINESE_BERT_SORTED_SHA256
    ):
        return "holds the tokens of the Chinese BERT in another order, so nearly all ids would be another token's"
    return ""
