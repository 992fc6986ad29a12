"""What does a picture cost to encode, by format, preset and size?

A talking face, rendered here, is encoded as the server does it: 25 pictures a second, constant bitrate, one thread, one
key frame. A time is from the RGB picture to its packet, made smaller and converted on the way.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.babble import babble
from benchmarks.machine import machine
from benchmarks.mouth import rendered
from benchmarks.probe import default_face
from engines.types import FPS, FRAME_SIZE, ByteArray
from server.encode import PICTURE_CODECS, picture, shrunk

SIZES = (256, 384, 512)
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium")
SERVER = "superfast"  # the server's own
DECODERS = {"vp8": "vp8", "h264": "h264"}


@dataclass(frozen=True, slots=True)
class Encoded:
    """Milliseconds a picture, of a core and on the wall; `psnr` in dB of the luma against what went in, median."""

    encoder: str
    size: int
    pictures: int
    cpu: float
    p50: float
    p95: float
    p99: float
    kbps: float
    psnr: float


def measure(film: Sequence[ByteArray], codec: str, preset: str | None, size: int, bitrate: int) -> Encoded:
    """Encode pictures u8 (512, 512, 3) RGB at size x size, one after another."""
    context = PICTURE_CODECS[codec](size, size, bitrate)
    if preset is not None:
        context.options = {**context.options, "preset": preset}
    decoder = av.CodecContext.create(DECODERS[codec], "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_count = 1
    walls, cpu, size_of_all, errors = [], 0.0, 0, []
    for number, rgb in enumerate(film):
        began, used = time.perf_counter(), time.process_time()
        frame = picture(number, shrunk(rgb, size))
        packets = context.encode(frame)
        cpu += time.process_time() - used
        walls.append(1000 * (time.perf_counter() - began))
        sent = frame.to_ndarray()[:size].astype(np.float32)
        for packet in packets:
            size_of_all += packet.size
            for made in decoder.decode(av.Packet(bytes(packet))):
                luma = made.to_ndarray()[:size].astype(np.float32)  # as it is: FFmpeg's grey has another range
                errors.append(float(np.mean((luma - sent) ** 2)))
    p50, p95, p99 = np.percentile(walls, (50, 95, 99))
    return Encoded(
        codec if preset is None else f"{codec} {preset}",
        size,
        len(film),
        round(1000 * cpu / len(film), 3),
        round(float(p50), 3),
        round(float(p95), 3),
        round(float(p99), 3),
        round(8e-3 * size_of_all * FPS / len(film), 1),
        round(10 * float(np.log10(255**2 / max(1e-9, np.median(errors)))), 2),
    )


def rows(film: Sequence[ByteArray], sizes: Sequence[int], presets: Sequence[str], bitrate: int) -> Iterator[Encoded]:
    for size in sizes:
        share = round(bitrate * size**2 / FRAME_SIZE**2)  # the same bits a pixel
        yield measure(film, "vp8", None, size, share)
        for preset in presets:
            yield measure(film, "h264", preset, size, share)


def encoders(argv: list[str]) -> int:
    """Time VP8 and the presets of H.264 on a talking face."""
    parser = argparse.ArgumentParser(
        prog="kdtalker bench encoders", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=250, help="default: 250, ten seconds")
    parser.add_argument("--bitrate", type=int, default=1_200_000, help="bits a second at 512 x 512; default: 1200000")
    parser.add_argument("--sizes", type=_numbers, default=list(SIZES), help="default: 256,384,512")
    parser.add_argument("--presets", type=lambda text: text.split(","), default=list(PRESETS), help="of x264")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    sound = babble(options.pictures / FPS + 1).astype(np.float32) / 32768
    film = [picture for _, picture in islice(rendered(*default_face(), sound, seed=0), options.pictures)]
    cv2.setNumThreads(1)
    table = Table(title=f"Milliseconds a picture, of {1000 / FPS:.0f}; * is what the server uses")
    for heading in ("encoder", "size", "CPU", "wall p50", "p95", "p99", "cores a call", "kbit/s", "PSNR dB"):
        table.add_column(heading, justify="left" if heading == "encoder" else "right")
    measured = []
    for row in rows(film, options.sizes, options.presets, options.bitrate):
        measured.append(asdict(row))
        times = (f"{value:.2f}" for value in (row.cpu, row.p50, row.p95, row.p99))
        mark = "*" if row.encoder in ("vp8", f"h264 {SERVER}") else ""
        cells = (*times, f"{row.cpu * FPS / 1000:.3f}", f"{row.kbps:.0f}", f"{row.psnr:.1f}")
        table.add_row(row.encoder + mark, str(row.size), *cells)
    Console(width=120).print(table)
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        result = {"tool": "kdtalker bench encoders", "machine": machine(), "rows": measured}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]
