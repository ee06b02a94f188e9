"""Encoded images as they occur in the wild: broken, misnamed, with a false size, or merely unusual."""

import base64
import io
import random
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

ORIENTATION = 0x0112  # the EXIF tag


def landscape(width: int = 64, height: int = 48, hills: str = "darkgreen") -> Image.Image:
    """Return a drawing whose corners and halves all differ."""
    image = Image.new("RGB", (width, height), "skyblue")
    pen = ImageDraw.Draw(image)
    pen.polygon([(0, height), (width // 3, height // 3), (width, height)], fill=hills)
    pen.ellipse((width * 3 // 4, 2, max(width - 2, width * 3 // 4), max(height // 3, 2)), fill="gold")
    return image


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return the file that Pillow writes of `image`."""
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return one chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunks(png: bytes, *chunks: bytes, at_end: bool = False) -> bytes:
    """Return the PNG with more chunks, behind its header or before its end."""
    place = len(png) - 12 if at_end else 33
    return png[:place] + b"".join(chunks) + png[place:]


# Broken


def truncated_jpeg() -> bytes:
    """The last fifth is missing, with the end mark."""
    whole = encode(landscape(), "JPEG")
    return whole[: len(whole) * 4 // 5]


def closed_jpeg() -> bytes:
    """The same with a new end mark, as some proxies and editors write: viewers show grey below."""
    return truncated_jpeg() + b"\xff\xd9"


def truncated_png() -> bytes:
    """As of a download that stopped."""
    return encode(landscape())[:-80]


def bomb_header_png(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG that claims a size and has no pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def bomb_header_webp() -> bytes:
    """An animation of one frame, 64 x 48, on the largest canvas that a WebP can claim."""
    frame = encode(landscape(), "WEBP")[12:]
    corner_size_duration = bytes(6) + struct.pack("<HBHB", 63, 0, 47, 0) + bytes(4)
    chunks = {
        b"VP8X": b"\x02\0\0\0" + b"\xff\x3f\x00" * 2,  # 16384 x 16384
        b"ANIM": bytes(6),
        b"ANMF": corner_size_duration + frame,
    }
    body = b"".join(kind + struct.pack("<I", len(data)) + data for kind, data in chunks.items())
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def bomb_header_gif(screen: int = 65_535, frame: int = 65_535) -> bytes:
    """A screen and a first frame of these sides, to be filled with the background, and no pixels."""
    descriptor = struct.pack("<BHHHHB", 0x2C, 0, 0, frame, frame, 0)
    disposal = b"\x21\xf9\x04" + bytes([2 << 2, 0, 0, 0, 0])
    palette = bytes(6)
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", screen, screen, 0x80, 0, 0)
        + palette
        + disposal
        + descriptor
        + b"\x02\0;"
    )


def flipped_byte_png() -> bytes:
    """One byte of the pixels differs from what the checksum says."""
    encoded = bytearray(encode(landscape()))
    encoded[len(encoded) // 2] ^= 0xFF
    return bytes(encoded)


def zip_named_png() -> bytes:
    """An archive; its name would be 图.png."""
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(zipfile.ZipInfo("图.png"), encode(landscape()))
        return file.getvalue()


def postscript() -> bytes:
    """A program that draws: Pillow would start Ghostscript to run it."""
    return (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\n0 0 64 48 rectfill\nshowpage\n%%EOF\n"
    )


def empty() -> bytes:
    """A file of no bytes."""
    return b""


def nul_bytes() -> bytes:
    """What a full disk leaves behind."""
    return bytes(4096)


def random_bytes() -> bytes:
    """Noise, the same each time."""
    return random.Random(7).randbytes(4096)


def text() -> bytes:
    """The page that a server sends in place of an image."""
    return "<html><body>抱歉，您访问的图片不存在</body></html>".encode()


# Whole, but unusual


def gif_named_jpg() -> bytes:
    """Two frames; its name would be 图.jpg."""
    second = landscape(hills="darkred")
    return encode(landscape(), "GIF", save_all=True, append_images=[second], duration=100)


def animated_webp() -> bytes:
    """Two frames."""
    second = landscape(hills="darkred")
    return encode(landscape(), "WEBP", save_all=True, append_images=[second], duration=100, lossless=True)


def animated_png() -> bytes:
    """Two frames (APNG)."""
    return encode(landscape(), save_all=True, append_images=[landscape(hills="darkred")], duration=100)


def gif_with_broken_second_frame() -> bytes:
    """The first frame is whole."""
    whole = gif_named_jpg()
    return whole[: len(encode(landscape(), "GIF")) + 20]


def one_pixel() -> bytes:
    """A tracking pixel."""
    return encode(Image.new("RGB", (1, 1), "teal"), "GIF")


def one_pixel_high() -> bytes:
    """A dividing line of 640 x 1."""
    return encode(landscape(640, 48).crop((0, 30, 640, 31)), "JPEG")


def blank(width: int = 320, height: int = 240) -> bytes:
    """White paper, as a JPEG."""
    return encode(Image.new("RGB", (width, height), "white"), "JPEG")


def alpha_png() -> bytes:
    """The left half is invisible red, the right half opaque blue."""
    image = Image.new("RGBA", (64, 48), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (32, 0, 64, 48))
    return encode(image)


def palette_png() -> bytes:
    """The same in palette colours, of which one is transparent."""
    image = Image.new("P", (64, 48), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (32, 0, 64, 48))
    return encode(image, transparency=0)


def grey16_png() -> bytes:
    """From black on the left to white on the right in steps of 1024 of 65535."""
    row = np.minimum(np.arange(64, dtype=np.uint32) * 1040, 65535).astype(np.uint16)
    return encode(Image.fromarray(np.tile(row, (48, 1))))


def cmyk_jpeg() -> bytes:
    """For the press, with Adobe's mark, which means that its values are inverted."""
    return encode(landscape().convert("CMYK"), "JPEG", quality=95)


def rotated_jpeg(orientation: int, width: int = 64, height: int = 48) -> bytes:
    """`landscape` as stored by a camera that was held in the position of EXIF `orientation` (1 to 8)."""
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose, which the reader must undo
    image, exif = landscape(width, height), Image.Exif()
    exif[ORIENTATION] = orientation
    if orientation != 1:
        image = image.transpose(Image.Transpose(back[orientation]))
    return encode(image, "JPEG", quality=95, subsampling=0, exif=exif)


def broken_exif_jpeg() -> bytes:
    """The pixels are whole."""
    return encode(landscape(), "JPEG", exif=b"Exif\0\0" + b"MM\0\x2a\0\0\xff\xff garbage")


def progressive_jpeg() -> bytes:
    """Coarse to fine."""
    return encode(landscape(), "JPEG", progressive=True)


def webp() -> bytes:
    """Named .jpg by many sites."""
    return encode(landscape(), "WEBP")


def heic() -> bytes:
    """A teal square of 64 x 64, as phones write it."""
    return base64.b64decode(
        "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAVZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9j"
        "AAAAAERAAAEAAQAAAAABegABAAAAAAAAABgAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA1mlw"
        "cnAAAAC3aXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AA"
        "AAMAkAAAAwAAAwAeoCCBBZbqSSmubgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHBcrAiQAAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAA"
        "AABAAAAAQAAAABBwaXhpAAAAAAMICAgAAAAXaXBtYQAAAAAAAAABAAEEgQIDBAAAACBtZGF0AAAAFCgBrwQY/Hk46//4ESe7yftNZHQ4"
    )
