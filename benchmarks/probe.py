"""Which film the mouth of a call is compared with."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from benchmarks import mouth
from benchmarks.caller import Recording, Voice
from benchmarks.mouth import Curve
from benchmarks.sound import Places, lags_possible
from benchmarks.wire import pictures
from engines.pipeline import Talker
from engines.portrait.prepare import prepare
from engines.talkers import open_talker
from engines.types import FPS, Identity
from server.avatars import DEFAULT
from server.session import seed_of


def default_face() -> tuple[Talker, Identity]:
    """The engines of the embedded profile and the avatar that a call gets where it names none."""
    talker = open_talker()
    photo = next(path for path in (files("engines") / "avatars").iterdir() if path.name.startswith(DEFAULT))
    return talker, talker.renderer.enrol(prepare(photo.read_bytes()))


class Probe:
    """Looks at the mouths of calls. `own`: they are of the server of this checkout and show its default avatar.

    `film`: a file in which another system says the same words, from the voice's beginning, mouth and sound in sync.
    """

    def __init__(self, voice: Voice, own: bool, film: Path | None = None) -> None:
        self._voice, self._own = voice, own
        self._fixed = None if film is None else mouth.curve(mouth.film_file(film))
        self._engines: tuple[Talker, Identity] | None = None
        self.source = str(film) if film else "its own offline rendering" if own else "a rendering by another model"

    def see(self, recording: Recording) -> Places:
        """Where the pictures of a call lie in the voice; nothing where no face or no motion is found."""
        shown = pictures(recording.video)
        if not shown or not recording.sent:
            return Places(*mouth.NOTHING)
        seen = mouth.curve(mouth.decoded(shown, recording.codec))
        if len(seen.at) < FPS:
            return Places(*mouth.NOTHING)
        return mouth.find(seen, self._reference(recording), *lags_possible(recording, "video"))

    def _reference(self, recording: Recording) -> Curve:
        if self._fixed is not None:
            return self._fixed
        if self._engines is None:
            self._engines = default_face()
        said = self._voice.heard[: len(recording.sent) * len(self._voice.heard) // len(self._voice.packets)]
        seed = seed_of(recording.name) if self._own else 0
        curve = mouth.curve(mouth.rendered(*self._engines, said, seed))
        if not self._own:
            self._fixed = curve
        return curve
