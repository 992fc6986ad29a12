"""Sent sound files are decoded in a process of their own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from engines.media import Speech, read_speech
from engines.types import SpeechError
from server.apart import Apart, BrokenError, FailedError
from server.spoken import TooMuchError

AT_ONCE = 4  # files that may be on their way, each of them in memory
PATIENCE = 30.0  # seconds for one file, the process's own start included

logger = logging.getLogger(__name__)


class SoundReader:
    """Reads files one at a time. A process for each: it starts in half a second and leaves nothing behind."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "sound")
        self._coming = 0

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
    process = Apart("sound", _reading, longest, patience=PATIENCE)
    try:
        result = process.ask(data)
    except (BrokenError, FailedError) as error:
        logger.warning("a sound file could not be decoded: %s", error)
        raise SpeechError("This sound could not be read; please send another file.") from error
    finally:
        process.stop()
    if isinstance(result, SpeechError):
        raise result
    assert isinstance(result, Speech)
    return result


def _reading(longest: float) -> Callable[[bytes], Speech | SpeechError]:
    def read(data: bytes) -> Speech | SpeechError:
        try:
            return read_speech(data, longest)
        except SpeechError as error:
            return error

    return read
