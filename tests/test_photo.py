"""Decoding what strangers send: limits before unpacking, orientation, colour, damage."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from engines.portrait.photo import BACKDROP, MAX_BYTES, read_photo
from engines.types import PortraitError

ASTRONAUT = Path("engines/avatars/astronaut.jpg")
REMEDY = ("send", "save")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def gradient() -> Image.Image:
    """Red grows to the right, green downwards."""
    rows, columns = np.mgrid[:96, :128]
    return Image.fromarray(np.stack([columns * 2, rows * 2, np.full_like(rows, 40)], -1).astype(np.uint8))


def refused(data: bytes) -> str:
    with pytest.raises(PortraitError) as caught:
        read_photo(data)
    assert caught.value.reason == "unreadable"
    assert any(word in str(caught.value) for word in REMEDY), "the message must say what to do"
    return str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_formats_give_the_same_picture(gradient: Image.Image, kind: str) -> None:
    pixels = read_photo(encoded(gradient, kind)).pixels
    assert pixels.dtype == np.uint8
    assert pixels.shape == (96, 128, 3)
    assert np.abs(pixels.astype(int) - np.asarray(gradient).astype(int)).mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(gradient: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = gradient.transpose(undo[orientation]) if orientation > 1 else gradient
    pixels = read_photo(encoded(stored, "PNG", exif=exif)).pixels
    np.testing.assert_array_equal(pixels, np.asarray(gradient))


def test_cmyk_jpeg_keeps_its_colours(gradient: Image.Image) -> None:
    pixels = read_photo(encoded(gradient.convert("CMYK"), "JPEG", quality=95)).pixels
    assert np.abs(pixels.astype(int) - np.asarray(gradient).astype(int)).mean() < 6


def test_grey_of_8_and_16_bits_are_the_same_picture(gradient: Image.Image) -> None:
    grey = np.asarray(gradient.convert("L"))
    eight = read_photo(encoded(Image.fromarray(grey), "PNG")).pixels
    sixteen = read_photo(encoded(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")).pixels
    np.testing.assert_array_equal(eight, np.repeat(grey[..., None], 3, -1))
    np.testing.assert_array_equal(sixteen, eight)


def test_transparent_pixels_show_the_backdrop(gradient: Image.Image) -> None:
    see_through = gradient.convert("RGBA")
    see_through.paste((255, 0, 0, 0), (0, 0, 40, 96))
    pixels = read_photo(encoded(see_through, "PNG")).pixels
    assert (pixels[:, :40] == BACKDROP).all()
    np.testing.assert_array_equal(pixels[:, 40:], np.asarray(gradient)[:, 40:])
    palette = gradient.quantize(16)
    palette.info["transparency"] = palette.getpixel((100, 50))
    assert (read_photo(encoded(palette, "PNG")).pixels[50, 100] == BACKDROP).all()


def test_of_an_animation_the_first_picture_is_taken(gradient: Image.Image) -> None:
    black = Image.new("RGB", gradient.size)
    data = encoded(gradient, "GIF", save_all=True, append_images=[black, black], duration=40)
    assert read_photo(data).pixels.mean() > 50


def test_a_colour_profile_is_obeyed_and_a_broken_one_ignored(gradient: Image.Image) -> None:
    """Phones tag their photos Display P3; here a profile whose red and green are exchanged makes it plain to see."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = srgb.replace(b"rXYZ", b"....").replace(b"gXYZ", b"rXYZ").replace(b"....", b"gXYZ")
    pixels = read_photo(encoded(gradient, "PNG", icc_profile=exchanged)).pixels
    assert np.abs(pixels.astype(int) - np.asarray(gradient)[..., [1, 0, 2]].astype(int)).mean() < 2
    broken = read_photo(encoded(gradient, "PNG", icc_profile=b"no profile" * 30)).pixels
    np.testing.assert_array_equal(broken, np.asarray(gradient))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_large_picture_is_reduced_and_says_so(kind: str) -> None:
    photo = read_photo(encoded(Image.new("RGB", (6000, 4200), (120, 90, 70)), kind))
    assert 2048 <= photo.pixels.shape[1] < 4096
    assert photo.pixels.shape[1] * photo.scale == pytest.approx(6000)
    assert photo.pixels.shape[0] * photo.scale == pytest.approx(4200)


def test_not_an_image_is_refused() -> None:
    refused(b"")
    refused(b"%PDF-1.7 and so on")
    refused(b"<svg xmlns='http://www.w3.org/2000/svg' width='500' height='500'/>")
    refused(bytes(range(256)) * 40)


def test_truncated_and_damaged_files_are_refused() -> None:
    data = ASTRONAUT.read_bytes()
    refused(data[: len(data) // 2])
    refused(data[:300])
    png = bytearray(encoded(Image.open(ASTRONAUT), "PNG"))
    png[len(png) // 2 : len(png) // 2 + 400] = bytes(400)
    refused(bytes(png))


def test_too_many_bytes_are_refused_before_looking() -> None:
    assert "MB" in refused(bytes(MAX_BYTES + 1))


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (65_000, 65_000), (9_000, 6_000)])
def test_a_decompression_bomb_is_refused_by_its_header(width: int, height: int) -> None:
    """The header alone promises the pixels; none follow, so unpacking them would fail otherwise."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    assert "megapixels" in refused(bomb)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (40, 40), (5000, 70)])
def test_tiny_and_ribbon_pictures_are_refused(size: tuple[int, int]) -> None:
    refused(encoded(Image.new("RGB", size), "PNG"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_random_damage_gives_a_picture_or_a_refusal(gradient: Image.Image, kind: str) -> None:
    whole = np.frombuffer(encoded(gradient, kind), np.uint8)
    reasons = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        data = whole[: random.integers(len(whole) // 2, len(whole) + 1)].copy()
        places = random.integers(0, len(data), random.integers(1, 30))
        data[places] = random.integers(0, 256, len(places))
        try:
            assert read_photo(data.tobytes()).pixels.ndim == 3
        except PortraitError as error:
            reasons.append(error.reason)
    assert set(reasons) == {"unreadable"}, "and damage that nothing notices would test nothing"
