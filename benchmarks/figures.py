"""The figures of one call, from its recording alone. Milliseconds; raw samples beside every percentile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks import sound as sounds
from benchmarks.caller import PACKET_SECONDS, Recording, Voice
from benchmarks.sound import Places
from benchmarks.wire import CLOCK, Line, Picture, media_times, pictures, unwrapped
from engines.types import FloatArray

FREEZE_FRAMES = 30  # whose durations are averaged
FREEZE_FEWEST = 5  # durations from which freezes are counted
FREEZE_MORE = 0.150  # seconds
BEYOND = {"audio": sounds.WINDOW / 2, "video": 3.0}  # seconds from a recognised window's centre that it speaks for


def spread(values: Sequence[float] | FloatArray, digits: int = 1) -> dict[str, Any]:
    """Percentiles and the samples themselves; the count is 0 where nothing was measured."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    points = {f"p{point}": round(float(np.percentile(known, point)), digits) for point in (50, 95, 99) if len(known)}
    return {"count": len(known), **points, "samples": [round(float(value), digits) for value in known]}


def freezes(moments: Sequence[float]) -> list[float]:
    """Seconds of every freeze among the moments at which pictures were shown.

    W3C webrtc-stats, `freezeCount`: a picture that stays for max(3 a, a + 150 ms) or longer, `a` being the average
    duration of the last 30 pictures, this one among them, as Chromium counts them.
    """
    durations = np.diff(np.asarray(moments, np.float64))
    found = []
    for last in range(FREEZE_FEWEST, len(durations) + 1):
        average = durations[max(0, last - FREEZE_FRAMES) : last].mean()
        if durations[last - 1] >= max(3 * average, average + FREEZE_MORE):
            found.append(float(durations[last - 1]))
    return found


def call(recording: Recording, begin: float, end: float) -> dict[str, Any]:
    """What a call was like between two moments, as far as its packets alone say."""
    audio, video = recording.audio.between(begin, end), recording.video.between(begin, end)
    seconds = end - begin
    whole = [picture for picture in pictures(recording.video) if begin <= picture.at < end]
    shown = sorted(picture.at for picture in whole)
    frozen = freezes(shown)
    steps = np.diff(sorted({round(media * CLOCK["audio"]) for media in media_times(audio)}))
    return {
        "connect_ms": {name: round(1000 * seconds, 1) for name, seconds in recording.marks.items()},
        "codec": recording.codec,
        "fps": round(len(whole) / seconds, 2),
        "pictures": len(whole),
        "interval_ms": spread(1000 * np.diff(shown)),
        "freezes": {"count": len(frozen), "total_ms": round(1000 * sum(frozen), 1)},
        "video_kbps": round(sum(packet.size for packet in video.packets) * 8e-3 / seconds, 1),
        "audio_kbps": round(sum(packet.size for packet in audio.packets) * 8e-3 / seconds, 1),
        "sound_gaps": int((steps > np.median(steps)).sum()) if len(steps) else None,
        "caller_sends_late_ms": spread(1000 * np.array(recording.late)),
    }


def hear(recording: Recording, voice: Voice) -> Places:
    """Where the returned sound lies in the voice; nothing where the server does not return it."""
    if not recording.audio.packets or not recording.sent:
        return Places(*np.zeros((3, 0)))
    return sounds.find(sounds.timeline(recording), voice.heard, *sounds.lags_possible(recording, "audio"))


def delays(recording: Recording, heard: Places, seen: Places | None, begin: float, end: float) -> dict[str, Any]:
    """Added latency of sound and picture, and the skew between them, of what arrived between two moments.

    Added latency: from the departure of a sound to the arrival of that sound, or of the picture that shows it. An echo
    that returns every packet as it comes adds nothing. Skew: by how much a picture comes after its sound.
    """
    audio = recording.audio.packets
    media = np.array(media_times(recording.audio))
    at = np.array([packet.at for packet in audio])
    spoken = heard.spoken(media, BEYOND["audio"])
    inside = (at >= begin) & (at < end)
    added = at - sounds.departure(recording, spoken)
    found: dict[str, Any] = {
        "sound_added_ms": spread(1000 * added[inside]),
        "sound_alike": round(float(np.median(heard.alike)), 3) if len(heard.alike) else None,
    }
    if seen is None:
        return found
    shown = [picture for picture in pictures(recording.video) if begin <= picture.at < end]
    said = seen.spoken(np.array([picture.media for picture in shown]), BEYOND["video"])
    arrived = np.array([picture.at for picture in shown])
    found["picture_added_ms"] = spread(1000 * (arrived - sounds.departure(recording, said)))
    found["picture_alike"] = round(float(np.median(seen.alike)), 3) if len(seen.alike) else None
    found["skew_received_ms"] = spread(1000 * (arrived - _arrival_of_sound(said, spoken, at)))
    found["skew_aligned_ms"] = spread(1000 * _aligned(recording, shown, said, media, spoken))
    return found


def agreement(found: dict[str, Any], stages: Mapping[str, Mapping[str, float]] | None) -> dict[str, float]:
    """Latency of pictures as measured outside less what the server's own stages add up to, in ms, by percentile.

    `found`: `delays` of the seconds that `stages` are of. Nothing where either is not known.
    """
    outside = found.get("picture_added_ms", {})
    if not stages or not outside.get("count"):
        return {}
    return {point: round(outside[point] - stages["total"][point], 1) for point in ("p50", "p95")}


def _arrival_of_sound(said: FloatArray, spoken: FloatArray, at: FloatArray) -> FloatArray:
    """When these seconds of the voice came back as sound; nan where they did not, or not recognisably."""
    packet = _packet_of(said, spoken)
    known = packet >= 0
    return np.where(known, at[packet] + said - spoken[packet], np.nan) if len(at) else np.full(len(said), np.nan)


def _aligned(
    recording: Recording, shown: Sequence[Picture], said: FloatArray, media: FloatArray, spoken: FloatArray
) -> FloatArray:
    """Skew in seconds after both tracks were put on the sender's wall clock by its reports, as a browser does."""
    offsets = {line.kind: clock_offset(line) for line in (recording.audio, recording.video)}
    if np.isnan(offsets["audio"]) or np.isnan(offsets["video"]) or not len(media):
        return np.full(len(shown), np.nan)
    packet = _packet_of(said, spoken)
    sound = media[packet] + said - spoken[packet] + offsets["audio"]
    picture = np.array([picture.media for picture in shown]) + offsets["video"]
    return np.where(packet >= 0, picture - sound, np.nan)


def _packet_of(said: FloatArray, spoken: FloatArray) -> Any:
    """Index of the sound packet that carries these seconds of the voice, or -1."""
    order = np.argsort(spoken)  # nan last
    known = order[: int(np.isfinite(spoken).sum())]
    if not len(known):
        return np.full(len(said), -1)
    place = np.searchsorted(spoken[known], np.nan_to_num(said, nan=-1e9) + 1e-9) - 1
    packet = known[np.clip(place, 0, None)]
    near = (place >= 0) & (np.abs(said - spoken[packet]) <= PACKET_SECONDS + 1e-6)
    return np.where(near, packet, -1)


def clock_offset(line: Line) -> float:
    """Sender's wall clock less media time in seconds, the median of its reports; nan without any."""
    if not line.reports or not line.packets:
        return float("nan")
    first = line.packets[0].timestamp
    steps = unwrapped([report.timestamp for report in line.reports], first)
    return float(
        np.median([report.ntp - step / CLOCK[line.kind] for report, step in zip(line.reports, steps, strict=True)])
    )
