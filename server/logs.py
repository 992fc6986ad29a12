"""The log: lines for a person or JSON for a machine, each with the call it is about.

Only this project's own loggers follow the level `debug`. What libraries say there is not ours to answer for:
an image reader tells a photo's metadata, a WebSocket library the text of every message.
"""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime

OWN = ("server", "engines")
TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

session: ContextVar[str | None] = ContextVar("session", default=None)
"""The call that the running task belongs to; tasks it starts inherit it."""


class JsonLines(logging.Formatter):
    """One JSON object a line: time (RFC 3339), level, logger, message; session and exception where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (call := session.get()) is not None:
            entry["session"] = call
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def _worth_saying(record: logging.LogRecord) -> bool:
    """False for what uvicorn 0.54 reports after each WebSocket that was refused in words: the client has its answer."""
    return record.getMessage() != "ASGI callable returned without completing handshake."


def configure(level: str, form: str) -> None:
    """Log to standard error; `level` as in `Settings.log_level`, `form` is `text` or `json`."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter(TEXT))
    wanted = logging.getLevelNamesMapping()[level.upper()]
    logging.basicConfig(level=max(wanted, logging.INFO), handlers=[handler])
    for name in OWN:
        logging.getLogger(name).setLevel(wanted)
    logging.getLogger("uvicorn.error").addFilter(_worth_saying)
    logging.getLogger("aioice").setLevel(logging.WARNING)
