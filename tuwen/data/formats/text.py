"""Chinese captions: normal form, variants of a caption, vocabulary and tokens."""

import random
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

LIST_MARK = "、"  # joins the items of an enumeration in Chinese
CHINESE = re.compile(r"[\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
# A mask stands in a caption for what was taken out of it, as <人名> does for a name. MASK takes any text in
# half-width brackets, since translation may change the word in it; HAN_MASK, one to six Chinese characters in
# brackets of either width, is for counting. It is RE2, for Arrow.
MASK = re.compile("<[^<>]*>")
HAN_MASK = r"[<＜]\p{Han}{1,6}[>＞]"
# CONTROL is Unicode's Cc, Zl and Zp, all of them blanks to `normalise`. STRAY_CONTROL is what should not be in a
# caption: Cc without tab and line ends, which captions of the contest hold.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
STRAY_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# Full-width characters to half-width ones, control characters to blanks.
HALF_WIDTH = {full: chr(full - 0xFEE0) for full in range(0xFF01, 0xFF5F)}
HALF_WIDTH |= {ord("　"): " ", ord("。"): "."} | dict.fromkeys((*range(32), *range(127, 160)), " ")
FULL_MARKS, HALF_MARKS = "，。！？：；（）", ",.!?:;()"
CHINESE_MARK = re.compile(rf"(?<![0-9A-Za-z])[{HALF_MARKS}]|[{HALF_MARKS}](?![ /0-9A-Za-z])")  # not in 3.5, 10:30
OPEN_BLANK = re.compile(r"(?<=[^\x00-\x7f]) | (?=[^\x00-\x7f])")  # beside a character that is not ASCII
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def normalise(caption: str) -> str:
    """Return the form by which captions count as equal: NFKC, lower case, single blanks, no control characters."""
    folded = unicodedata.normalize("NFKC", caption).casefold()
    return " ".join(CONTROL.sub(" ", folded).split())


def measure_chinese_share(caption: str) -> float:
    """Return the share of Chinese characters among the visible ones, 0 where nothing is visible."""
    visible = len("".join(caption.split()))
    return len(CHINESE.findall(caption)) / visible if visible else 0.0


def match_caption_form(paraphrase: str, like: str) -> str:
    """Return `paraphrase` written as the caption `like` is: width of marks, case, blanks, full stop and mask.

    Marks become half-width unless `like` has more full-width ones. Upper case, blanks beside Chinese characters
    and a full stop at the end go where `like` has none. Where all masks of `like` are one and the same, any mask
    becomes that one, since translation changes the word in it.
    """
    written = " ".join(paraphrase.translate(HALF_WIDTH).split())
    if like == like.lower():
        written = written.lower()
    if len(masks := set(MASK.findall(like))) == 1:
        written = MASK.sub(masks.pop(), written)
    if not OPEN_BLANK.search(like):
        written = OPEN_BLANK.sub("", written)
    if sum(map(like.count, FULL_MARKS)) > len(CHINESE_MARK.findall(like)):
        to_full = dict(zip(HALF_MARKS, FULL_MARKS, strict=True))
        written = CHINESE_MARK.sub(lambda mark: to_full[mark[0]], written.replace("...", "…"))
    return written if like.rstrip().endswith((".", "。")) else written.rstrip(".。")


def vary(caption: str, kinds: Iterable[str], draw: random.Random) -> str:
    """Return a variant of `caption`; `kinds` as in `params.Policy.text`.

    A caption that is a list joined by 、 is reordered (`shuffle_list`) and, half of the time, cut to a random
    number of its items (`drop_from_list`). Any other caption is returned as it is.
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
    """Return WordPiece tokens that spell all captions: special ones, characters, `##c` for Latin and digits."""
    # the tokenizer lower-cases and strips accents, and so must the vocabulary
    letters = {c for caption in captions for c in unicodedata.normalize("NFD", caption.lower())}
    characters = sorted(c for c in letters if not c.isspace() and unicodedata.category(c) not in ("Mn", "Cc"))
    continuations = [f"##{c}" for c in characters if c.isascii() and c.isalnum()]
    return [*SPECIAL_TOKENS, *characters, *continuations]


def load_tokenizer(vocabulary: Path) -> Any:
    """Return the BERT tokenizer over a `vocab.txt`: Chinese characters one by one, Latin lower-cased.

    Where the vocabulary lacks “ and ”, which would become unknown tokens, they are read as ", as in Chinese-CLIP's
    training (its data.py).
    """
    from tokenizers import normalizers
    from transformers import BertTokenizer

    tokenizer = BertTokenizer(vocab=str(vocabulary), do_lower_case=True)
    tokens = tokenizer.get_vocab()
    marks = [normalizers.Replace(mark, '"') for mark in "“”" if mark not in tokens]
    rust = tokenizer.backend_tokenizer
    rust.normalizer = normalizers.Sequence([*marks, rust.normalizer])
    return tokenizer


def tokenize(tokenizer: Any, captions: Sequence[str], max_tokens: int) -> tuple[Any, Any]:
    """Return int64 tensors ids [B, L] and mask [B, L] of B captions; L: the longest one, at most `max_tokens`."""
    batch = tokenizer(
        list(captions), padding="longest", truncation=True, max_length=max_tokens, return_tensors="pt"
    )
    return batch["input_ids"], batch["attention_mask"]
