"""Who may come in: bearer tokens, and links that one of them signed and that expire.

A link is a JSON Web Token (RFC 7519, HS256) whose key is derived from a bearer token, so that taking a token
away takes its links away too. A page that is opened by one, or by a token typed in, keeps it in a cookie:
what a page loads afterwards, pictures and WebSockets included, cannot carry a header.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Iterable
from dataclasses import dataclass

import jwt

AUDIENCE = "kdtalker"
COOKIE = "kdtalker"
SIGNED_IN = 12 * 3600  # seconds that a page stays signed in with a token


@dataclass(frozen=True, slots=True)
class Holder:
    """Whoever came in. `name` tells one from another; an `operator` may see what concerns all calls."""

    name: str
    operator: bool


ANYBODY = Holder("", operator=True)


@dataclass(frozen=True, slots=True)
class _Token:
    digest: bytes
    key: bytes
    holder: Holder


class Keys:
    """The bearer tokens of this server; without any, everybody may come in."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = [
            _Token(
                hashlib.sha256(token.encode()).digest(),
                hashlib.sha256(b"kdtalker link:" + token.encode()).digest(),
                Holder(f"token {hashlib.sha256(b'kdtalker name:' + token.encode()).hexdigest()[:12]}", operator=True),
            )
            for token in tokens
        ]

    @property
    def required(self) -> bool:
        return bool(self._tokens)

    def holder(self, credential: str | None) -> Holder | None:
        """Whose `credential` (a token or a link's key) this is, None for nobody's. The time it takes tells nothing."""
        if not self._tokens:
            return ANYBODY
        if not credential:
            return None
        digest = hashlib.sha256(credential.encode("utf-8", "surrogateescape")).digest()
        found = [token.holder for token in self._tokens if hmac.compare_digest(token.digest, digest)]
        return found[0] if found else self._linked(credential)

    def link(self, guest: str, lifetime: float) -> str:
        """A key for a guest, signed by the first token, good for `lifetime` seconds."""
        return _sign(self._tokens[0], Holder(f"guest {guest}", operator=False), lifetime)

    def cookie(self, credential: str) -> tuple[str, int] | None:
        """What a page keeps in place of `credential`, and for how many seconds; a token itself is never kept."""
        digest = hashlib.sha256(credential.encode("utf-8", "surrogateescape")).digest()
        for token in self._tokens:
            if hmac.compare_digest(token.digest, digest):
                return _sign(token, token.holder, SIGNED_IN), SIGNED_IN
        if self._linked(credential) is None:
            return None
        expiry = jwt.decode(credential, options={"verify_signature": False})["exp"]  # it was verified just now
        return credential, max(1, int(expiry - time.time()))

    def _linked(self, credential: str) -> Holder | None:
        for token in self._tokens:
            try:
                claims = jwt.decode(
                    credential,
                    token.key,
                    algorithms=["HS256"],
                    audience=AUDIENCE,
                    options={"require": ["exp", "sub", "aud"]},
                )
            except (jwt.InvalidTokenError, ValueError):
                continue
            return Holder(claims["sub"], claims.get("operator") is True)
        return None


def _sign(token: _Token, holder: Holder, lifetime: float) -> str:
    claims = {"sub": holder.name, "exp": int(time.time() + lifetime), "aud": AUDIENCE}
    if holder.operator:
        claims["operator"] = True
    return jwt.encode(claims, token.key, "HS256")
