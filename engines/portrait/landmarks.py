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
from typing import Any

import cv2
import numpy as np

from engines.types import ByteArray, FloatArray, KDTalkerError

MESH_POINTS = 478
DETECTION_SCORE = 0.5
DETECTOR_SIDE = 1024  # detectors shrink their input to 192 pixels or less; a bigger picture only costs time
OVERLAP = 0.35  # intersection over union from which two boxes are one face

_stderr_lock = threading.Lock()
_CHATTER = (
    b"XNNPACK",
    b"absl::InitializeLog",
    b"inference_feedback_manager",
    b"landmark_projection_calculator",
    b"GetPrototype",
)


@dataclass(frozen=True, slots=True)
class FaceBox:
    """Square around eyes, nose and mouth, in pixels: centre, side, and the detector's score in [0, 1]."""

    x: float
    y: float
    side: float
    score: float

    def overlap(self, other: FaceBox) -> float:
        """Intersection over union."""
        reach = (self.side + other.side) / 2
        smaller = min(self.side, other.side)
        width = min(max(reach - abs(self.x - other.x), 0.0), smaller)
        height = min(max(reach - abs(self.y - other.y), 0.0), smaller)
        return width * height / (self.side**2 + other.side**2 - width * height)


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Keep MediaPipe's start-up lines off stderr.

    They are written by C++ before any log level can be set, so the descriptor itself is turned to a
    file for the moment; whatever else was written meanwhile is passed on afterwards.
    """
    with _stderr_lock, tempfile.TemporaryFile() as caught:
        try:
            original = os.dup(2)
        except OSError:  # a service without stderr
            yield
            return
        if sys.stderr is not None:
            sys.stderr.flush()
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


def _make_graph(solutions: Any, name: str) -> Any:
    if name in ("mesh", "film"):
        return solutions.face_mesh.FaceMesh(
            static_image_mode=name == "mesh",
            max_num_faces=1,
            refine_landmarks=True,
            min_detection_confidence=DETECTION_SCORE,
        )
    if name == "person":
        return solutions.selfie_segmentation.SelfieSegmentation(model_selection=0)
    return solutions.face_detection.FaceDetection(
        min_detection_confidence=DETECTION_SCORE, model_selection={"near": 0, "far": 1}[name]
    )


class FaceLandmarker:
    """MediaPipe's face detectors, face mesh and person outline on still pictures; safe to share between threads.

    Pictures are u8 (H, W, 3) RGB. Use as a context manager or call `close`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._graphs: dict[str, Any] = {}

    def __enter__(self) -> FaceLandmarker:
        return self

    def __exit__(self, *_: object) -> None:
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
            with _without_chatter():
                graph = self._graphs[name] = _make_graph(_solutions(), name)
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
        return self._landmarks("mesh", image)

    def follow(self, image: ByteArray) -> FloatArray | None:
        """`mesh` for the next picture of a film: looks first where the face was. One film for each landmarker."""
        return self._landmarks("film", image)

    def _landmarks(self, name: str, image: ByteArray) -> FloatArray | None:
        found = self._run(name, np.ascontiguousarray(image)).multi_face_landmarks
        if not found:
            return None
        height, width = image.shape[:2]
        points = np.array([(point.x, point.y, point.z) for point in found[0].landmark], np.float32)
        scale = np.array([width, height, width], np.float32)
        return np.asarray(points * scale - np.array([0.5, 0.5, 0.0], np.float32))

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
