"""Pictures as people's disks hold them: cut off, damaged, mislabeled, deep, turned."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from core.data.images import open_rgb

FORMATS = [
    ("JPEG", "RGB"),
    ("JPEG", "CMYK"),
    ("PNG", "RGB"),
    ("PNG", "P"),
    ("GIF", "P"),
    ("BMP", "RGB"),
    ("TIFF", "RGB"),
    ("WEBP", "RGB"),
    ("PPM", "RGB"),
    *([("AVIF", "RGB")] if features.check("avif") else []),
]
each_format = pytest.mark.parametrize(("kind", "mode"), FORMATS)


def noise(mode="RGB", size=24):
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def opened(file, data):
    """The picture, or the one line of its error."""
    file.write_bytes(data)
    try:
        image = open_rgb(file)
    except ValueError as error:
        line = str(error)
    else:
        assert image.mode == "RGB"
        return image
    assert str(file) in line and "\n" not in line
    return line


@pytest.mark.filterwarnings("ignore")
@each_format
def test_a_file_cut_off_anywhere_in_its_first_half_is_an_error(tmp_path, kind, mode):
    data = encoded(noise(mode), kind)
    for length in range(0, len(data) // 2, max(1, len(data) // 40)):
        assert isinstance(opened(tmp_path / "x", data[:length]), str), length


@pytest.mark.filterwarnings("ignore")
@each_format
def test_damaged_bytes_give_a_picture_or_a_line_that_names_the_file(tmp_path, kind, mode):
    data, rng = encoded(noise(mode), kind), random.Random(0)
    results = []
    for _ in range(80):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(min(len(data), 200))] = rng.randrange(256)
        results.append(opened(tmp_path / "x", bytes(damaged)))
    assert any(isinstance(result, str) for result in results)


@each_format
def test_the_suffix_plays_no_part(tmp_path, kind, mode):
    image = opened(tmp_path / "picture.jpg", encoded(noise(mode), kind))
    assert image.size == (24, 24)


def test_a_cmyk_jpeg_keeps_its_colors(tmp_path):
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    r, g, b = opened(tmp_path / "x.jpg", encoded(red, "JPEG", quality=95)).getpixel((8, 8))
    assert r > 240 and g < 15 and b < 15


def png16(width, height, channels, samples):
    """A PNG of 16 bits a sample, which Pillow cannot write for color."""
    rows = np.asarray(samples, dtype=">u2").reshape(height, width * channels)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data)
        )  # fmt: skip

    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("channels", "sample", "expected"),
    [
        (1, [90 * 257], (90, 90, 90)),
        (2, [90 * 257, 0], (90, 90, 90)),
        (3, [65535, 90 * 257, 300], (255, 90, 1)),
        (4, [65535, 90 * 257, 300, 0], (255, 90, 1)),  # alpha is dropped
    ],
)
def test_sixteen_bits_a_sample(tmp_path, channels, sample, expected):
    image = opened(tmp_path / "x.png", png16(4, 4, channels, sample * 16))
    assert set(image.get_flattened_data()) == {expected}


@pytest.mark.parametrize("mode", ["I", "F"])
def test_depths_without_a_defined_white_are_refused(tmp_path, mode):
    line = opened(tmp_path / "x.tiff", encoded(Image.new(mode, (4, 4)), "TIFF"))
    assert "has no defined white level; save it with 8 or 16 bits" in line


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_ignored_as_published(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.new("RGB", (8, 4))
    assert opened(tmp_path / "x.jpg", encoded(image, "JPEG", exif=exif)).size == (8, 4)


def test_what_is_no_file_is_named_too(tmp_path):
    for path, words in ((tmp_path / "gone.jpg", "does not exist"), (tmp_path, "cannot be read")):
        with pytest.raises(ValueError, match=words) as caught:
            open_rgb(path)
        assert str(path) in str(caught.value)


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    line = opened(tmp_path / "x.png", encoded(noise(), "PNG"))
    assert "decompression bomb" in line
