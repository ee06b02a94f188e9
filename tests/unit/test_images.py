import io

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from tuwen.images import decode, square, to_pixels


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def test_transparent_parts_become_white() -> None:
    picture = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    picture.putpixel((1, 2), (0, 0, 255, 255))
    pixels = np.asarray(decode(encoded(picture)))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[2, 1].tolist() == [0, 0, 255]


def test_palette_with_transparency_becomes_rgb_on_white() -> None:
    picture = Image.new("P", (2, 2), 0)
    picture.putpalette([10, 20, 30, 200, 0, 0])
    picture.putpixel((1, 1), 1)
    pixels = np.asarray(decode(encoded(picture, transparency=0)))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == [200, 0, 0]


def test_exif_rotation_is_applied() -> None:
    picture = Image.new("RGB", (40, 20), "white")
    picture.paste("black", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    upright = decode(encoded(picture, "JPEG", exif=exif, quality=100))
    assert upright.size == (20, 40)
    assert np.asarray(upright)[5].mean() < 20
    assert np.asarray(upright)[35].mean() > 235


def test_a_long_picture_is_cut_to_two_to_one_around_its_centre() -> None:
    picture = Image.new("RGB", (400, 40), "white")
    picture.paste("red", (160, 0, 240, 40))  # exactly the 80 x 40 that stay
    assert (np.asarray(square(picture, 16)) == [255, 0, 0]).all()
    tall = picture.transpose(Image.Transpose.ROTATE_90)
    assert (np.asarray(square(tall, 16)) == [255, 0, 0]).all()


def test_a_picture_within_two_to_one_is_squashed_whole() -> None:
    picture = Image.new("RGB", (60, 40), "white")
    picture.paste("black", (0, 0, 30, 40))
    pixels = square(picture, 20)
    assert pixels.shape == (20, 20, 3)
    assert pixels[:, :8].max() < 30
    assert pixels[:, 12:].min() > 225


def test_the_model_sees_clip_normalised_pixels() -> None:
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    pixels = to_pixels([black, white])
    assert pixels.shape == (2, 3, 2, 2)
    # CLIP's published mean and deviation on a 0..1 scale
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    np.testing.assert_allclose(pixels[0, :, 0, 0], -mean / std, atol=1e-4)
    np.testing.assert_allclose(pixels[1, :, 0, 0], (1 - mean) / std, atol=1e-4)


def test_what_is_no_picture_raises() -> None:
    with pytest.raises(UnidentifiedImageError):
        decode("这不是图片".encode())
