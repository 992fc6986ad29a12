"""Who speaks in a call, and when: the modes, the turns, what the avatar says, and what interrupts it.

A `Conversation` owns everything that a call does about speech beside its clock; cancelling `run` leaves nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import numpy as np

from engines.media import Speech
from engines.types import PLAYBACK_SAMPLES, SPEECH_SAMPLES, FloatArray, SpeechTick
from server.agent import Agent
from server.echo import EchoCheck
from server.endpoints import EndpointError
from server.modes import ConversationError, Mode
from server.outgoing import Leaving, Outgoing
from server.pushed import PushedSpeech
from server.sentences import sentences
from server.services import Services
from server.settings import Settings
from server.spoken import Spoken, TooMuchError, Utterance
from server.turns import Heard, Turn, TurnTaking
from server.voicing import Voicing

MAX_TEXT = 4000  # characters of a text
WAITING = 20_000  # characters that no voice has spoken yet

logger = logging.getLogger(__name__)


class Conversation:
    """Made and used on the event loop. `ahead`: seconds from a tick's cut to its due. `tell(kind, ...)` hears what
    happens; `hush()` is called when sound that the engines know already is taken back.
    """

    def __init__(
        self,
        name: str,
        mode: Mode,
        services: Services,
        settings: Settings,
        ahead: float,
        tell: Callable[..., None],
        hush: Callable[[], None],
    ) -> None:
        self.voice = services.voices.default
        self._name, self._mode, self._services = name, mode, services
        self._tell_all, self._hush = tell, hush
        self._barge_in = settings.barge_in
        self._spoken = Spoken(settings.speech_seconds, self._tell)
        self._voicing = Voicing(name, self._spoken, services, self._tell)
        self._outgoing = Outgoing(ahead)
        self._turns = TurnTaking(settings.turn_pause, settings.turn_longest)
        self._echo = EchoCheck()
        self._pushed = PushedSpeech(self._spoken)
        self._agent = services.agent()
        self._group: asyncio.TaskGroup | None = None  # while `run` runs
        self._reply: asyncio.Task[None] | None = None  # to the caller's latest turn
        self.turn = "idle"

    async def run(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as self._group:
            try:
                if self._mode is not Mode.MIRROR:
                    await self._voicing.warm(self.voice)
                await self._voicing.run()
            finally:
                self._group = None

    @property
    def mode(self) -> Mode:
        return self._mode

    def stats(self) -> dict[str, Any]:
        """What `conversation` says in a call's figures."""
        return {"mode": self._mode, "turn": self.turn, "voice": self.voice}

    def change_mode(self, mode: Mode) -> None:
        """Let something else speak from now on; what is being said is stopped. Raises ConversationError."""
        self._services.require(mode)
        if mode is not self._mode:
            self.interrupt()
            self._mode = mode
            self._tell("mode", mode=mode)

    async def choose_voice(self, name: str) -> None:
        """For texts from now on; raises ConversationError."""
        await self._voicing.require(name)
        self.voice = name
        self._tell("voice", voice=name)

    async def speak(self, text: str, voice: str | None = None) -> Utterance:
        """Say a text when all before it is said; raises ConversationError or TooMuchError."""
        if len(text) > MAX_TEXT:
            raise ConversationError(f"A text may have {MAX_TEXT} characters; send it in parts.")
        pieces = sentences(text)
        if not pieces:
            raise ConversationError("The text has no word in it.")
        if voice is not None:
            await self._voicing.require(voice)
        if sum(map(len, pieces)) + self._voicing.waiting > WAITING:
            raise TooMuchError("Too much text is waiting to be spoken; try again when some of it is.")
        utterance = self._spoken.add(voice or self.voice)
        utterance.pending.extend(pieces)
        utterance.more = False
        self._voicing.look()
        return utterance

    def play(self, speech: Speech) -> Utterance:
        """Say a sound file when all before it is said; raises TooMuchError."""
        return self._spoken.play(speech)

    def push(self, sound: FloatArray) -> None:
        """In mode push: sound f32 (samples,) at 48 kHz, as fast as it comes; raises TooMuchError."""
        self._pushed.push(sound)

    def end_push(self) -> None:
        """What was pushed is whole."""
        self._pushed.end()

    def interrupt(self) -> None:
        """Stop speaking, softly and at once, and forget what was still to be said."""
        if self._reply is not None:
            self._reply.cancel()
        self._take_back()
        self._pushed.stop()
        self._spoken.stop()

    @property
    def seconds_left(self) -> float:
        """Of sound that are still to be spoken."""
        return self._spoken.seconds

    def waiting(self) -> dict[str, Any] | None:
        """What `speech` says in a call's figures."""
        return self._spoken.stats()

    def exchange(self, heard: SpeechTick, arrival: float | None) -> tuple[SpeechTick, Leaving | None]:
        """A tick: what is heard of the caller -> what the avatar says then, and what is to be encoded and sent now."""
        self._listen(heard.pcm)
        self._pushed.tick()
        speech, utterance = self._speech(heard)
        if speech is not heard:
            arrival = None
        if self._mode is not Mode.MIRROR:  # where nobody can be taken for an echo
            self._echo.played(speech.pcm)
        leaving = self._outgoing.put(Leaving(speech.tick, speech.playback, arrival, utterance))
        if leaving is not None and leaving.utterance is not None:
            self._spoken.leave(leaving.utterance)
            self._voicing.look()
        self._spoken.settle()
        self._follow()
        return speech, leaving

    def _speech(self, heard: SpeechTick) -> tuple[SpeechTick, Utterance | None]:
        taken = None if self._listening else self._spoken.take(heard.tick)
        if taken is not None:
            return taken
        if self._mode is Mode.MIRROR:
            return heard, None
        pcm, playback = np.zeros(SPEECH_SAMPLES, np.float32), np.zeros(PLAYBACK_SAMPLES, np.int16)
        return SpeechTick(heard.tick, pcm, playback), None

    @property
    def _listening(self) -> bool:
        """Whether the avatar is quiet because the caller speaks, or seems to."""
        return self._barge_in and self._mode is not Mode.MIRROR and self._turns.suspected

    def _listen(self, pcm: FloatArray) -> None:
        """Follow the caller's turns."""
        voiced = self._turns.voiced(pcm)
        if self._mode is not Mode.MIRROR and self._echo.explains(pcm, any(voiced)):
            voiced = [False] * len(voiced)
        happened = self._turns.hear(pcm, voiced)
        if self._mode is Mode.MIRROR:
            return
        if self._barge_in and happened is Heard.SUSPECTED:
            self._take_back()
        elif self._barge_in and happened is Heard.BEGUN:
            self.interrupt()
        elif happened is Heard.ENDED and self._mode is Mode.AGENT and not self._busy:
            self._answer()

    @property
    def _busy(self) -> bool:
        """Whether the avatar says something, or is about to."""
        return self._spoken.current is not None or self._thinking

    @property
    def _thinking(self) -> bool:
        return self._reply is not None and not self._reply.done()

    def _answer(self) -> None:
        """Begin to answer the caller's latest turn."""
        turn = self._turns.turn
        if turn is not None and self._agent is not None and self._group is not None:
            self._reply = self._group.create_task(self._replying(self._agent, turn), name=f"{self._name} reply")

    async def _replying(self, agent: Agent, turn: Turn) -> None:
        """Understand a turn, and say the answer while it is written."""
        utterance: Utterance | None = None
        try:
            text = await agent.understand(turn.pcm)
            if not text:
                return
            self._tell("subtitle", who="user", text=text, final=True, id=self._spoken.number())
            async with aclosing(agent.answer()) as written:
                async for sentence in written:
                    if utterance is None:
                        utterance = self._spoken.add(self.voice)
                    utterance.pending.append(sentence)
                    self._voicing.look()
                    if self._voicing.waiting > WAITING:
                        break
            if utterance is None:
                self._tell("trouble", detail="The language model has no answer to this.")
        except EndpointError as error:
            self._tell("trouble", detail=str(error))
        except Exception:  # a conversation is not worth the call
            logger.exception("session %s: no answer", self._name)
            self._tell("trouble", detail="The answer failed; the server's log says why.")
        finally:
            if utterance is not None:
                utterance.more = False

    def _take_back(self) -> None:
        """End what is being said where that can still be done; it can be said again from there."""
        if self._outgoing.hush():
            self._hush()
        self._spoken.take_back()

    def _follow(self) -> None:
        """Tell whose turn it is, where that changed."""
        current = self._spoken.current
        if self._mode is Mode.MIRROR:
            turn = "speaking" if current is not None or self._turns.speaking else "idle"
        elif self._turns.speaking:
            turn = "listening"
        elif current is not None:
            turn = "speaking" if current.begun else "thinking"
        else:
            turn = "thinking" if self._thinking else "idle"
        if turn != self.turn:
            if turn == "idle":  # a caller who goes on for ever was answered
                self._turns.listen_again()
            self.turn = turn
            self._tell("turn", state=turn)

    def _tell(self, kind: str, **members: Any) -> None:
        if kind == "spoken" and self._agent is not None:
            self._agent.said(members["said"])
        self._tell_all(kind, **members)
