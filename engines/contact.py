"""Lips that meet on p, b and m: when they do, from the sound (`engines.recurrent`), and how a mouth closes.

The denoiser often leaves lips a little open at such moments, and closed where they should be apart. Where this network
is sure of either, the frame shown is moved the way tracked mouths close and part: lips, and the jaw as far as it goes
with them. Parameters: ``weights/embedded/contact.npz``, fitted by ``python -m training contact``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from engines.face_mesh import FaceModel
from engines.motion import EXPRESSION
from engines.recurrent import Recurrent
from engines.tables import own, tables
from engines.types import MOTION_WIDTH, FloatArray

DELAY = 1  # ticks that an answer comes after the frame it is for; what a window looks ahead covers it
# Of the network's answer: at 0 lips are apart, between the first two it does not know, from the last on they touch.
APART, DOUBT, TOUCH = 0.3, 0.35, 0.65
GAP = 0.06  # eye distances that lips surely apart are open at least


@dataclass(frozen=True, slots=True)
class Contact:
    """How a mouth closes, in normalised motion f32 (70,).

    `rest`: the closed mouth. `opening`: what a number adds to the opening, in eye distances. `closing`: how the mouth
    moves with one eye distance of opening while lips meet or part.
    """

    rest: FloatArray
    opening: FloatArray
    closing: FloatArray

    def shaped(self, frames: FloatArray, lips: FloatArray) -> FloatArray:
        """Frames (..., 70) with lips drawn together by the share `lips` (...), or apart where it is negative."""
        opening = (frames - self.rest) @ self.opening
        # Lips already closed, or open enough, stay as they are.
        change = np.minimum(-lips, 0) * np.maximum(opening, 0) + np.maximum(-lips, 0) * np.maximum(GAP - opening, 0)
        return np.asarray(frames + change[..., None] * self.closing, np.float32)


@dataclass(frozen=True, slots=True)
class ContactModel:
    """The network that hears when lips touch; holds no caller's state.

    `closing` f32 (21, 3): expression that goes with one eye distance of opening.
    """

    network: Recurrent
    closing: FloatArray

    def begin(self) -> FloatArray:
        """State of a call before its first tick."""
        return self.network.begin()

    def advance(self, windows: FloatArray, state: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mel windows (T, 80, K) of consecutive ticks -> lips f32 (T,) and the state after.

        1: they touch, -1: they are apart, 0: unknown, in the frame `DELAY` ticks before each window's.
        """
        answers, state = self.network.advance(windows, state)
        together = np.clip((answers - DOUBT) / (TOUCH - DOUBT), 0, 1)
        apart = np.clip((APART - answers) / APART, 0, 1)
        return np.asarray(together - apart, np.float32), state

    def contact(self, face: FaceModel) -> Contact:
        """For motion normalised as `face` says."""
        closing = np.zeros(MOTION_WIDTH, np.float32)
        closing[EXPRESSION] = self.closing.reshape(-1) / face.normalisation.std[EXPRESSION]
        return Contact(face.rest(), face.opening(), closing)

    def save(self, path: Path) -> None:
        self.network.save(path, closing=self.closing)


@cache
def contact_model(folder: Path | None = None) -> ContactModel:
    """Parameters from a folder that has its own, else the shipped ones; raises WeightsError when they are not ours."""
    with tables("contact.npz", "contact tables", own(folder, "contact.npz")) as archive:
        return ContactModel(Recurrent.of(archive), archive["closing"])
