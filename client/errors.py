"""What goes wrong in a call, in words."""

from __future__ import annotations


class AvatarError(Exception):
    """The server refused, cannot be reached or is gone; the text says why, in its own words where it gave any.

    `status`: of the HTTP answer, None where none came. `reason`: for programs, as `full`, `busy` or `draining`, ""
    where none is given. `retry_after`: seconds after which it is worth another try, None where nobody says so.
    """

    def __init__(
        self, words: str, *, status: int | None = None, reason: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(words)
        self.status, self.reason, self.retry_after = status, reason, retry_after
