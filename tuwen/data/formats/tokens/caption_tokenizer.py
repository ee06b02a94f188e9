"""The tokenizer of our own model folders: one of the package tokenizers, called as those of transformers are.

transformers would add its padding and tensors by a class of its own, whose import takes a second of every process.
"""

from collections.abc import Callable, Sequence
from typing import Any


class CaptionEncoding(dict[str, Any]):
    """`input_ids` and, where asked for, `attention_mask` of captions, and a tokenizers.Encoding of each."""

    def __init__(self, encodings: Sequence[Any], return_attention_mask: bool) -> None:
        super().__init__(input_ids=[one.ids for one in encodings])
        if return_attention_mask:
            self["attention_mask"] = [one.attention_mask for one in encodings]
        self.encodings = encodings


class CaptionTokenizer:
    """Cuts captions into tokens; a special token that stands in one is what stands there, to cn_clip too.

    rust: a tokenizers.Tokenizer. special: its tokens for padding, unknown words, beginning, end and mask. It
    serves one thread at a time.
    """

    # what text.py sets
    simplify = False
    clean: Callable[[str], str] | None = None
    has_fixed_length = False

    def __init__(self, rust: Any, special: Sequence[str]) -> None:
        rust.add_special_tokens([token for token in special if rust.token_to_id(token) is not None])
        self.backend_tokenizer, self._padding = rust, special[0]
        self.pad_token_id, self.unk_token_id = rust.token_to_id(special[0]), rust.token_to_id(special[1])

    def __call__(
        self,
        captions: Sequence[str],
        *,
        padding: str | bool = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_attention_mask: bool = False,
    ) -> CaptionEncoding:
        """Return the tokens of captions, both ends included.

        padding: `max_length`, `longest`, or none. truncation: to `max_length` tokens.
        """
        rust = self.backend_tokenizer
        rust.encode_special_tokens = True  # set here: it is lost where a tokenizer goes to another process
        if truncation:
            rust.enable_truncation(max_length)
        else:
            rust.no_truncation()
        if padding:
            length = max_length if padding == "max_length" else None
            rust.enable_padding(pad_id=self.pad_token_id, pad_token=self._padding, length=length)
        else:
            rust.no_padding()
        return CaptionEncoding(rust.encode_batch(list(captions)), return_attention_mask)

    def get_vocab(self) -> dict[str, int]:
        """Return token -> id."""
        vocabulary: dict[str, int] = self.backend_tokenizer.get_vocab()
        return vocabulary
