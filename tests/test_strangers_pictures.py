"""What a stranger may send as a photo; and what the log tells of photos and of sound: nothing."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.peer import Peer
from tests.conftest import REPOSITORY, LiveServer, start_server, stop_server

pytestmark = pytest.mark.timeout(280)

PORTRAIT = REPOSITORY / "engines" / "avatars" / "astronaut.jpg"
SDP = {"Content-Type": "application/sdp"}


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)  # type: ignore[arg-type]
    return data.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of one colour, `width` x `height`: a few kilobytes that would unpack to gigabytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packed = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def send(server: LiveServer, photo: bytes, name: str = "me") -> httpx.Response:
    return httpx.post(f"{server.url}/avatars", files={"photo": (name, photo, "image/jpeg")}, timeout=60)


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    return Image.open(PORTRAIT).convert("RGB")


@pytest.mark.parametrize(
    "turned",
    [
        lambda image: encoded(image.rotate(90, expand=True), "JPEG", exif=orientation(6)),
        lambda image: encoded(image.rotate(180), "JPEG", exif=orientation(3)),
        lambda image: encoded(image.convert("CMYK"), "JPEG"),
        lambda image: encoded(image, "GIF", save_all=True, append_images=[image.rotate(180)] * 3, loop=0),
        lambda image: encoded(image, "WEBP", save_all=True, append_images=[image.rotate(180)] * 3),
        lambda image: encoded(image.convert("RGBA"), "PNG"),
    ],
    ids=["EXIF right", "EXIF upside down", "CMYK", "animated GIF", "animated WebP", "alpha"],
)
def test_a_portrait_in_any_form_is_the_same_face(
    server: LiveServer, quiet: None, portrait: Image.Image, turned: Callable[[Image.Image], bytes]
) -> None:
    plain, other = send(server, encoded(portrait, "JPEG", quality=95)), send(server, turned(portrait))
    assert plain.status_code == other.status_code == 201, other.text
    faces = [
        np.asarray(Image.open(io.BytesIO(httpx.get(server.url + sent.json()["picture"]).content)).resize((64, 64)))
        for sent in (plain, other)
    ]
    # the same picture but for what its format does to colours
    assert np.abs(faces[0].astype(int) - faces[1].astype(int)).mean() < 12


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize(
    "photo",
    [
        bomb(50_000, 50_000),
        bomb(10_000, 10_000),
        bomb(2**31 - 1, 2**31 - 1),
        encoded(Image.new("RGB", (1, 1)), "PNG"),
        encoded(Image.new("RGB", (4000, 1)), "PNG"),
        encoded(Image.new("L", (600, 600)), "TIFF"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 600 600\n",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="600" height="600"/>',
        PORTRAIT.read_bytes()[:-4000] + bytes(100),
    ],
    ids=["2.5 gigapixels", "100 megapixels", "overflow", "1 pixel", "a line", "TIFF", "EPS", "SVG", "cut off"],
)
def test_a_picture_that_is_no_portrait_is_refused_at_once(server: LiveServer, quiet: None, photo: bytes) -> None:
    before = server.metric("process_resident_memory_bytes")
    refused = send(server, photo)
    assert refused.status_code == 422, refused.text
    assert refused.json()["reason"] == "unreadable"
    # 100 megapixels in RGB alone would be 300 MB
    assert server.metric("process_resident_memory_bytes") - before < 150e6


# The log


def test_a_log_at_debug_level_tells_nothing_of_photo_or_sound(
    tmp_path: Path, speak: Callable[[str], np.ndarray]
) -> None:
    own = start_server(tmp_path, log_level="debug", log_format="json", tokens="a token that nobody should read")
    sound = speak("A secret that nobody shall find in the log.")
    exif = Image.Exif()
    exif[0x010E] = "taken at the hideout"
    exif[0x8298] = "copyright of the hideout"
    photo = encoded(Image.open(PORTRAIT), "JPEG", quality=95, exif=exif)
    bearer = {"Authorization": "Bearer a token that nobody should read"}
    try:
        with httpx.Client(base_url=own.url, headers=bearer, timeout=60) as client:
            for content in (photo, photo[:5000], encoded(Image.new("RGB", (600, 600)), "PNG")):
                sent = client.post("/avatars", files={"photo": ("hideout.jpg", content, "image/jpeg")})
                if sent.status_code == 201:
                    face = sent.json()
            client.get("/", params={"key": "a guess at the key"})
            client.post("/sessions", content="hideout", headers=SDP)
        location = asyncio.run(call(own, sound, face["id"], bearer))
    finally:
        stop_server(own)
    log = own.log.read_text()
    entries = [json.loads(line) for line in log.splitlines()]
    assert {entry.get("session") for entry in entries} >= {location.rpartition("/")[2]}
    for secret in ("hideout", "token that", "guess at", face["id"] + "/", "JFIF", "\\x"):
        assert secret not in log, secret
    for content in (photo, encoded(Image.open(PORTRAIT), "JPEG"), sound.tobytes()):
        for start in range(0, min(len(content), 60_000), 3_000):
            piece = content[start : start + 24]
            if any(piece):
                assert base64.b64encode(piece).decode() not in log
                assert piece.hex() not in log
    assert not re.search(r"[A-Za-z0-9+/=]{120,}", log), "something encoded is in the log"


async def call(server: LiveServer, sound: np.ndarray, avatar: str, headers: dict[str, str]) -> str:
    peer = Peer(server.url, sound, query=f"?avatar={avatar}")
    peer._http.headers.update(headers)
    async with peer:
        await peer.pictures(50, within=60)
        await peer._http.get(f"{peer.location}/stats")
        return peer.location
