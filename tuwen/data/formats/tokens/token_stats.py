"""What a model does not see of captions: unknown words, what is cut off, captions that become equal."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tuwen.data.formats.text import normalise_captions, simplify_for

MEASURED_CAPTIONS = 50_000  # of a set, evenly spread: seconds
CHUNK = 5_000
EXAMPLES = 5
# A larger share is told as a warning: unknown words, captions that are cut, captions that equal another one.
NOTABLE_SHARES = {"unk_share": 0.01, "cut_share": 0.05, "equal_share": 0.01}
MEANINGS = {
    "unk_share": "of the words are unknown to the vocabulary, wholly or in part",
    "cut_share": "of the captions are longer than text.max_tokens and are cut there",
    "equal_share": "of the captions are equal to another one for the model",
}
LOSS_COLUMNS = ("set", "captions", "unknown words, %", "cut captions, %", "equal captions, %", "such as")


class _Plain(NamedTuple):
    """What `measure_tokens` reads of a tokenizers.Encoding."""

    ids: list[int]
    word_ids: list[int | None]
    offsets: list[tuple[int, int]]


def measure_tokens(tokenizer: Any, captions: Sequence[str], max_tokens: int) -> dict[str, Any]:
    """Return what `text.tokenize` loses of the different ones among `captions`.

    captions: how many were measured, at most MEASURED_CAPTIONS. unk_share: of their words, those with an unknown
    piece; a word is what the tokenizer parts from its neighbours before it looks for pieces. cut_share: of the
    captions, those of more than `max_tokens` tokens. equal_share: those whose tokens, as far as they are read, are
    those of another caption that is not the same by `normalise_captions`. examples: up to EXAMPLES unknown
    words, cut captions, and groups of equal ones, each in the order in which they come.
    """
    different = list(dict.fromkeys(captions))
    chosen = different[:: -(-len(different) // MEASURED_CAPTIONS) or 1]
    words = unknown = cut = 0
    shown: dict[str, dict[str, None]] = {"unk_share": {}, "cut_share": {}}
    equal = defaultdict[tuple[int, ...], list[tuple[str, str]]](list)
    forms = normalise_captions(chosen, tokenizer.simplify)
    for form, (caption, read, encoding) in zip(forms, _encode(tokenizer, chosen), strict=True):
        words += len({word for word in encoding.word_ids if word is not None})
        holding = set()  # the words with an unknown piece: there may be several in one
        for number, word, (start, end) in zip(encoding.ids, encoding.word_ids, encoding.offsets, strict=True):
            if number == tokenizer.unk_token_id:
                holding.add(word)
                _keep(shown["unk_share"], read[start:end])
        unknown += len(holding)
        if len(encoding.ids) > max_tokens:
            cut += 1
            _keep(shown["cut_share"], caption)
        equal[tuple(encoding.ids[: max_tokens - 1])].append((caption, form))  # the last place is [SEP]'s
    groups = [group for group in equal.values() if len({form for _, form in group}) > 1]
    shares = (unknown, words), (cut, len(chosen)), (sum(map(len, groups)), len(chosen))
    return {
        "captions": len(chosen),
        **{name: round(part / max(whole, 1), 6) for name, (part, whole) in zip(MEANINGS, shares, strict=True)},
        "examples": {name: list(kept) for name, kept in shown.items()}
        | {"equal_share": [" = ".join(caption for caption, _ in group[:3]) for group in groups[:EXAMPLES]]},
    }


def _encode(tokenizer: Any, captions: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
    """Yield each caption, as it is read, and its whole tokenizers.Encoding."""
    for start in range(0, len(captions), CHUNK):
        chunk = captions[start : start + CHUNK]
        read = simplify_for(tokenizer, chunk)
        batch = tokenizer(read)
        # a tokenizer in Python, as SigLIP's, tells ids alone: each counts as a word, and its place is not known
        plain = (_Plain(ids, list(range(len(ids))), [(0, 0)] * len(ids)) for ids in batch["input_ids"])
        yield from zip(chunk, read, batch.encodings or plain, strict=True)


def _keep(shown: dict[str, None], example: str) -> None:
    if len(shown) < EXAMPLES:
        shown[example] = None


def list_losses(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each share above NOTABLE_SHARES, with examples; measured: set -> `measure_tokens`."""
    return [
        f"{name}: {100 * one[share]:.1f} % {MEANINGS[share]}, such as "
        + "; ".join(f"{example:.60}" for example in one["examples"][share][:EXAMPLES])
        for (name, one), share in itertools.product(measured.items(), MEANINGS)
        if one[share] > NOTABLE_SHARES[share]
    ]


def tabulate_losses(measured: Mapping[str, Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """Return a row for each set: its name, captions, the shares of LOSS_COLUMNS in per cent, examples."""
    return [
        (
            name,
            one["captions"],
            *(f"{100 * one[share]:.2f}" for share in MEANINGS),
            "; ".join(f"{example:.60}" for share in MEANINGS for example in one["examples"][share][:2]),
        )
        for name, one in measured.items()
    ]
