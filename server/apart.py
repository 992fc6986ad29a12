"""Work that may break its process is done in one of its own: what a stranger sends breaks nothing else there."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

Answering = Callable[[Any], Any]


class BrokenError(Exception):
    """The process died of a request, or took too long over it; the next one meets another process."""


class FailedError(Exception):
    """The work raised something it should not have; the text is its traceback, for the log."""


@dataclass(frozen=True, slots=True)
class _Failure:
    text: str


class Apart:
    """A process that answers requests one at a time, started with the first. `ask` blocks and is for one thread;
    `stop` is for any.

    `begin(*arguments)` is called in the process and returns the function that answers; it, its arguments, requests and
    answers can be pickled. `patience`: seconds for one answer, the process's own start included. `nice`: how far its
    work stands back behind that of the calls.
    """

    def __init__(
        self, name: str, begin: Callable[..., Answering], *arguments: Any, patience: float, nice: int = 15
    ) -> None:
        self._name, self._begin, self._arguments = name, begin, arguments
        self._patience, self._nice = patience, nice
        self._process: multiprocessing.process.BaseProcess | None = None
        self._line: Connection | None = None

    def ask(self, request: Any) -> Any:
        """The answer; raises BrokenError or FailedError."""
        if self._process is not None and not self._process.is_alive():
            self.stop()
        line = self._line or self._start()
        try:
            line.send(request)
            if not line.poll(self._patience):
                raise TimeoutError("took too long")
            answer = line.recv()
        except (OSError, EOFError) as error:  # a TimeoutError is one
            self.stop()
            raise BrokenError(str(error) or "its process died") from error
        if isinstance(answer, _Failure):
            raise FailedError(answer.text)
        return answer

    def stop(self) -> None:
        """End the process, whatever it is doing; the next request starts another one."""
        process, line = self._process, self._line
        self._process = self._line = None
        if process is not None:
            process.kill()
            process.join()
            process.close()
        if line is not None:
            line.close()

    def _start(self) -> Connection:
        context = multiprocessing.get_context("spawn")  # a fork would take the threads' locks along
        self._line, other = context.Pipe()
        work = (other, self._begin, self._arguments, self._nice)
        self._process = context.Process(target=_work, args=work, name=self._name, daemon=True)
        self._process.start()
        other.close()
        return self._line


def _work(line: Connection, begin: Callable[..., Answering], arguments: tuple[Any, ...], nice: int) -> None:
    """Answer until the other end is closed, which a server that dies does too."""
    for stopping in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stopping, signal.SIG_IGN)  # they reach the whole group; the server decides
    if sys.platform != "win32":
        os.nice(nice)
    answering = begin(*arguments)
    while True:
        try:
            request = line.recv()
        except EOFError:
            return
        try:
            answer = answering(request)
        except Exception:
            answer = _Failure(traceback.format_exc())
        line.send(answer)
