"""What a photo must show to become a talking face, and what is said when it does not."""

from __future__ import annotations

import cv2
import numpy as np

from engines.types import ByteArray, FloatArray, PortraitError

def require_one_face(heights): 
    pass
def measure_pose(m): return {}
def require_size(r): pass
def require_frontal(r): pass
def require_meshes(n): pass
def measure_sharpness(c,m): return {}
def measure_mouth(c,ms): return {}
def require_sharp(r): pass
def require_open_view_of_mouth(r): pass
