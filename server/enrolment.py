"""Photos become faces in a process of its own: no call waits for it, and a photo that breaks it breaks nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2

from engines.portrait.landmarks import FaceLandmarker
from engines.portrait.prepare import prepare
from engines.talkers import open_talker
from engines.types import ByteArray, Identity, KDTalkerError, PortraitError
from server.apart import Apart, BrokenError, FailedError

PATIENCE = 60.0  # seconds for one photo, the process's own start included
PICTURE_QUALITY = 90

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """`picture`: JPEG of the square the face is shown in. `report`: what the photo's checks measured."""

    identity: Identity
    picture: bytes
    report: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Refused:
    """A PortraitError, which takes two arguments and so cannot be pickled itself."""

    reason: str
    text: str


class Enroller:
    """The process, started with the first photo. `enrol` blocks and is for one thread; `stop` is for any."""

    def __init__(self, profile: str) -> None:
        self._process = Apart("enrol", _enrolling, profile, patience=PATIENCE)

    def enrol(self, photo: bytes) -> Enrolled:
        """Raises PortraitError for photos that cannot be used, those that break the process or take too long too."""
        try:
            result = self._process.ask(photo)
        except BrokenError as error:
            logger.warning("the process that prepares photos is started anew: %s", error)
            raise PortraitError("unreadable", "This photo could not be prepared; please try another one.") from error
        except FailedError as error:
            logger.error("a photo could not be prepared\n%s", error)
            raise KDTalkerError("The photo could not be prepared; the server's log says why.") from error
        if isinstance(result, _Refused):
            raise PortraitError(result.reason, result.text)
        assert isinstance(result, Enrolled)
        return result

    def stop(self) -> None:
        """End the process, whatever it is doing; the next photo starts another one."""
        self._process.stop()


def _enrolling(profile: str) -> Callable[[bytes], Enrolled | _Refused]:
    cv2.setNumThreads(1)
    landmarker, renderer = FaceLandmarker(), open_talker(profile).renderer

    def enrol(photo: bytes) -> Enrolled | _Refused:
        try:
            portrait = prepare(photo, landmarker)
            return Enrolled(renderer.enrol(portrait), jpeg(portrait.crop), dict(portrait.report))
        except PortraitError as error:
            return _Refused(error.reason, str(error))

    return enrol


def jpeg(rgb: ByteArray) -> bytes:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, PICTURE_QUALITY])
    if not done:
        raise KDTalkerError("The prepared picture could not be written as JPEG.")
    return data.tobytes()
