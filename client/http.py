"""The HTTP side of a call: requests whose refusals are told in the server's words."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from typing import Any

import httpx

from client.errors import AvatarError

PATIENCE = 30.0  # seconds that the server has to answer a request


class Http:
    """Requests to the server at `url`, with the credentials of one client. Close it when it is done."""

    def __init__(self, url: str, token: str | None, tls: ssl.SSLContext | None) -> None:
        self.url = url.rstrip("/")
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.AsyncClient(
            base_url=self.url, headers=self.headers, timeout=PATIENCE, verify=tls if tls is not None else True
        )

    async def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """The answer, if it is a good one; raises AvatarError. `request` is what httpx takes."""
        try:
            answer = await self._client.request(method, path, **request)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise AvatarError(f"{self.url} cannot be reached: {str(error) or type(error).__name__}") from error
        if not answer.is_success:
            raise refusal(answer.status_code, answer.content, answer.headers)
        return answer

    async def close(self) -> None:
        await self._client.aclose()


def refusal(status: int, body: bytes, headers: Mapping[str, str]) -> AvatarError:
    """A problem (RFC 9457) as an error; of an answer that is none, the status."""
    try:
        problem = json.loads(body)
        words = str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return AvatarError(f"The server answered {status}, and not in words of its own.", status=status)
    later = headers.get("Retry-After", "")
    return AvatarError(
        words,
        status=status,
        reason=str(problem.get("reason", "")),
        retry_after=float(later) if later.isdecimal() else None,
    )
