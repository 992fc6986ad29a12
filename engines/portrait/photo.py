"""From the bytes of an image file to upright sRGB pixels, without trusting either.

A stranger may send anything: the header is read first and the size in it judged before any pixel
is unpacked. Every failure is a PortraitError with reason ``unreadable``.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageOps

from engines.types import ByteArray, PortraitError

MAX_BYTES = 25_000_000
MAX_PIXELS = 52_000_000  # phones write up to 50 megapixels without being asked to
MIN_SIDE = 64  # pixels; less holds no usable face
MAX_ASPECT = 10.0
WORKING_SIDE = 2048  # larger pictures are reduced by a whole number while their longer side stays above this
# Formats with external parts, scripts or many directories (TIFF, EPS, WMF ...) stay closed.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
BACKDROP = (222, 222, 222)  # shown through transparent pixels


@dataclass(frozen=True, slots=True)
class Photo:
    """`pixels` u8 (H, W, 3) RGB, upright. `scale`: pixels of the file's upright picture per pixel here."""

    pixels: ByteArray
    scale: float


def _unreadable(message: str) -> PortraitError:
    return PortraitError("unreadable", message)


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _unreadable(
            f"The picture has {width * height / 1e6:.0f} megapixels; send one of at most {MAX_PIXELS // 1_000_000}."
        )
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT * min(width, height):
        raise _unreadable(
            f"The picture measures {width} x {height} pixels; send a photo of at least {MIN_SIDE} pixels a side."
        )


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Colours as the camera meant them (phones write Display P3); a profile that is no good is ignored."""
    if image.mode not in ("RGB", "CMYK"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image
    return converted if converted is not None else image


def _to_rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips instead of scaling
        grey = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip(grey >> 8, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        backdrop = Image.new("RGBA", image.size, (*BACKDROP, 255))
        return Image.alpha_composite(backdrop, image).convert("RGB")
    if isinstance(profile, bytes):
        image = _to_srgb(image, profile)
    return image if image.mode == "RGB" else image.convert("RGB")  # converting would copy


def read_photo(data: bytes) -> Photo:
    """Bytes of a JPEG, PNG, WebP, GIF or BMP file -> its first picture, turned as its EXIF data asks.

    Raises PortraitError (``unreadable``) for anything else, for damaged files and for pictures
    over `MAX_BYTES` or `MAX_PIXELS` (told from the header, before unpacking).
    """
    if len(data) > MAX_BYTES:
        raise _unreadable(
            f"The file has {len(data) / 1e6:.0f} MB; send a photo of at most {MAX_BYTES // 1_000_000} MB."
        )
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        _check_size(width, height)
        image.draft("RGB", (min(width, WORKING_SIDE), min(height, WORKING_SIDE)))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        upright = _to_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _unreadable(
            f"The picture is too large to unpack; send one of at most {MAX_PIXELS // 1_000_000} megapixels."
        ) from error
    except PortraitError:
        raise
    # What Pillow's decoders let out when a file is damaged on purpose.
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError) as error:
        raise _unreadable("The file is no image that can be read; save the photo again as JPEG or PNG.") from error
    except (struct.error, zlib.error, MemoryError, NotImplementedError, AssertionError) as error:
        raise _unreadable("The image file is damaged; save the photo again as JPEG or PNG.") from error
    if max(upright.size) >= 2 * WORKING_SIDE:
        upright = upright.reduce(max(upright.size) // WORKING_SIDE)
    return Photo(np.ascontiguousarray(upright), max(width, height) / max(upright.size))
