"""Text in the pieces that a voice speaks: sentences, found while the text is still being written."""

from __future__ import annotations

import re

LONGEST = 300  # characters of a piece; a longer sentence is cut at a comma, or between words
END = re.compile(r"(?:[.!?…]+[\"'”’)\]*_]*(?=\s)|[。！？]+|\n+)\s*")
MARKS = re.compile(r"[*_`#~|>]+|^\s*[-•]\s+", re.MULTILINE)  # of Markdown, which nobody says
BREAK = re.compile(r"[,;:、，；]\s*|\s+")


class Sentences:
    """`add` text as it comes and get what is complete of it; `rest` is what is left at the end."""

    def __init__(self) -> None:
        self._text = ""

    def add(self, text: str) -> list[str]:
        self._text += text
        whole = []
        while (found := END.search(self._text)) is not None:
            whole += _pieces(self._text[: found.end()])
            self._text = self._text[found.end() :]
        if len(self._text) > 2 * LONGEST:  # whoever writes no full stops is not waited for
            *more, self._text = _pieces(self._text)
            whole += more
        return whole

    def rest(self) -> list[str]:
        text, self._text = self._text, ""
        return _pieces(text)


def sentences(text: str) -> list[str]:
    """The pieces of a whole text; none where there is nothing to say."""
    reader = Sentences()
    return reader.add(text) + reader.rest()


def _pieces(sentence: str) -> list[str]:
    text = " ".join(MARKS.sub("", sentence).split())
    pieces = []
    while len(text) > LONGEST:
        breaks = [found.end() for found in BREAK.finditer(text, LONGEST // 2, LONGEST)]
        at = breaks[-1] if breaks else LONGEST
        pieces.append(text[:at].strip())
        text = text[at:]
    return [piece for piece in (*pieces, text) if any(letter.isalnum() for letter in piece)]
