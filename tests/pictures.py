"""Pictures made from the shipped avatars for tests: turned heads, covered mouths, other sizes."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from engines.types import FRAME_SIZE, ByteArray, Portrait

AVATARS = Path("engines/avatars")


def picture(name: str) -> ByteArray:
    return np.asarray(Image.open(AVATARS / name).convert("RGB"))


def png(pixels: ByteArray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def resized(pixels: ByteArray, factor: float) -> ByteArray:
    return np.asarray(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)


def eye_distance(portrait: Portrait) -> float:
    return float(np.linalg.norm(portrait.mesh[33, :2] - portrait.mesh[263, :2]))


def turned(portrait: Portrait, yaw: float, pitch: float) -> ByteArray:
    """The crop seen from the side: its pixels moved by a depth smoothed from the mesh, inverted by iteration."""
    mesh, unit = portrait.mesh, eye_distance(portrait)
    centre = mesh.mean(0) + np.array([0, 0, 0.5 * unit])
    weight, depth = np.zeros((2, FRAME_SIZE, FRAME_SIZE), np.float32)
    np.add.at(weight, (mesh[:, 1].astype(int), mesh[:, 0].astype(int)), 1)
    np.add.at(depth, (mesh[:, 1].astype(int), mesh[:, 0].astype(int)), mesh[:, 2] - centre[2])
    blurred = [cv2.GaussianBlur(field, (0, 0), 0.08 * unit) for field in (depth, weight)]
    depth = (blurred[0] / (blurred[1] + 1e-7)).astype(np.float32)
    y, x = np.mgrid[:FRAME_SIZE, :FRAME_SIZE].astype(np.float32)
    from_x, from_y = x.copy(), y.copy()
    for _ in range(30):
        z = cv2.remap(depth, from_x, from_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        to_x = centre[0] + (from_x - centre[0]) * np.cos(np.radians(yaw)) + z * np.sin(np.radians(yaw))
        to_y = centre[1] + (from_y - centre[1]) * np.cos(np.radians(pitch)) + z * np.sin(np.radians(pitch))
        from_x += (0.5 * (x - to_x)).astype(np.float32)
        from_y += (0.5 * (y - to_y)).astype(np.float32)
    seen = cv2.remap(portrait.crop, from_x, from_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(seen, np.uint8)


def rotated(pixels: ByteArray, angle: float) -> ByteArray:
    side = pixels.shape[0]
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), angle, 1)
    return np.asarray(cv2.warpAffine(pixels, turn, (side, side), borderMode=cv2.BORDER_REPLICATE), np.uint8)


COVERS = ("black bar", "white bar", "mask", "dark mask", "microphone", "hand", "smeared")


def covered(portrait: Portrait, cover: str) -> ByteArray:
    crop, mesh, unit = portrait.crop.copy(), portrait.mesh[:, :2], eye_distance(portrait)
    mouth = mesh[[61, 291, 0, 17]].mean(0)
    area = np.zeros((FRAME_SIZE, FRAME_SIZE), np.uint8)
    centre = (round(float(mouth[0])), round(float(mouth[1])))
    if "bar" in cover or cover == "smeared":
        half = np.array([0.45 * unit, 0.24 * unit])
        cv2.rectangle(area, tuple(map(int, mouth - half)), tuple(map(int, mouth + half)), 1, -1)
    elif "mask" in cover:
        jaw = [234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323, 454, 6]
        cv2.fillPoly(area, [mesh[jaw].astype(np.int32)], 1)
    else:
        cv2.ellipse(area, centre, (round(0.5 * unit), round(0.3 * unit)), 15, 0, 360, 1, -1)
    rows, columns = np.mgrid[:FRAME_SIZE, :FRAME_SIZE]
    folds = 1 + 0.05 * np.sin(rows / unit * 22)
    skin = portrait.crop[tuple(np.round(mesh[151, ::-1]).astype(int))]
    fingers = 1 - 0.25 * np.exp(-((np.mod(rows - 0.27 * columns, 0.2 * unit) / (0.03 * unit)) ** 2))
    grille = 45 + 20 * np.cos(columns / 2.2) * np.cos(rows / 2.2)
    look = {
        "black bar": np.full_like(crop, 10),
        "white bar": np.full_like(crop, 240),
        "mask": folds[..., None] * np.array([160, 195, 220]),
        "dark mask": folds[..., None] * np.array([40, 40, 45]),
        "microphone": np.repeat(grille[..., None], 3, -1),
        "hand": fingers[..., None] * skin,
        "smeared": cv2.GaussianBlur(crop, (0, 0), 0.14 * unit),
    }[cover]
    return np.where(area[..., None] > 0, look, crop).clip(0, 255).astype(np.uint8)
