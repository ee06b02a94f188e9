"""Chinese captions: normal form, variants of a caption, vocabulary and tokens."""

import random
import re
import threading
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from tuwen.data.formats.json_file import read_json
from tuwen.data.formats.tokens import library_tokenizer, pieces, spelling
from tuwen.data.formats.tokens.caption_tokenizer import CaptionTokenizer
from tuwen.data.formats.tokens.library_tokenizer import TokenizerFiles

_TURN = threading.Lock()  # a tokenizer keeps padding and cut as settings, so it serves one call at a time

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
UNSEEN_CHARACTER = re.compile(spelling.UNSEEN_CHARACTERS)
DOUBLE_QUOTE = re.compile(spelling.QUOTES)
# Beside Chinese characters and marks a blank parts nothing, no words of BERT's: 红色 羽绒服 is 红色羽绒服
IDLE_BLANK = re.compile(rf"(?<=[^\w\s]) | (?=[^\w\s])|(?<={CHINESE.pattern}) | (?={CHINESE.pattern})")
SENTENCE_ENDS = " 。.!"  # after NFKC, which makes ． and ！ these
STRAY_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# Full-width characters to half-width ones, control characters to blanks.
HALF_WIDTH = {full: chr(full - 0xFEE0) for full in range(0xFF01, 0xFF5F)}
HALF_WIDTH |= {ord("　"): " ", ord("。"): "."} | dict.fromkeys((*range(32), *range(127, 160)), " ")
FULL_MARKS, HALF_MARKS = "，。！？：；（）", ",.!?:;()"
CHINESE_MARK = re.compile(rf"(?<![0-9A-Za-z])[{HALF_MARKS}]|[{HALF_MARKS}](?![ /0-9A-Za-z])")  # not in 3.5, 10:30
OPEN_BLANK = re.compile(r"(?<=[^\x00-\x7f]) | (?=[^\x00-\x7f])")  # beside a character that is not ASCII
# Of a model: tokens in the order of their ids, or what a library has in place of them
Vocabulary: TypeAlias = list[str] | TokenizerFiles
UNKNOWN = "[UNK]"
SPECIAL_TOKENS = ("[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]")


def normalise(caption: str) -> str:
    """Return the form by which captions count as equal: NFKC, lower case, needed blanks, nothing that is not seen.

    What a model reads as one caption is one: no model sees zero-width characters and bidirectional controls, nor a
    blank beside a Chinese character or a mark, and a fresh one reads one kind of double quotes. To people
    草莓 and 草莓。 are one: the end of a sentence goes.
    """
    folded = UNSEEN_CHARACTER.sub("", unicodedata.normalize("NFKC", caption)).casefold()
    spaced = " ".join(CONTROL.sub(" ", DOUBLE_QUOTE.sub('"', folded)).split())
    written = IDLE_BLANK.sub("", spaced)
    return written.rstrip(SENTENCE_ENDS) or written


def normalise_captions(captions: Sequence[str], simplify: bool) -> list[str]:
    """Return the form of each by which captions are the same to a model: `normalise` of what it is given.

    The split, the merge, duplicates, batches without siblings and what `evaluate` calls seen all ask here.
    simplify: the model reads traditional characters as simplified ones, as `params.Text.simplify` says.
    """
    return list(map(normalise, spelling.simplify_captions(captions) if simplify else captions))


def is_simplifying(model: Path) -> bool:
    """Whether the model in a folder reads traditional characters as simplified ones, by its preprocessor.json."""
    return bool(_read_text_rule(model).get("simplify", False))


def _read_text_rule(model: Path) -> dict[str, Any]:
    """Return how the model in a folder reads captions; {} where nothing says it."""
    beside = model / "preprocessor.json"
    return dict(read_json(beside)["text"]) if beside.is_file() else {}


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


def build_vocabulary(captions: Iterable[str], simplify: bool = False) -> list[str]:
    """Return the tokens of a fresh model, by which `load_tokenizer` spells every caption, these and all others.

    simplify: captions are read in simplified characters, as `params.Text.simplify` says.
    """
    read = spelling.simplify_captions(list(captions)) if simplify else captions
    return [*SPECIAL_TOKENS, *spelling.list_pieces(read)]


def list_basic_characters() -> str:
    """Return the 6,763 Chinese characters and 682 signs of GB 2312, and ASCII, which spell nearly every caption.

    For the vocabulary of a fresh model where captions are streamed: reading them beforehand would cost a pass over
    all shards, and reading some shards alone would make the vocabulary depend on which these are.
    """
    codes = (bytes([high, low]) for high in range(0xA1, 0xF8) for low in range(0xA1, 0xFF))
    return "".join(code.decode("gb2312", "ignore") for code in codes) + bytes(range(0x21, 0x7F)).decode("ascii")


def load_tokenizer(vocabulary: Path) -> Any:
    """Return the tokenizer of a model folder.

    vocabulary: its `vocab.txt`, in whose place a library's files may lie. The `preprocessor.json` beside it says
    whether captions are simplified, and whether all are padded to one length.
    """
    folder, rule = vocabulary.parent, _read_text_rule(vocabulary.parent)
    own = folder / library_tokenizer.TOKENIZER_FOLDER
    if vocabulary.is_file() or not own.is_dir():
        return make_tokenizer(str(vocabulary), rule.get("simplify", False))
    return _prepare(library_tokenizer.load_library_tokenizer(own), rule)


def _prepare(tokenizer: Any, rule: dict[str, Any]) -> Any:
    """Return a tokenizer, ours or of transformers, as `tokenize` wants it; rule: `text` of preprocessor.json."""
    tokenizer.simplify = rule.get("simplify", False)
    tokenizer.clean = library_tokenizer.find_cleaner(rule.get("clean"))
    tokenizer.has_fixed_length = rule.get("padding") == "max_length"
    return tokenizer


def make_tokenizer(vocabulary: str | Sequence[str] | TokenizerFiles, simplify: bool = False) -> Any:
    """Return the tokenizer over tokens in the order of their ids, over a file of them, or over a library's files.

    A vocabulary of `build_vocabulary` is read as spelling.py says, one of pieces with scores as pieces.py. Any
    other is BERT's: Chinese characters one by one, Latin lower-cased and cut into the longest pieces that the
    vocabulary holds. Where it lacks “ and ”, which would become unknown tokens, they are read as ", as in
    Chinese-CLIP's training (its data.py).
    """
    if isinstance(vocabulary, TokenizerFiles):
        return _prepare(library_tokenizer.load_library_tokenizer(vocabulary), {"simplify": simplify})
    lines = _list_tokens(vocabulary)
    if pieces.has_scores(lines):
        rust = pieces.make_piece_tokenizer(lines, SPECIAL_TOKENS)
    else:
        rust = spelling.make_word_tokenizer(lines, SPECIAL_TOKENS)
    return _prepare(CaptionTokenizer(rust, SPECIAL_TOKENS), {"simplify": simplify})


def _list_tokens(vocabulary: str | Sequence[str]) -> Sequence[str]:
    if not isinstance(vocabulary, str):
        return vocabulary
    with open(vocabulary, encoding="utf-8", newline="\n") as file:
        return [line.removesuffix("\n") for line in file]


def tokenize(tokenizer: Any, captions: Sequence[str], max_tokens: int) -> tuple[Any, Any]:
    """Return int64 tensors ids [B, L] and mask [B, L] of B captions; L: the longest one, at most `max_tokens`.

    tokenizer: of `make_tokenizer`. All captions of training, embedding and asking come through here, of
    several threads at once too. Models that were trained on texts of one length without a mask, as SigLIP, are
    given that length, and read its padding too.
    """
    import torch

    read, fixed = simplify_for(tokenizer, captions), tokenizer.has_fixed_length
    padding = {"padding": "max_length" if fixed else "longest", "max_length": max_tokens, "truncation": True}
    with _TURN:
        batch = tokenizer(read, **padding, return_attention_mask=True)
    ids = torch.tensor(batch["input_ids"])
    return ids, torch.ones_like(ids) if fixed else torch.tensor(batch["attention_mask"])


def locate_tokens(tokenizer: Any, caption: str, max_tokens: int) -> list[tuple[int, int]]:
    """Return where each token that `tokenize` makes of a caption stands in it: its first character, and the end.

    The caption is what `simplify_for` returns. A special token stands nowhere, (0, 0); the tokens of one character
    all stand there.
    """
    with _TURN:
        (encoding,) = tokenizer([caption], truncation=True, max_length=max_tokens).encodings
    return [(start, end) for start, end in encoding.offsets]


def simplify_for(tokenizer: Any, captions: Sequence[str]) -> list[str]:
    """Return captions as `tokenizer` is given them: in simplified characters where its model reads these.

    And cleaned as those were that a published model was trained with.
    """
    read = spelling.simplify_captions(captions) if tokenizer.simplify else list(captions)
    return [tokenizer.clean(caption) for caption in read] if tokenizer.clean else read
