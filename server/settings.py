"""Settings of one server process; beside `engines.cache`, the only reader of the environment.

Every field is an environment variable with the prefix `KDTALKER_`; `HOST` and `PORT` alone are honoured
without it, because that is what platforms set.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from engines.cache import cache_folder


class IceServer(BaseModel):
    """One entry of `RTCConfiguration.iceServers`, as the page and aiortc both take it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    urls: list[str]
    username: str | None = None
    credential: str | None = None


class Settings(BaseSettings):
    """Built once at start, then passed. Times are seconds, rates bits a second, sizes bytes."""

    model_config = SettingsConfigDict(env_prefix="KDTALKER_", frozen=True, extra="forbid", populate_by_name=True)

    host: str = Field("127.0.0.1", validation_alias=AliasChoices("KDTALKER_HOST", "HOST"))
    port: int = Field(8080, ge=0, le=65535, validation_alias=AliasChoices("KDTALKER_PORT", "PORT"))
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    profile: str = "embedded"
    cache: Path = Field(default_factory=cache_folder)

    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    max_sessions: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    retry_after: int = Field(10, ge=1)

    compute_allowance: float = Field(0.036, ge=0, le=1)
    """Time that the networks, the renderer and the encoder have for one frame before it is late."""
    video_bitrate: int = Field(1_200_000, ge=100_000, le=8_000_000)
    min_video_bitrate: int = Field(350_000, ge=50_000)
    audio_bitrate: int = Field(48_000, ge=16_000, le=128_000)

    ice_servers: tuple[IceServer, ...] = ()
    """STUN and TURN servers for both ends, as JSON; none by default, and never a third party's."""
    connect_timeout: float = Field(20.0, gt=0)
    lost_after: float = Field(10.0, gt=0)
    """A peer that sends nothing at all (not even receiver reports) for this long is gone."""
    idle_after: float = Field(900.0, gt=0)
    """A call in which nobody speaks for this long ends."""
    session_limit: float = Field(4 * 3600.0, gt=0)

    max_offer: int = 65_536
    max_photo: int = 20 * 1024 * 1024
    max_avatars: int = Field(200, ge=1)
