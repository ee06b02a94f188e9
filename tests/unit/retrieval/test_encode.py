from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.support import broken
from tests.support.broken import landscape
from tuwen.core.errors import UserError
from tuwen.core.params import Embed
from tuwen.data.formats import images, pairs
from tuwen.data.formats.picture_rule import PictureRule
from tuwen.data.formats.shards import ShardWriter
from tuwen.data.formats.text import build_vocabulary, load_tokenizer
from tuwen.model import dual_encoder
from tuwen.retrieval import embed, encode

CONFIG = {
    "dim": 16,
    "image": {"size_px": 16, "patch_px": 8, "width": 64, "layers": 1, "patch_dropout": 0.0},
    "text": {"width": 64, "layers": 1, "dropout": 0.0, "max_tokens": 8},
}
CAPTIONS = ["一只白猫趴在窗台上", "", "雨后的街道", "一只白猫趴在窗台上晒太阳打盹,尾巴轻轻摇"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with random weights."""
    folder = tmp_path_factory.mktemp("models") / "baseline"
    vocabulary = build_vocabulary(CAPTIONS)
    torch.manual_seed(0)
    dual_encoder.save_model(dual_encoder.DualEncoder(CONFIG | {"vocabulary": len(vocabulary)}), folder, vocabulary)
    return folder


def make_set(data: Path, pictures: dict[str, bytes | None], captions: list[str | None]) -> Path:
    """`data/clean/t2i`; a picture without bytes has no shard."""
    rows = []
    with ShardWriter(data, "raw/t2i/shards") as writer:
        for name, encoded in pictures.items():
            place = {} if encoded is None else writer.add(name, encoded)._asdict()
            rows.append({"image_id": name, "positive_id": name, "fault": None if encoded else "missing"} | place)
    texts = [{"text_id": f"句-{n}", "caption": caption} for n, caption in enumerate(captions)]
    tables = pa.Table.from_pylist(rows, pairs.IMAGES), pa.Table.from_pylist(texts, pairs.TEXTS)
    pairs.write_pair_set(data / "clean/t2i", pairs.PairSet(*tables, pairs.PAIRS.empty_table()))
    return data / "clean/t2i"


def vectors(encoder: Path, pair_set: Path, out: Path, batch_size: int = 2) -> tuple[np.ndarray, np.ndarray]:
    embed.embed_set(encoder, pair_set, out, Embed(batch_size=batch_size, dtype="float32"))
    return np.load(out / "images.npy"), np.load(out / "texts.npy")


def test_a_picture_that_there_is_not_is_embedded_as_a_white_one(encoder: Path, tmp_path: Path) -> None:
    pictures = {"猫.png": broken.encode(landscape()), "丢失.jpg": None, "白.jpg": broken.blank()}
    found, _ = vectors(encoder, make_set(tmp_path, pictures, CAPTIONS), tmp_path / "out")
    np.testing.assert_allclose(found[1], found[2], atol=1e-6)
    assert not np.allclose(found[0], found[1])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_empty_and_missing_captions_have_vectors_and_long_ones_are_cut(encoder: Path, tmp_path: Path) -> None:
    pair_set = make_set(tmp_path, {"猫.png": broken.webp()}, [*CAPTIONS, None, "", "一只白猫趴在"])
    _, texts = vectors(encoder, pair_set, tmp_path / "out", batch_size=3)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(texts[[4, 5]], texts[[1, 1]], atol=1e-6)
    # eight tokens, [CLS] and [SEP] among them
    np.testing.assert_allclose(texts[[0, 3]], texts[[6, 6]], atol=1e-6)


def test_a_set_of_empty_captions_or_without_rows_is_embedded(encoder: Path, tmp_path: Path) -> None:
    _, texts = vectors(encoder, make_set(tmp_path / "a", {}, ["", ""]), tmp_path / "out")
    assert texts.shape == (2, 16)
    found = vectors(encoder, make_set(tmp_path / "b", {}, []), tmp_path / "none")
    assert [rows.shape for rows in found] == [(0, 16), (0, 16)]


@pytest.mark.parametrize("workers", ["1", "3"])
def test_rows_keep_their_order_whatever_the_batches_and_workers(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    monkeypatch.setenv("TUWEN_WORKERS", workers)
    monkeypatch.setattr(encode, "AHEAD", 4)
    pictures = {f"{n}.png": broken.encode(landscape(40 + 8 * n, 48)) for n in range(11)}
    pair_set = make_set(tmp_path, pictures, [])
    found, _ = vectors(encoder, pair_set, tmp_path / "out", batch_size=3)
    squares = encode.read_images(tmp_path, pairs.read_pair_set(pair_set), PictureRule(16))
    assert [square.shape for square in squares] == [(16, 16, 3)] * 11
    alone = encode.embed_images(dual_encoder.load_model(encoder), squares, batch_size=1)
    np.testing.assert_allclose(found, alone, atol=1e-5)


def test_a_picture_that_cannot_be_decoded_is_named(encoder: Path, tmp_path: Path) -> None:
    pair_set = make_set(tmp_path, {"猫.png": broken.webp(), "断.jpg": broken.truncated_jpeg()}, [])
    with pytest.raises(UserError, match=r"000000\.tar: picture 断\.jpg cannot be decoded .*truncated"):
        vectors(encoder, pair_set, tmp_path / "out")


def test_no_more_pictures_are_decoded_than_are_needed_soon(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair_set = make_set(tmp_path, {f"{n}.png": broken.encode(landscape()) for n in range(40)}, [])
    decoded: list[int] = []
    monkeypatch.setattr(encode, "AHEAD", 8)
    monkeypatch.setattr(encode, "decode_pixels", lambda data: decoded.append(1) or images.decode_pixels(data))
    stream = encode.stream_images(tmp_path, pairs.read_pair_set(pair_set), PictureRule(16))
    for _ in range(9):
        next(stream)
    assert 9 <= len(decoded) <= 16
    assert len(list(stream)) == 31
    assert len(decoded) == 40


def test_the_tokenizer_of_the_folder_is_used(encoder: Path) -> None:
    tokenizer = load_tokenizer(encoder / "vocab.txt")
    found = encode.embed_captions(dual_encoder.load_model(encoder), tokenizer, ["雨后的街道", "雨 后 的 街 道"], 2)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
