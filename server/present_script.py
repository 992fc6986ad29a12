"""A Markdown script as a speaker reads it: sentences, and the pauses after them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from engines.types import KDTalkerError
from server.sentences import sentences

BETWEEN, PARAGRAPH, HEADING, RULE = 0.15, 0.5, 0.8, 1.5  # seconds of silence


@dataclass(frozen=True, slots=True)
class Said:
    """A sentence, and the seconds of silence after it."""

    text: str
    pause: float


def read_script(path: Path) -> list[Said]:
    """The sentences of a file; raises KDTalkerError where there are none."""
    try:
        said = script(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KDTalkerError(f"{path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise KDTalkerError(f"{path} is no text in UTF-8.") from error
    if not said:
        raise KDTalkerError(f"{path} holds nothing to say.")
    return said


def script(markdown: str) -> list[Said]:
    """What of a script is said: the words of paragraphs, headings, lists and tables, and never code blocks, HTML,
    pictures or addresses. A rule (`---`) is a longer pause.
    """
    said: list[Said] = []
    heading = False
    for token in MarkdownIt("commonmark").enable("table").parse(_without_front_matter(markdown)):
        if token.type == "hr" and said:
            said[-1] = Said(said[-1].text, RULE)
        elif token.type in ("heading_open", "heading_close"):
            heading = token.type == "heading_open"
        elif token.type == "inline":
            parts = [part for part in sentences("".join(_words(token))) if any(map(str.isalnum, part))]
            said += [Said(part, BETWEEN) for part in parts[:-1]]
            said += [Said(part, HEADING if heading else PARAGRAPH) for part in parts[-1:]]
    return said


def _words(inline: Token) -> Iterator[str]:
    for token in inline.children or []:
        if token.type in ("text", "code_inline"):
            yield token.content
        elif token.type in ("softbreak", "hardbreak"):
            yield " "


def _without_front_matter(markdown: str) -> str:
    return re.sub(r"\A---\n.*?\n(---|\.\.\.)\n", "", markdown, count=1, flags=re.DOTALL)
