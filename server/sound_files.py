"""Sent sound files are decoded in a process of their own: one that breaks a decoder breaks nothing else."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection

from engines.media import Speech, read_speech
from engines.types import SpeechError
from server.spoken import TooMuchError

AT_ONCE = 4  # files that may be on their way, each of them in memory
PATIENCE = 30.0  # seconds for one file, the process's own start included

logger = logging.getLogger(__name__)


class SoundReader:
    """Reads files one at a time. A process for each: it starts in half a second and leaves nothing behind."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "sound")
        self._coming = 0
        self._closed = False

    @contextmanager
    def place(self) -> Iterator[None]:
        """For one file, from its first byte to its last sample; raises TooMuchError."""
        if self._coming >= AT_ONCE:
            raise TooMuchError("Too many sound files are on their way; try again soon.")
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    async def read(self, data: bytes, longest: float) -> Speech:
        """See `engines.media.read_speech`; a file that takes too long or breaks the process is a SpeechError too."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, _read_apart, data, longest)

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)


def _read_apart(data: bytes, longest: float) -> Speech:
    context = multiprocessing.get_context("spawn")  # a fork would take the threads' locks along
    line, other = context.Pipe()
    process = context.Process(target=_work, args=(other, longest), name="sound", daemon=True)
    with line:
        with other:
            process.start()
        try:
            line.send_bytes(data)
            if not line.poll(PATIENCE):
                raise TimeoutError("took too long")
            result = line.recv()
        except (OSError, EOFError) as error:  # a TimeoutError is one
            logger.warning("a sound file could not be decoded: %s", error or "its process died")
            raise SpeechError("This sound could not be read; please send another file.") from error
        finally:
            process.kill()
            process.join()
            process.close()
    if isinstance(result, SpeechError):
        raise result
    assert isinstance(result, Speech)
    return result


def _work(line: Connection, longest: float) -> None:
    for stopping in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stopping, signal.SIG_IGN)  # they reach the whole group; the server decides
    if sys.platform != "win32":
        os.nice(15)
    result: Speech | SpeechError
    try:
        result = read_speech(line.recv_bytes(), longest)
    except SpeechError as error:
        result = error
    line.send(result)
