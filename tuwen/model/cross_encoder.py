"""The cross encoder of a re-ranker: it reads the tokens of an image and of a text, and says whether they match.

Four fusions, of one block type (cross_block.py):
    both           R2D2: the text reads the image, and the image the text; the mean of both answers
    text_image     ALBEF, BLIP: the text reads the image
    co_attention   ViLBERT, LXMERT: two streams, each of which reads what the other has become, layer by layer
    joint          UNITER, VL-BERT: one stream of both, in which every token reads every other
Shapes: B pairs, I images, P tokens of an image as the tower gives them, K as they are stored, C their width there,
L tokens of a text, W width of the cross encoder, V tokens of the vocabulary, D dimensions of the common space.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tuwen.core.errors import UserError
from tuwen.model.cross_block import EPS, Attention, CrossBlock, Memory, draw_weights

FUSIONS = ("both", "text_image", "co_attention", "joint")
TWO_STREAMS = ("both", "co_attention")
MATCH = 1  # column of the logits that stands for a match


class CrossOutput(NamedTuple):
    """What the layers say of B pairs.

    match: logits [B, 2], index 1 for a match; of two heads the logarithm of the mean of their probabilities.
    text: the states of the text's stream [B, L, W]. image: those of the image's [B, K, W], None where it has no
    stream. feature: the state that stands for the pair [B, W]. heads: the logits [B, 2] of each head.
    """

    match: Tensor
    text: Tensor
    image: Tensor | None
    feature: Tensor
    heads: tuple[Tensor, ...]


class ReadImages(NamedTuple):
    """What the layers take from I images whatever text is beside them, for several calls that share them."""

    stored: Tensor  # [I, K, C]
    memories: tuple[Memory, ...]  # of each block of the text's stream, where it reads what is stored
    stream: Tensor | None  # [I, K, W] the start of the image's stream


class CrossEncoder(nn.Module):
    """The layers over both towers' tokens; `config` alone decides what is built.

    config: `fusion`, one of FUSIONS; `layers`, `width`, `heads`, `mlp`, `dropout`; `image` (`tokens`, `width`) and
    `text` (`width`): what the towers give; `dim` of the common space; `vocabulary` (a number of tokens);
    `image_tokens` (`count`, `width`): what an image's tokens are compressed to before they are stored, or None.
    Raises UserError for another fusion, and where a width cannot be shared by the heads.
    """

    text_blocks: Any  # lists of CrossBlock, whose items torch types as modules or tensors
    image_blocks: Any

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        _check_config(config)
        self.config, self.fusion, width = config, config["fusion"], config["width"]
        compressed, dropout = config["image_tokens"], config["dropout"]
        self.compressor = _Compressor(config["image"]["width"], **compressed) if compressed else None
        self.stored_width: int = compressed["width"] if compressed else config["image"]["width"]
        self.text_in = _make_entry(config["text"]["width"], width)
        shape = (width, config["heads"], config["mlp"], dropout)
        reads = {"both": self.stored_width, "text_image": self.stored_width, "co_attention": width, "joint": None}
        self.text_blocks = nn.ModuleList(CrossBlock(*shape, reads[self.fusion]) for _ in range(config["layers"]))
        heads = 1
        if self.fusion != "text_image":
            self.image_in = nn.Linear(self.stored_width, width)  # R2D2 has it where the widths are equal too
            self.patch_head = nn.Linear(width, self.stored_width)
            for linear in (self.image_in, self.patch_head):
                draw_weights(linear)
        if self.fusion in TWO_STREAMS:
            heads, other = 2, config["text"]["width"] if self.fusion == "both" else width
            self.image_blocks = nn.ModuleList(CrossBlock(*shape, other) for _ in range(config["layers"]))
        self.match_heads = nn.ModuleList(nn.Linear(width, 2) for _ in range(heads))
        self.token_head = _TokenHead(width, config["vocabulary"])
        self.text_head = nn.Linear(width, config["dim"])
        for linear in (*self.match_heads, self.text_head):
            draw_weights(linear)

    def compress_image(self, tokens_BPW: Tensor) -> Tensor:
        """Map a tower's tokens [B, P, W] to what is stored of each image once, [B, K, C]."""
        return tokens_BPW if self.compressor is None else self.compressor(tokens_BPW)

    def read_images(self, stored_IKC: Tensor) -> ReadImages:
        """Compute once what calls of `forward` with the same images have in common."""
        reads_stored = self.fusion in ("both", "text_image")
        memories = tuple(block.other.read(stored_IKC) for block in self.text_blocks) if reads_stored else ()
        return ReadImages(stored_IKC, memories, None if self.fusion == "text_image" else self.image_in(stored_IKC))

    def forward(
        self, images: Tensor | ReadImages, text_BLW: Tensor, mask_BL: Tensor, image_B: Tensor | None = None
    ) -> CrossOutput:
        """Read B pairs.

        images: what `compress_image` returned, or `read_images` made of it. text_BLW, mask_BL: the text tower's
        states, 1 for those that count. image_B: the row of `images` of each pair; an image that is named several
        times is projected once. Without it, pair b has image b.
        """
        read = images if isinstance(images, ReadImages) else ReadImages(images, (), None)
        text_BLW, image_BKW = self._fuse(read, text_BLW, mask_BL, image_B, first_alone=False)
        heads = self._answer(text_BLW, image_BKW)
        return CrossOutput(_join_heads(heads), text_BLW, image_BKW, text_BLW[:, 0], heads)

    def score_pairs(
        self, stored_IKC: Tensor, text_BLW: Tensor, mask_BL: Tensor, image_B: Tensor | None = None
    ) -> Tensor:
        """Return the probability of a match [B] alone, as of `forward`, without what the last layer needs not."""
        read = ReadImages(stored_IKC, (), None)
        heads = self._answer(*self._fuse(read, text_BLW, mask_BL, image_B, first_alone=True))
        return _join_heads(heads).float().softmax(-1)[:, MATCH]

    def score_matches(self, output: CrossOutput) -> Tensor:
        """Return the probability of a match [B]."""
        return output.match.float().softmax(-1)[:, MATCH]

    def predict_tokens(self, text_BLW: Tensor) -> Tensor:
        """Map states of the text's stream [B, L, W], or chosen ones [N, W], to logits over the vocabulary."""
        logits: Tensor = self.token_head(text_BLW)
        return logits

    def predict_patches(self, image_BKW: Tensor) -> Tensor:
        """Map states of the image's stream [B, K, W], or chosen ones [N, W], to tokens as they are stored."""
        assert self.fusion != "text_image", "its image has no stream"
        patches: Tensor = self.patch_head(image_BKW)
        return patches

    def recover_text(self, feature_BW: Tensor) -> Tensor:
        """Map the state that stands for the pair [B, W] to the text's vector in the common space [B, D]."""
        vectors: Tensor = self.text_head(feature_BW)
        return vectors

    def _answer(self, text_BLW: Tensor, image_BKW: Tensor | None) -> tuple[Tensor, ...]:
        """Return the logits [B, 2] of each head, by the first state of its stream."""
        streams = (text_BLW, image_BKW) if len(self.match_heads) == 2 else (text_BLW,)
        firsts = [stream[:, 0] for stream in streams if stream is not None]
        return tuple(head(first_BW) for head, first_BW in zip(self.match_heads, firsts, strict=True))

    def _fuse(
        self, images: ReadImages, text_BLW: Tensor, mask_BL: Tensor, image_B: Tensor | None, *, first_alone: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the states of both streams [B, L, W], [B, K, W]; with `first_alone`, the first of each."""
        if self.fusion == "joint":
            return self._run_joint(images, text_BLW, mask_BL, image_B, first_alone)
        if self.fusion == "co_attention":
            return self._run_exchange(images, text_BLW, mask_BL, image_B, first_alone)
        x_BLW = self.text_in(text_BLW)
        for number, block in enumerate(self.text_blocks, 1):
            memory = images.memories[number - 1] if images.memories else block.other.read(images.stored)
            memory = memory.pick(image_B)
            x_BLW = block(x_BLW, mask_BL, memory, first_alone and number == self.config["layers"])
        if self.fusion == "text_image":
            return x_BLW, None
        x_BKW = self._begin_image(images, image_B)
        for number, block in enumerate(self.image_blocks, 1):
            memory = block.other.read(text_BLW, mask_BL)
            x_BKW = block(x_BKW, None, memory, first_alone and number == self.config["layers"])
        return x_BLW, x_BKW

    def _begin_image(self, images: ReadImages, image_B: Tensor | None) -> Tensor:
        stream_IKW = self.image_in(images.stored) if images.stream is None else images.stream
        return stream_IKW if image_B is None else stream_IKW[image_B]

    def _run_exchange(
        self, images: ReadImages, text_BLW: Tensor, mask_BL: Tensor, image_B: Tensor | None, first_alone: bool
    ) -> tuple[Tensor, Tensor]:
        x_BLW, x_BKW = self.text_in(text_BLW), self._begin_image(images, image_B)
        for number, (text, image) in enumerate(zip(self.text_blocks, self.image_blocks, strict=True), 1):
            alone = first_alone and number == len(self.text_blocks)
            of_image, of_text = text.other.read(x_BKW), image.other.read(x_BLW, mask_BL)
            x_BLW, x_BKW = text(x_BLW, mask_BL, of_image, alone), image(x_BKW, None, of_text, alone)
        return x_BLW, x_BKW

    def _run_joint(
        self, images: ReadImages, text_BLW: Tensor, mask_BL: Tensor, image_B: Tensor | None, first_alone: bool
    ) -> tuple[Tensor, Tensor]:
        image_BKW, length = self._begin_image(images, image_B), text_BLW.shape[1]
        x_BNW = torch.cat([self.text_in(text_BLW), image_BKW], dim=1)
        mask_BN = torch.cat([mask_BL, mask_BL.new_ones(image_BKW.shape[:2])], dim=1)
        for number, block in enumerate(self.text_blocks, 1):
            x_BNW = block(x_BNW, mask_BN, None, first_alone and number == self.config["layers"])
        return x_BNW[:, :length], x_BNW[:, length:]


class _Compressor(nn.Module):
    """Learned queries that attend to an image's tokens once, as in EDJE: [B, P, W] -> [B, count, width]."""

    def __init__(self, tower_width: int, count: int, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(count, width))
        self.attention = Attention(width, max(1, width // 64), tower_width, dropout=0.0)

    def forward(self, tokens_BPW: Tensor) -> Tensor:
        queries_BKC = self.queries.expand(len(tokens_BPW), -1, -1)
        compressed: Tensor = self.attention(queries_BKC, self.attention.read(tokens_BPW))
        return compressed


class _TokenHead(nn.Module):
    """BERT's head for masked tokens: a layer of its own, then one logit for each token of the vocabulary."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.inner, self.norm = nn.Linear(width, width), nn.LayerNorm(width, EPS)
        self.decoder = nn.Linear(width, vocabulary)
        for linear in (self.inner, self.decoder):
            draw_weights(linear)

    def forward(self, x_BLW: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.norm(nn.functional.gelu(self.inner(x_BLW))))
        return logits


def _check_config(config: dict[str, Any]) -> None:
    if config["fusion"] not in FUSIONS:
        raise UserError(f"fusion: expected one of {', '.join(FUSIONS)}, got {config['fusion']!r}")
    if config["width"] % config["heads"]:
        raise UserError(f"heads: {config['heads']} cannot share the width {config['width']} evenly")
    compressed = config["image_tokens"]
    if compressed and compressed["width"] % max(1, compressed["width"] // 64):
        raise UserError(f"image_tokens.width: expected a multiple of 64, got {compressed['width']}")


def _make_entry(given: int, width: int) -> nn.Module:
    if given == width:
        return nn.Identity()
    linear = nn.Linear(given, width)
    draw_weights(linear)
    return linear


def _join_heads(heads: tuple[Tensor, ...]) -> Tensor:
    """Return logits [B, 2] whose softmax is the mean of the heads' probabilities."""
    if len(heads) == 1:
        return heads[0]
    logs = torch.stack([logits_B2.float().log_softmax(-1) for logits_B2 in heads])
    return logs.logsumexp(0) - math.log(len(heads))
