import itertools
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from tests.support import broken
from tests.support.broken import encode, landscape
from tuwen.data.formats import images
from tuwen.data.formats.images import decode_image, decode_pixels, make_pixel_tensor, resize_to_square

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # decode() silences them for a process, pytest for a test
RED, BLUE, WHITE = [255, 0, 0], [0, 0, 255], [255, 255, 255]


def test_transparent_parts_become_white() -> None:
    picture = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    picture.putpixel((1, 2), (0, 0, 255, 255))
    pixels = np.asarray(decode_image(encode(picture)))
    assert pixels[0, 0].tolist() == WHITE
    assert pixels[2, 1].tolist() == BLUE


@pytest.mark.parametrize("make", [broken.alpha_png, broken.palette_png])
def test_alpha_and_a_transparent_palette_colour_are_one_thing(make) -> None:
    pixels = np.asarray(decode_image(make()))
    assert (pixels[:, :32] == WHITE).all()
    assert (pixels[:, 32:] == BLUE).all()


def test_half_transparent_colours_are_mixed_with_white() -> None:
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    expected = [[255, 127, 127], BLUE]
    assert np.asarray(decode_image(encode(palette, transparency=b"\x80\xff")))[0].tolist() == expected
    assert decode_image(encode(Image.new("RGBA", (1, 1), (255, 0, 0, 128)))).getpixel((0, 0)) == (255, 127, 127)
    assert decode_image(encode(Image.new("LA", (1, 1), (0, 128)))).getpixel((0, 0)) == (127, 127, 127)
    assert decode_image(encode(Image.new("PA", (1, 1), (0, 0)), "TIFF")).getpixel((0, 0)) == (255, 255, 255)


def test_a_palette_without_transparency_keeps_its_colours() -> None:
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([10, 20, 30, 200, 0, 0])
    picture.putpixel((1, 0), 1)
    assert np.asarray(decode_image(encode(picture)))[0].tolist() == [[10, 20, 30], [200, 0, 0]]


@pytest.mark.parametrize("make", [broken.gif_named_jpg, broken.animated_png, broken.animated_webp])
def test_of_an_animation_the_first_frame_is_taken(make) -> None:
    pixels = np.asarray(decode_image(make())).astype(int)
    assert np.abs(pixels - np.asarray(landscape())).max() <= 2
    assert np.abs(pixels - np.asarray(landscape(hills="darkred"))).max() > 100


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    grey = np.asarray(decode_image(broken.grey16_png()))[0, :, 0].tolist()
    assert grey == [min(1040 * n, 65535) >> 8 for n in range(64)]
    big_endian = Image.frombytes("I;16B", (2, 1), bytes([0x12, 0x34, 0xFF, 0xFF]))
    assert np.asarray(decode_image(encode(big_endian, "TIFF")))[0].tolist() == [[0x12] * 3, WHITE]


def test_sixteen_bits_of_colour_look_like_sixteen_bits_of_grey() -> None:
    row = b"\0" + b"".join(value.to_bytes(2) * 3 for value in (0, 0x7F80, 0x8000, 0xFFFF))
    header = broken.chunk(b"IHDR", bytes([0, 0, 0, 4, 0, 0, 0, 1, 16, 2, 0, 0, 0]))
    pixels = broken.chunk(b"IDAT", zlib.compress(row))
    png = b"\x89PNG\r\n\x1a\n" + header + pixels + broken.chunk(b"IEND", b"")
    assert np.asarray(decode_image(png))[0, :, 1].tolist() == [0, 0x7F, 0x80, 0xFF]


def test_the_transparent_value_of_sixteen_bits_becomes_white() -> None:
    grey = Image.fromarray(np.array([[300, 301, 0]], np.uint16))
    assert np.asarray(decode_image(encode(grey, transparency=300)))[0, :, 0].tolist() == [255, 1, 0]


@pytest.mark.parametrize("values", [np.array([[-5, 0, 5]], np.int32), np.array([[0.25, 0.5, 0.75]], np.float32)])
def test_numbers_without_a_white_of_their_own_are_stretched(values) -> None:
    assert np.asarray(decode_image(encode(Image.fromarray(values), "TIFF")))[0, :, 0].tolist() == [0, 128, 255]


def test_what_is_no_number_is_black_and_one_value_is_no_range() -> None:
    values = np.array([[np.nan, -np.inf, 1.0, 2.0, np.inf]], np.float32)
    assert np.asarray(decode_image(encode(Image.fromarray(values), "TIFF")))[0, :, 0].tolist() == [
        0,
        0,
        0,
        255,
        255,
    ]
    same = Image.fromarray(np.full((2, 2), 7.0, np.float32))
    assert np.ptp(np.asarray(decode_image(encode(same, "TIFF")))) == 0


def test_one_bit_grey_and_print_colours_become_rgb() -> None:
    bits = Image.fromarray(np.array([[True, False]]))
    assert np.asarray(decode_image(encode(bits)))[0].tolist() == [WHITE, [0, 0, 0]]
    assert decode_image(encode(Image.new("L", (1, 1), 77))).getpixel((0, 0)) == (77, 77, 77)
    press = np.asarray(decode_image(broken.cmyk_jpeg())).astype(int)
    assert np.abs(press - np.asarray(landscape())).mean() < 4, "inverted values would be a negative"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_upright(orientation: int) -> None:
    for pixels in (
        np.asarray(decode_image(broken.rotated_jpeg(orientation))),
        decode_pixels(broken.rotated_jpeg(orientation)),
    ):
        assert pixels.shape == (48, 64, 3)
        assert np.abs(pixels.astype(int) - np.asarray(landscape())).mean() < 4


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_turns_nothing(orientation) -> None:
    exif = Image.Exif()
    exif[broken.ORIENTATION] = orientation
    assert decode_image(encode(landscape(), "JPEG", exif=exif)).size == (64, 48)


def test_broken_exif_is_no_fault_of_the_pixels() -> None:
    assert (
        np.asarray(decode_image(broken.broken_exif_jpeg())) == decode_pixels(encode(landscape(), "JPEG"))
    ).all()


@pytest.mark.parametrize("size", [(64, 48), (1, 1), (3, 2), (17, 33), (1, 40), (640, 1)])
def test_the_fast_decoder_gives_the_pixels_that_pillow_gives(size: tuple[int, int]) -> None:
    assert images._simplejpeg() is not None
    picture = landscape(*size)
    made = [
        encode(shown, "JPEG", quality=quality, subsampling=sampling, progressive=progressive)
        for shown in (picture, picture.convert("L"))
        for quality, sampling, progressive in itertools.product((20, 95), (0, 1, 2), (False, True))
    ]
    made += [encode(picture, "JPEG", keep_rgb=True), encode(picture.convert("CMYK"), "JPEG")]
    made += [encode(picture, "JPEG", restart_marker_blocks=2)]
    for data in made:
        assert (decode_pixels(data) == np.asarray(decode_image(data))).all()


def test_without_the_fast_decoder_pillow_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = decode_pixels(encode(landscape(), "JPEG"))
    monkeypatch.setattr(images, "_simplejpeg", lambda: None)
    assert (decode_pixels(encode(landscape(), "JPEG")) == fast).all()


@pytest.mark.parametrize("read", [decode_image, decode_pixels])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_refused_wherever_it_ends(read, progressive: bool) -> None:
    whole = encode(landscape(), "JPEG", progressive=progressive)
    for end in range(0, len(whole) - 2, 7):
        with pytest.raises(OSError, match=r"(?i)truncated|cannot (identify|load)|broken"):
            read(whole[:end])


@pytest.mark.parametrize(
    "make", [broken.truncated_png, broken.flipped_byte_png, broken.zip_named_png, broken.empty]
)
def test_whatever_is_wrong_the_error_is_one_kind(make) -> None:
    with pytest.raises(OSError, match=r"."):
        decode_image(make())


def test_what_would_start_a_program_is_no_picture() -> None:
    with pytest.raises(UnidentifiedImageError):
        decode_image(broken.postscript())


def test_pillows_limit_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in (2000, 1000):  # of the 3072 pixels: Pillow would warn, or raise
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for make in (broken.webp, broken.gif_named_jpg, broken.alpha_png, broken.progressive_jpeg):
                assert resize_to_square(decode_image(make()), 8).shape == (8, 8, 3)
            assert resize_to_square(decode_image(encode(landscape(200, 40))), 8).shape == (8, 8, 3)


def test_threads_do_not_disturb_each_other() -> None:
    data = [broken.rotated_jpeg(1 + n % 8) for n in range(64)]
    with ThreadPoolExecutor(8) as pool:
        assert {picture.size for picture in pool.map(decode_image, data)} == {(64, 48)}


def test_a_long_picture_is_cut_to_two_to_one_around_its_centre() -> None:
    picture = Image.new("RGB", (400, 40), "white")
    picture.paste("red", (160, 0, 240, 40))  # exactly the 80 x 40 that stay
    assert (resize_to_square(picture, 16) == RED).all()
    assert (resize_to_square(np.asarray(picture), 16) == RED).all()
    assert images.find_seen_box(400, 40) == (160, 0, 240, 40)
    tall = picture.transpose(Image.Transpose.ROTATE_90)
    assert (resize_to_square(tall, 16) == RED).all()
    assert resize_to_square(decode_image(broken.one_pixel_high()), 16).shape == (16, 16, 3)


def test_a_picture_within_two_to_one_is_squashed_whole() -> None:
    picture = Image.new("RGB", (60, 40), "white")
    picture.paste("black", (0, 0, 30, 40))
    assert images.find_seen_box(60, 40) == (0, 0, 60, 40)
    pixels = resize_to_square(picture, 20)
    assert pixels.shape == (20, 20, 3)
    assert pixels[:, :8].max() < 30
    assert pixels[:, 12:].min() > 225


def test_the_model_sees_clip_normalised_pixels() -> None:
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    pixels = make_pixel_tensor([black, white])
    assert pixels.shape == (2, 3, 2, 2)
    # CLIP's published mean and deviation on a 0..1 scale
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    np.testing.assert_allclose(pixels[0, :, 0, 0], -mean / std, atol=1e-4)
    np.testing.assert_allclose(pixels[1, :, 0, 0], (1 - mean) / std, atol=1e-4)
