"""Photos become faces in a process of its own: no call waits for it, and a photo that breaks it breaks nothing else."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection

import cv2

from engines.portrait.landmarks import FaceLandmarker
from engines.portrait.prepare import prepare
from engines.talkers import open_talker
from engines.types import ByteArray, Identity, KDTalkerError, PortraitError

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
    reason: str | None  # of a PortraitError; None where the process failed
    text: str


class Enroller:
    """The process, started with the first photo. `enrol` blocks and is for one thread; `stop` is for any."""

    def __init__(self, profile: str) -> None:
        self._profile = profile
        self._process: multiprocessing.process.BaseProcess | None = None
        self._line: Connection | None = None

    def enrol(self, photo: bytes) -> Enrolled:
        """Raises PortraitError for photos that cannot be used, those that break the process or take too long too."""
        if self._process is not None and not self._process.is_alive():
            self.stop()
        line = self._line or self._start()
        try:
            line.send_bytes(photo)
            if not line.poll(PATIENCE):
                raise TimeoutError("took too long")
            result = line.recv()
        except (OSError, EOFError) as error:  # a TimeoutError is one
            logger.warning("the process that prepares photos is started anew: %s", error or "it died")
            self.stop()
            raise PortraitError("unreadable", "This photo could not be prepared; please try another one.") from error
        if isinstance(result, _Refused):
            if result.reason is None:
                logger.error("a photo could not be prepared\n%s", result.text)
                raise KDTalkerError("The photo could not be prepared; the server's log says why.")
            raise PortraitError(result.reason, result.text)
        assert isinstance(result, Enrolled)
        return result

    def stop(self) -> None:
        """End the process, whatever it is doing; the next photo starts another one."""
        process, line = self._process, self._line
        self._process = self._line = None
        if process is not None:
            process.kill()
            process.join()
            process.close()
        if line is not None:
            line.close()

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")  # a fork would take the threads' locks along
        self._line, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, self._profile), name="enrol", daemon=True)
        self._process.start()
        other.close()
        return self._line


def _work(line: Connection, profile: str) -> None:
    """Answer photos until the other end is closed, which a server that dies does too."""
    for stopping in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stopping, signal.SIG_IGN)  # they reach the whole group; the server decides
    if sys.platform != "win32":
        os.nice(15)
    cv2.setNumThreads(1)
    landmarker, renderer = FaceLandmarker(), open_talker(profile).renderer
    while True:
        try:
            photo = line.recv_bytes()
        except EOFError:
            return
        result: Enrolled | _Refused
        try:
            portrait = prepare(photo, landmarker)
            result = Enrolled(renderer.enrol(portrait), jpeg(portrait.crop), dict(portrait.report))
        except PortraitError as error:
            result = _Refused(error.reason, str(error))
        except Exception:
            result = _Refused(None, traceback.format_exc())
        line.send(result)


def jpeg(rgb: ByteArray) -> bytes:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, PICTURE_QUALITY])
    if not done:
        raise KDTalkerError("The prepared picture could not be written as JPEG.")
    return data.tobytes()
