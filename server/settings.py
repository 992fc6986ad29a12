"""Settings of one server process; beside `engines.cache`, the only reader of the environment.

Every field is an environment variable with the prefix `KDTALKER_`; `HOST` and `PORT` alone are honoured
without it, because that is what platforms set.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ImportString,
    IPvAnyAddress,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from engines.cache import cache_folder
from engines.controls import DEFAULT, Controls
from engines.profile import LONGEST_HOP
from engines.types import FPS


class IceServer(BaseModel):
    """One entry of `RTCConfiguration.iceServers`, as the page and aiortc both take it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    urls: list[str]
    username: str | None = None
    credential: str | None = None


def _listed(given: object) -> object:
    """`one,two` -> ["one", "two"]."""
    return [part.strip() for part in given.split(",") if part.strip()] if isinstance(given, str) else given


def _whole(given: object) -> object:
    """An environment's `256` is a number where only some numbers are allowed."""
    return int(given) if isinstance(given, str) and given.strip().isdecimal() else given


Url = Annotated[str, Field(pattern="^https?://[^/]")]
Listed = (NoDecode, BeforeValidator(_listed))
Token = Annotated[SecretStr, Field(min_length=16)]


def _ports(given: object) -> object:
    """`50000-50099` -> (50000, 50099)."""
    if isinstance(given, str):
        first, dash, last = given.partition("-")
        if not (dash and first.strip().isdecimal() and last.strip().isdecimal()):
            raise ValueError("write a range as in 50000-50099")
        return int(first), int(last)
    return given


Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseSettings):
    """Built once at start, then passed. Times are seconds, rates bits a second, sizes bytes."""

    model_config = SettingsConfigDict(
        env_prefix="KDTALKER_", frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True
    )

    host: str = Field("127.0.0.1", validation_alias=AliasChoices("KDTALKER_HOST", "HOST"))
    port: int = Field(8080, ge=0, le=65535, validation_alias=AliasChoices("KDTALKER_PORT", "PORT"))
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    log_format: str = Field("text", pattern="^(text|json)$")
    profile: str = "embedded"
    weights: str | None = None
    """Folder that `kdtalker train --videos` wrote, or published weights; default: the profile's own."""
    hop: int | None = Field(None, ge=1, le=LONGEST_HOP)
    """Ticks that are generated at once, default: the profile's. More compute less and wait longer."""
    cache: Path = Field(default_factory=cache_folder)

    tls_cert: Path | None = None
    """PEM file with the certificate and its chain; `tls_key` is its key."""
    tls_key: Path | None = None
    self_signed: bool = False
    """HTTPS with a certificate made here, and kept in the cache."""

    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    max_sessions: int = Field(default_factory=lambda: 2 * (os.cpu_count() or 1), ge=1)
    max_viewers: int = Field(30, ge=0)
    """Viewers of all calls together: their packets leave through one event loop, which more cores do not widen."""
    prefix: str = Field("", pattern="^[A-Za-z0-9-]*$")
    """What the names of calls, viewers and recordings begin with; in a cluster it tells the worker that has them."""
    photos: str | None = None
    """Folder, or URL that fsspec knows, in which a cluster keeps sent photos; default: in memory only."""
    cluster: str | None = None
    """Serve from all machines of the Ray cluster at this address; `auto`: the one that this machine belongs to."""
    worker_cpus: float = Field(1.0, gt=0)
    worker_gpus: float = Field(0.0, ge=0)
    """Of one worker of a cluster, which is pinned to so many cores; a share of a GPU is possible."""
    min_workers: int = Field(1, ge=1)
    max_workers: int = Field(4, ge=1)
    spare_places: int = Field(1, ge=0)
    """Places for calls that a cluster keeps free, by starting workers in time."""
    calm: float = Field(60.0, ge=0)
    """There must have been more workers than needed for this long before one of them is drained."""
    worker_patience: float = Field(2.0, gt=0)
    """A worker that is silent for so long is taken to have lost its calls."""
    ingresses: int = Field(2, ge=1)
    """Processes of a cluster that answer HTTP."""
    load_shedding: bool = True
    """Refuse newcomers by what calls are measured to cost, and give calls less when the machine falls behind."""
    retry_after: int = Field(10, ge=1)

    compute_allowance: float = Field(0.036, ge=0, le=1)
    """Time that the networks, the renderer and the encoder have for one frame before it is late."""
    video_bitrate: int = Field(1_200_000, ge=100_000, le=8_000_000)
    min_video_bitrate: int = Field(100_000, ge=50_000)
    """Between the two the receiver's reports decide."""
    video_size: Annotated[Literal[256, 384, 512], BeforeValidator(_whole)] = 512
    """Pixels of a picture's side, at most: fewer are sent where the bitrate is low or the machine busy."""
    video_rate: int = Field(FPS, ge=5, le=FPS)
    """Pictures a second, at most; the sound stays whole."""
    keyframe_interval: float = Field(0.0, ge=0, le=120)
    """Seconds from one key frame to the next that nobody asks for; 0: only what receivers ask for."""
    video_codec: Literal["vp8", "h264"] = "vp8"
    """What is sent where an offer has both, whatever its order."""
    audio_bitrate: int = Field(48_000, ge=16_000, le=128_000)

    pose_scale: float = DEFAULT.pose_scale
    expression_scale: float = DEFAULT.expression_scale
    mouth_scale: float = DEFAULT.mouth_scale
    gaze: str = DEFAULT.gaze
    emotion: str = DEFAULT.emotion
    emotion_strength: float = DEFAULT.emotion_strength
    view: str = DEFAULT.view
    background: str = DEFAULT.background
    mark: bool = DEFAULT.mark
    """What calls begin with; each of them can be changed in a call."""

    ice_servers: tuple[IceServer, ...] = ()
    """STUN and TURN servers for both ends, as JSON; none by default, and never a third party's."""
    turn_urls: tuple[str, ...] = ()
    turn_secret: SecretStr | None = None
    """coturn's `static-auth-secret`: every call gets TURN credentials of its own, which expire."""
    turn_lifetime: float = Field(4 * 3600.0, ge=60)
    relay_only: bool = False
    """Let this end use no way but TURN."""
    udp_ports: Annotated[tuple[Port, Port] | None, NoDecode, BeforeValidator(_ports)] = None
    """First and last UDP port for sound and pictures, written `50000-50099`; any port by default."""
    advertise: IPvAnyAddress | None = None
    """The public address of a machine behind 1:1 NAT."""
    connect_timeout: float = Field(20.0, gt=0)
    lost_after: float = Field(3.0, gt=0)
    """A peer that sends nothing at all (not even receiver reports) for this long is lost."""
    grace: float = Field(15.0, ge=0)
    """A lost peer has this long to come back before its call ends."""
    drain: float = Field(25.0, ge=0)
    """After SIGTERM, running calls have this long to finish; nobody new is let in."""
    idle_after: float = Field(900.0, gt=0)
    """A call in which nobody speaks for this long ends."""
    session_limit: float = Field(4 * 3600.0, gt=0)

    tokens: Annotated[tuple[Token, ...], *Listed] = ()
    """Bearer tokens, separated by commas; without any, everybody may come in."""
    cors_origins: Annotated[tuple[str, ...], *Listed] = ()
    """Other servers whose pages may use this one, as `https://example.org`."""
    trusted_proxies: Annotated[tuple[str, ...], *Listed] = ()
    """Addresses or networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed."""
    rate_limit: float = Field(2.0, ge=0)
    """Requests a second that one address may make, not counting plain reading; 0: any number."""
    rate_burst: int = Field(60, ge=1)
    keep_photos: float = Field(4 * 3600.0, gt=0)
    """A sent photo is deleted after this long."""
    body_timeout: float = Field(30.0, gt=0)
    """A request must have arrived whole by then."""

    record_folder: Path | None = None
    """Where recordings lie while they are kept, default: in the cache."""
    record_seconds: float = Field(3600.0, ge=0)
    """The longest recording; 0: calls are not recorded."""
    record_bytes: int = Field(1 << 30, ge=1)
    """The largest recording."""
    record_total: int = Field(10 << 30, ge=1)
    """From so many bytes in all recordings on, no new one begins."""
    record_free: int = Field(512 << 20, ge=0)
    """Bytes of its disk that recordings leave free."""
    keep_recordings: float = Field(4 * 3600.0, gt=0)
    """A recording is deleted so long after its end."""

    speech_seconds: float = Field(300.0, gt=0)
    """Of sound that may wait in a call to be spoken."""
    voice: ImportString[Callable[[], Any]] | None = None
    """A voice of one's own, as `package.module:Class`; see `server.voices.Voice`."""
    barge_in: bool = True
    """A caller who begins to speak interrupts the avatar."""
    turn_pause: float = Field(0.7, ge=0.2, le=5)
    """Seconds of quiet that end a caller's turn."""
    turn_longest: float = Field(30.0, ge=2, le=300)
    """A caller's turn is over after this long, pause or not."""

    llm_url: Url | None = None
    llm_model: str = "default"
    llm_key: SecretStr | None = None
    """Chat completions by the OpenAI API, as `http://127.0.0.1:11434/v1`, for mode agent."""
    stt_url: Url | None = None
    stt_model: str = "whisper-1"
    stt_key: SecretStr | None = None
    """Speech recognition; where the language model is, unless told otherwise."""
    tts_url: Url | None = None
    tts_model: str = "tts-1"
    tts_key: SecretStr | None = None
    tts_voice: str | None = Field(None, min_length=1, max_length=100)
    """Speech from text, and its voice; espeak-ng without an address, where the voice is one of its own."""
    endpoint_timeout: float = Field(15.0, gt=0)
    """Seconds without a word after which one of these is given up."""
    prompt: str = (
        "You are on a video call. Answer in one to three short sentences, "
        "as people speak: without lists, markup or emoji."
    )
    """What the language model is told before a conversation."""

    whip_token: SecretStr | None = None
    """Bearer token that `kdtalker present` shows to a WHIP endpoint."""

    max_offer: int = 65_536
    max_speech: int = 32 * 1024 * 1024
    max_photo: int = 20 * 1024 * 1024
    max_avatars: int = Field(200, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None) or (self.tls_cert and self.self_signed):
            raise ValueError("HTTPS takes tls_cert and tls_key together, or self_signed instead of both")
        if self.min_workers > self.max_workers:
            raise ValueError("min_workers must not be above max_workers")
        if self.turn_urls and self.turn_secret is None:
            raise ValueError("turn_urls needs turn_secret, coturn's static-auth-secret")
        if self.udp_ports and self.udp_ports[0] > self.udp_ports[1]:
            raise ValueError("udp_ports: the first port must not be above the last")
        return self

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _ = self.controls
        return self

    @property
    def picture_codecs(self) -> tuple[str, ...]:
        """Names of the codecs that pictures are sent with, best first."""
        return ("VP8", "H264") if self.video_codec == "vp8" else ("H264", "VP8")

    @property
    def controls(self) -> Controls:
        """Of the face, as calls begin; raises ControlError."""
        return Controls(**{name: getattr(self, name) for name in DEFAULT.as_dict()})
