"""What tells people that they see an avatar: a small sign in the picture, and words in a film's metadata."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engines.types import ByteArray, FloatArray

WORDS = "AI avatar"
HEIGHT, MARGIN = 0.052, 0.032  # of the picture's shorter side: the sign, and its distance from the corner
INK, GROUND, COVER = 255, (20, 17, 26), 0.62  # the words' grey, the colour behind them, and how much that covers
FINER = 4  # times, that the sign is drawn and then reduced, for smooth edges

# Metadata of a film (MP4 `©cmt` and `desc`), with IPTC's term for a person's likeness that a model animates.
SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
METADATA = {
    "comment": f"The person shown is an AI avatar: a photo animated by KDTalker Live. Digital source type: {SOURCE}",
    "description": "The person shown is an AI avatar.",
}


def marked(picture: ByteArray) -> ByteArray:
    """A copy of a picture u8 (h, w, 3) with the sign in its upper right corner."""
    height, width = picture.shape[:2]
    sign = _sign(min(height, width))
    rows, columns = sign.cover.shape[:2]
    margin = round(MARGIN * min(height, width))
    place = np.s_[margin : margin + rows, width - margin - columns : width - margin]
    out = picture.copy()
    out[place] = (out[place] * (1 - sign.cover) + sign.colour + 0.5).astype(np.uint8)
    return out


@dataclass(frozen=True, slots=True)
class _Sign:
    """`colour` f32 (h, w, 3), multiplied by `cover` f32 (h, w, 1), 0 to 1."""

    colour: FloatArray
    cover: FloatArray


@cache
def _sign(side: int) -> _Sign:
    """The sign for pictures whose shorter side has so many pixels."""
    height = max(8, round(HEIGHT * side))
    tall = FINER * height
    font = ImageFont.load_default(0.6 * tall)
    wide = FINER * round((font.getlength(WORDS) + 0.85 * tall) / FINER)
    pill, words = (Image.new("L", (wide, tall)) for _ in range(2))
    ImageDraw.Draw(pill).rounded_rectangle((0, 0, wide - 1, tall - 1), tall / 2, fill=255)
    ImageDraw.Draw(words).text((wide / 2, 0.49 * tall), WORDS, fill=255, font=font, anchor="mm")
    ground, ink = (_share(layer.resize((wide // FINER, height), Image.Resampling.BOX)) for layer in (pill, words))
    behind = COVER * ground * (1 - ink)
    return _Sign(behind * np.array(GROUND, np.float32) + ink * INK, behind + ink)


def _share(layer: Image.Image) -> FloatArray:
    """Grey pixels -> f32 (h, w, 1), 0 to 1."""
    return np.asarray(layer, np.float32)[..., None] / np.float32(255)
