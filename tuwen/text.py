"""Chinese text: normalisation, left/right words, variants of a caption, vocabulary and tokens."""

import random
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

LIST_MARK = "、"  # joins the items of an enumeration in Chinese
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def normalise(caption: str) -> str:
    """The form by which two captions count as equal: NFKC, lower case, single blanks, no control characters."""
    folded = unicodedata.normalize("NFKC", caption).casefold()
    visible = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in folded)
    return " ".join(visible.split())


def has_side_word(caption: str) -> bool:
    """Whether the caption tells left from right, so that its picture must not be mirrored."""
    return "左" in caption or "右" in caption


def vary(caption: str, kinds: Iterable[str], draw: random.Random) -> str:
    """Another wording of `caption`; `kinds` as in `params.Policy.text`.

    A caption that is a list joined by 、 is reordered (`shuffle_list`) and, half of the time, cut to a random
    number of its items (`drop_from_list`). Any other caption comes back as it is.
    """
    items = caption.split(LIST_MARK)
    if len(items) < 2:
        return caption
    if "shuffle_list" in kinds:
        draw.shuffle(items)
    if "drop_from_list" in kinds and draw.random() < 0.5:
        keep = sorted(draw.sample(range(len(items)), draw.randint(1, len(items))))
        items = [items[i] for i in keep]
    return LIST_MARK.join(items)


def build_vocabulary(captions: Iterable[str]) -> list[str]:
    """WordPiece tokens that spell every caption: special ones, each character, `##c` for Latin and digits."""
    # the tokenizer lower-cases and strips accents, and so must the vocabulary
    letters = {c for caption in captions for c in unicodedata.normalize("NFD", caption.lower())}
    characters = sorted(c for c in letters if not c.isspace() and unicodedata.category(c) not in ("Mn", "Cc"))
    continuations = [f"##{c}" for c in characters if c.isascii() and c.isalnum()]
    return [*SPECIAL_TOKENS, *characters, *continuations]


def load_tokenizer(vocabulary: Path) -> Any:
    """The BERT tokenizer over a `vocab.txt`: Chinese characters one by one, Latin lower-cased."""
    from transformers import BertTokenizer

    return BertTokenizer(vocab=str(vocabulary), do_lower_case=True)


def tokenize(tokenizer: Any, captions: Sequence[str], max_tokens: int) -> tuple[Any, Any]:
    """Captions -> (ids [B, L], mask [B, L]) int64 tensors, L = the longest of the batch, at most `max_tokens`."""
    batch = tokenizer(
        list(captions), padding="longest", truncation=True, max_length=max_tokens, return_tensors="pt"
    )
    return batch["input_ids"], batch["attention_mask"]
