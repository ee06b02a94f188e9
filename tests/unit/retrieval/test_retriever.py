from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support import broken
from tests.support.broken import encode, landscape
from tests.support.small_model import CONFIG, write_small_model
from tests.support.vectors import unit
from tuwen.core.errors import UserError
from tuwen.data.formats.images import decode_pixels, make_pixel_tensor, resize_to_square
from tuwen.data.formats.text import tokenize
from tuwen.retrieval.retriever import ENCODE_BATCH, Gallery, Retriever, load_retriever

CAPTIONS = ["一只橘猫趴在窗台上", "", "海边的日落,海边的日落,海边的日落", "大熊猫"]


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    return load_retriever(write_small_model(tmp_path_factory.mktemp("models") / "finetuned"))


@torch.inference_mode()
def test_texts_become_the_unit_vectors_of_the_model_in_their_order(retriever: Retriever) -> None:
    vectors = retriever.encode_texts(CAPTIONS)
    assert vectors.shape == (4, CONFIG["dim"])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for caption, vector in zip(CAPTIONS, vectors, strict=True):
        alone = retriever.model.encode_text(*tokenize(retriever.tokenizer, [caption], 12))
        np.testing.assert_allclose(vector, alone.numpy()[0], atol=1e-5)


@torch.inference_mode()
def test_paths_bytes_and_pil_images_become_the_same_unit_vectors(retriever: Retriever, tmp_path: Path) -> None:
    encoded, place = encode(landscape(), "JPEG"), tmp_path / "风景.jpg"
    place.write_bytes(encoded)
    with Image.open(place) as opened:
        vectors = retriever.encode_images([place, str(place), encoded, opened])
    assert vectors.shape == (4, CONFIG["dim"])
    assert vectors.dtype == np.float32
    pixels = make_pixel_tensor([resize_to_square(decode_pixels(encoded), 16)])
    np.testing.assert_allclose(vectors, retriever.model.encode_image(pixels).numpy().repeat(4, 0), atol=1e-5)


def test_images_are_turned_by_their_exif_and_put_on_white(retriever: Retriever) -> None:
    lying, exif = landscape().transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[broken.ORIENTATION] = 6
    clear = landscape().convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    white = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    for image, due in ((encode(lying, exif=exif), landscape()), (encode(clear), white), (clear, white)):
        np.testing.assert_allclose(*retriever.encode_images([image, due]), atol=1e-6)
    upright, as_stored = retriever.encode_images([landscape(), lying])
    assert np.abs(upright - as_stored).max() > 1e-3


def test_more_than_a_batch_keeps_its_order_and_nothing_is_no_row(retriever: Retriever) -> None:
    images = [landscape(hills=f"hsl({4 * n}, 90%, 40%)") for n in range(ENCODE_BATCH + 20)]
    vectors = retriever.encode_images(images)
    for n in (0, ENCODE_BATCH - 1, ENCODE_BATCH, len(images) - 1):
        np.testing.assert_allclose(vectors[n], retriever.encode_images([images[n]])[0], atol=1e-6)
    assert len(np.unique(vectors.round(5), axis=0)) > ENCODE_BATCH
    captions = [CAPTIONS[n % 4] for n in range(ENCODE_BATCH + 20)]
    np.testing.assert_allclose(retriever.encode_texts(captions)[-4:], retriever.encode_texts(CAPTIONS), atol=1e-5)
    for empty in (retriever.encode_images([]), retriever.encode_texts([])):
        assert empty.shape == (0, CONFIG["dim"])


def test_one_pil_image_may_stand_in_many_rows(retriever: Retriever, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[broken.ORIENTATION] = 6
    (tmp_path / "a.jpg").write_bytes(encode(landscape(640, 480), "JPEG", exif=exif))
    with Image.open(tmp_path / "a.jpg") as opened:
        vectors = retriever.encode_images([opened] * 100)
    np.testing.assert_allclose(vectors, retriever.encode_images([tmp_path / "a.jpg"]).repeat(100, 0), atol=1e-6)


def test_threads_share_one_retriever(retriever: Retriever) -> None:
    due = retriever.encode_texts(CAPTIONS)
    with ThreadPoolExecutor(4) as threads:
        for vectors in threads.map(lambda _: retriever.encode_texts(CAPTIONS), range(8)):
            np.testing.assert_array_equal(vectors, due)


def test_an_image_that_cannot_be_read_is_named_by_position_and_path(retriever: Retriever, tmp_path: Path) -> None:
    good, text = encode(landscape()), tmp_path / "笔记.txt"
    text.write_text("不是图", encoding="utf-8")
    for image, message in (
        (tmp_path / "没有.jpg", rf"images\[1\], {tmp_path}/没有\.jpg: no such file"),
        (str(text), rf"images\[1\], {text}: cannot be read as an image \(cannot identify"),
        (tmp_path, rf"images\[1\], {tmp_path}: cannot be read as an image \(Is a directory\)"),
        (broken.truncated_jpeg(), r"images\[1\]: cannot be read as an image \("),
        (7, r"images\[1\]: a path, bytes or a PIL image expected, got int"),
    ):
        with pytest.raises(UserError, match=f"^{message}"):
            retriever.encode_images([good, image])
    with pytest.raises(UserError, match=r"^row 5: image: cannot be read"):
        retriever.encode_images([good, b"?"], ["row 2: image", "row 5: image"])


def test_one_text_or_image_that_is_no_list_is_refused(retriever: Retriever) -> None:
    with pytest.raises(UserError, match=r"^texts: a list of strings expected, got one string; write \['大熊猫'\]"):
        retriever.encode_texts("大熊猫")
    with pytest.raises(UserError, match=r"^texts\[1\]: a string expected, got NoneType"):
        retriever.encode_texts(["大熊猫", None])
    for image in ("a.jpg", Path("a.jpg"), encode(landscape()), landscape()):
        with pytest.raises(UserError, match=r"^images: a list expected, got one image"):
            retriever.encode_images(image)


def test_a_folder_that_holds_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^{tmp_path}/none/config\.json: missing"):
        load_retriever(str(tmp_path / "none"))


def test_a_gallery_answers_with_ids_and_cosines_the_best_first() -> None:
    vectors = unit(np.array([[1, 0], [0, 1], [1, 1], [1, 0]], np.float64))
    ids, cosines = Gallery(vectors, ["甲", "乙", "丙", "丁"]).search(vectors[:2], 3)
    assert ids == [["甲", "丁", "丙"], ["乙", "丙", "甲"]]
    np.testing.assert_allclose(cosines, [[1, 1, 0.5**0.5], [1, 0.5**0.5, 0]], atol=1e-6)
    with pytest.raises(UserError, match="k must be 1 to 4"):
        Gallery(vectors, ["甲", "乙", "丙", "丁"]).search(vectors, 5)
