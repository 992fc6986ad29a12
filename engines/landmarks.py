"""Faces in a picture: boxes, the 478-point mesh and the person's outline, by MediaPipe.

MediaPipe is imported at the first use, not with this module: it takes seconds. A `FaceLandmarker`
owns its graphs and serialises them; two of them do not disturb each other, and making one costs
about 15 ms once MediaPipe is loaded.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from engines.types import ByteArray, FloatArray, KDTalkerError

MESH_POINTS = 478
DETECTION_SCORE = 0.5
DETECTOR_SIDE = 1024  # detectors shrink their input to 192 pixels or less; a bigger picture only costs time
OVERLAP = 0.35  # intersection over union from which two boxes are one face

_stderr_lock = threading.Lock()
_CHATTER = (b"XNNPACK", b"absl::InitializeLog", b"inference_feedback_manager", b"landmark_projection_calculator")


@dataclass(frozen=True, slots=True)
class FaceBox:
    """Square around eyes, nose and mouth, in pixels: centre, side, and the detector's score in [0, 1]."""

    x: float
    y: float
    side: float
    score: float

    def overlap(self, other: FaceBox) -> float:
        """Intersection over union."""
        width = min(self.x + self.side / 2, other.x + other.side / 2) - max(self.x - self.side / 2, other.x - other.side / 2)
        height = min(self.y + self.side / 2, other.y + other.side / 2) - max(self.y - self.side / 2, other.y - other.side / 2)
        shared = max(width, 0.0) * max(height, 0.0)
        return shared / (self.side**2 + other.side**2 - shared)


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Keep MediaPipe's start-up lines off stderr.

    They are written by C++ before any log level can be set, so the descriptor itself is turned to a
    file for the moment; whatever else was written meanwhile is passed on afterwards.
    """
    with _stderr_lock, tempfile.TemporaryFile() as caught:
        sys.stderr.flush()
        original = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(original, 2)
            os.close(original)
            caught.seek(0)
            for line in caught:
                if not any(word in line for word in _CHATTER):
                    os.write(2, line)


def _solutions() -> Any:
    try:
        import mediapipe.python.solutions as solutions
    except ImportError as error:
        raise KDTalkerError(f"MediaPipe, which finds faces, is not installed ({error}); run `make install`.") from error
    return solutions


class FaceLandmarker:
    """MediaPipe's face detectors, face mesh and person outline on still pictures; safe to share between threads.

    Pictures are u8 (H, W, 3) RGB. Use as a context manager or call `close`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._graphs: dict[str, Any] = {}

    def __enter__(self) -> FaceLandmarker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the graphs and their threads; the next use makes new ones."""
        with self._lock:
            for graph in self._graphs.values():
                graph.close()
            self._graphs.clear()

    def _run(self, name: str, image: ByteArray) -> Any:
        with self._lock:
            if name in self._graphs:
                return self._graphs[name].process(image)
            solutions = _solutions()
            make = {
                "near": lambda: solutions.face_detection.FaceDetection(DETECTION_SCORE, 0),
                "far": lambda: solutions.face_detection.FaceDetection(DETECTION_SCORE, 1),
                "mesh": lambda: solutions.face_mesh.FaceMesh(True, 1, True, DETECTION_SCORE),
                "person": lambda: solutions.selfie_segmentation.SelfieSegmentation(0),
            }[name]
            with _without_chatter():
                graph = self._graphs[name] = make()
                return graph.process(image)

    def boxes(self, image: ByteArray) -> list[FaceBox]:
        """Faces in the picture, largest first, by the detector for near and the one for far faces."""
        height, width = image.shape[:2]
        shrink = min(1.0, DETECTOR_SIDE / max(height, width))
        small = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA) if shrink < 1 else image
        found = []
        for name in ("near", "far"):
            for detection in self._run(name, np.ascontiguousarray(small)).detections or []:
                box = detection.location_data.relative_bounding_box
                centre = (box.xmin + box.width / 2) * width, (box.ymin + box.height / 2) * height
                side = max(box.width * width, box.height * height)
                found.append(FaceBox(*centre, side, detection.score[0]))
        return distinct(found)

    def mesh(self, image: ByteArray) -> FloatArray | None:
        """478 landmarks f32 (478, 3) of the one face that fills a good part of the picture, or None.

        x right and y down in pixels, pixel centres at whole numbers; z in the same unit, negative
        towards the camera, zero at the head's middle.
        """
        found = self._run("mesh", np.ascontiguousarray(image)).multi_face_landmarks
        if not found:
            return None
        height, width = image.shape[:2]
        points = np.array([(point.x, point.y, point.z) for point in found[0].landmark], np.float32)
        return (points * np.array([width, height, width]) - np.array([0.5, 0.5, 0.0])).astype(np.float32)

    def person(self, image: ByteArray) -> FloatArray:
        """How likely each pixel shows a person, f32 (H, W) in [0, 1]; coarse (256 x 256 inside)."""
        return np.asarray(self._run("person", np.ascontiguousarray(image)).segmentation_mask, np.float32)


def distinct(boxes: list[FaceBox]) -> list[FaceBox]:
    """One box for each face, the surest where they overlap; largest first."""
    kept: list[FaceBox] = []
    for box in sorted(boxes, key=lambda box: -box.score):
        if all(box.overlap(other) < OVERLAP for other in kept):
            kept.append(box)
    return sorted(kept, key=lambda box: -box.side)
