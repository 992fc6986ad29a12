"""Sound files that are sent to a call: what is decoded, what is refused, and what the call then says."""

from __future__ import annotations

import asyncio
import contextlib
import io
import multiprocessing
import os
import random
import signal
from typing import Any

import av
import httpx
import numpy as np
import pytest

from benchmarks.peer import Peer
from engines.media import read_speech
from engines.types import PLAYBACK_RATE, SpeechError
from server.sound_files import SoundReader
from server.spoken import TooMuchError
from tests.conftest import LiveServer
from tests.test_control import channel

pytestmark = pytest.mark.timeout(120)

WAV = {"Content-Type": "audio/wav"}


def sound_file(kind: str, seconds: float, rate: int, channels: int, pitch: float = 440) -> bytes:
    """A tone on the first channel, silence on the others. `kind`: a container's name and the codec in it."""
    container, _, codec = kind.partition(" ")
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    tone = np.zeros((channels, round(seconds * rate)), np.float32)
    tone[0] = 0.5 * np.sin(2 * np.pi * pitch * np.arange(tone.shape[1]) / rate)
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def pitch(sound: np.ndarray, rate: int) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(sound * np.hanning(len(sound))))) * rate / len(sound))


@pytest.mark.parametrize(
    ("kind", "rate", "channels"),
    [
        ("wav pcm_s16le", 8000, 1),
        ("wav pcm_s24le", 96_000, 2),
        ("wav pcm_f32le", 44_100, 6),
        ("flac flac", 22_050, 1),
        ("mp3 libmp3lame", 44_100, 2),
        ("ogg libopus", 48_000, 1),
    ],
)
def test_usual_files_are_read_whole(kind: str, rate: int, channels: int) -> None:
    speech = read_speech(sound_file(kind, 1.5, rate, channels), 10)
    assert len(speech.playback) == pytest.approx(1.5 * PLAYBACK_RATE, abs=0.06 * PLAYBACK_RATE)
    assert len(speech.pcm) == pytest.approx(len(speech.playback) / 3, abs=2)
    assert pitch(speech.playback[4800:52_800], PLAYBACK_RATE) == pytest.approx(440, abs=2)
    assert np.abs(speech.playback[4800:52_800]).max() / 32767 == pytest.approx(0.5 / channels, rel=0.1)


def test_files_that_are_no_speech_are_refused_in_words() -> None:
    long = sound_file("flac flac", 30, 8000, 1)
    assert len(long) < 300_000
    with pytest.raises(SpeechError, match="more than 5 s"):
        read_speech(long, 5)
    with pytest.raises(SpeechError, match="40 ms are needed"):
        read_speech(sound_file("wav pcm_s16le", 0.01, 48_000, 1), 5)
    for kind in ("matroska pcm_s16le", "avi pcm_s16le", "wav adpcm_ms"):
        with pytest.raises(SpeechError, match="WAV, FLAC, MP3 or Ogg"):
            read_speech(sound_file(kind, 1, 48_000, 1), 5)
    for data in (b"", b"RIFF", b"no sound", bytes(5000)):
        with pytest.raises(SpeechError):
            read_speech(data, 5)


@pytest.mark.parametrize("kind", ["wav pcm_s16le", "flac flac", "mp3 libmp3lame", "ogg libopus"])
def test_damaged_files_are_read_or_refused(kind: str) -> None:
    chance = random.Random(6)
    whole = sound_file(kind, 0.5, 48_000, 2)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(min(len(data), chance.choice([64, len(data)])))] = chance.randrange(256)
        del data[chance.choice([len(data), chance.randrange(len(data))]) :]
        try:
            speech = read_speech(bytes(data), 5)
        except SpeechError:
            continue
        assert np.isfinite(speech.pcm).all()
        assert len(speech.playback) <= 5.2 * PLAYBACK_RATE


async def test_a_file_that_breaks_its_process_is_refused_and_the_next_one_is_read() -> None:
    reader = SoundReader()
    reading = asyncio.create_task(reader.read(sound_file("flac flac", 200, 8000, 1), 300))
    async with asyncio.timeout(20):
        while not (children := [child for child in multiprocessing.active_children() if child.name == "sound"]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    os.kill(children[0].pid or 0, signal.SIGKILL)
    with pytest.raises(SpeechError, match="another file"):
        await reading
    assert (await reader.read(sound_file("wav pcm_s16le", 1, 48_000, 1), 5)).frames == 25
    assert not [child for child in multiprocessing.active_children() if child.name == "sound"]
    with contextlib.ExitStack() as places:
        for _ in range(4):
            places.enter_context(reader.place())
        with pytest.raises(TooMuchError):
            places.enter_context(reader.place())
    reader.close()


async def test_a_file_is_spoken_in_place_of_the_microphone(server: LiveServer) -> None:
    hum = np.round(6000 * np.sin(2 * np.pi * 300 * np.arange(60 * PLAYBACK_RATE) / PLAYBACK_RATE)).astype(np.int16)
    async with Peer(server.url, hum) as peer, httpx.AsyncClient(base_url=server.url, timeout=30) as http:
        address = f"{peer.location}/speech"
        await peer.pictures(10, within=30)
        async with channel(peer) as (control, _):
            sent = await http.post(address, content=sound_file("wav pcm_s16le", 2, 44_100, 2, 1200), headers=WAV)
            assert (sent.status_code, sent.json()["seconds"]) == (202, 2.0)
            event = await control.receive()
            assert (event["type"], event["state"], event["seconds"]) == ("speech", "begun", 2.0)
            assert (await peer.stats())["speech"]["waiting"] == 1
            assert (await control.receive())["state"] == "ended"
            assert (await peer.stats())["speech"] is None
            await peer.pictures(20, within=30)
            long = sound_file("flac flac", 20, 16_000, 1, 1200)
            for _ in range(2):
                assert (await http.post(address, content=long, headers=WAV)).status_code == 202
            assert (await control.receive())["state"] == "begun"
            assert (await http.delete(address)).status_code == 204
            assert (await control.receive())["state"] == "stopped"
        heard = peer.heard()
    pitches = [pitch(part, PLAYBACK_RATE) for part in heard[: len(heard) // 4800 * 4800].reshape(-1, 4800)]
    file = [place for place, tone in enumerate(pitches) if abs(tone - 1200) < 15]
    microphone = [place for place, tone in enumerate(pitches) if abs(tone - 300) < 15]
    assert len(file) >= 15
    assert microphone[0] < file[0], "the microphone before it"
    first = [place for place in file if place < file[0] + 25]
    assert not set(range(first[0], first[0] + 15)) & set(microphone), "alone while it lasts"
    assert any(place > first[-1] for place in microphone), "and the microphone again"


@pytest.mark.parametrize(
    ("content", "headers", "status", "words"),
    [
        (b"no sound", WAV, 422, "cannot be read"),
        (b"", WAV, 422, "cannot be read"),
        (b"x", {"Content-Type": "text/plain"}, 415, "audio/wav"),
        (bytes(33 * 1024 * 1024), WAV, 413, "too large"),
        (sound_file("flac flac", 301, 8000, 1), WAV, 422, "more than 300 s"),
    ],
)
async def test_bad_files_are_refused_and_the_call_goes_on(
    server: LiveServer, content: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as http, Peer(server.url) as peer:
        answer = await http.post(f"{peer.location}/speech", content=content, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert words in answer.json()["detail"]
        assert (await http.post("/sessions/none/speech", content=content, headers=headers)).status_code == 404
        await peer.pictures(3, within=30)
        assert (await peer.stats())["speech"] is None
