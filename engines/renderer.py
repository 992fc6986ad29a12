"""What a renderer is, whichever profile it belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from engines.profile import Profile
from engines.types import FRAME_SIZE, ByteArray, FloatArray, Identity, KDTalkerError, Portrait


class Renderer(Protocol):
    """Turns motion into pictures. Keeps no caller's state; safe to use from several threads."""

    def warm(self, batches: Iterable[int]) -> None:
        """Prepare to enrol photos and to render so many frames at once."""
        ...

    def enrol(self, portrait: Portrait) -> Identity:
        """Prepare a portrait, once per photo."""
        ...

    def render(self, identities: Sequence[Identity], motions: FloatArray, out: ByteArray | None = None) -> ByteArray:
        """Absolute motion (N, 70) of N identities -> u8 (N, 512, 512, 3) RGB, into `out` when given."""
        ...

    def staged(self, identity: Identity, view: str, background: str) -> Staged:
        """Prepare this view of a face, one of those that the profile's `Offer` has; some tens of milliseconds."""
        ...


class Staged(Protocol):
    """One face as a call sees it. `size`: width and height of its pictures, both even."""

    @property
    def size(self) -> tuple[int, int]: ...

    def __call__(self, frame: FloatArray) -> ByteArray:
        """Absolute motion (70,) -> u8 (height, width, 3) RGB."""
        ...


@dataclass(frozen=True, slots=True)
class Plain:
    """The crop as the renderer makes it."""

    renderer: Renderer
    identity: Identity
    size: tuple[int, int] = (FRAME_SIZE, FRAME_SIZE)

    def __call__(self, frame: FloatArray) -> ByteArray:
        picture: ByteArray = self.renderer.render([self.identity], frame[None])[0]
        return picture


def open_renderer(profile: Profile) -> Renderer:
    """The renderer of `profile`."""
    if profile.name == "embedded":
        from engines.face_mesh import face_model
        from engines.warp.mesh_warp import MeshWarp

        return MeshWarp(face_model(), profile.name)
    raise KDTalkerError(f"The profile '{profile.name}' has no renderer here.")
