"""How often one client may ask for what costs: token buckets by address."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network
from time import monotonic

CLIENTS = 10_000  # remembered; the one that asked least recently is forgotten first
HOUSEHOLD = 64  # bits of an IPv6 address that belong to one client


class Buckets:
    """A bucket of `burst` requests for every client, filled again by `rate` a second; `rate` 0 sets no limit."""

    def __init__(self, rate: float, burst: int, now: Callable[[], float] = monotonic) -> None:
        self._rate, self._burst, self._now = rate, burst, now
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()  # level, and when it was that

    def wait(self, client: str) -> float:
        """Seconds until `client` may ask again; 0 when it may now."""
        return max(0.0, (1 - self._level(client)) / self._rate) if self._rate else 0.0

    def take(self, client: str) -> None:
        """Count one request; call `wait` first."""
        if self._rate:
            self._levels[client] = (self._level(client) - 1, self._now())
            self._levels.move_to_end(client)
            if len(self._levels) > CLIENTS:
                self._levels.popitem(last=False)

    def _level(self, client: str) -> float:
        level, then = self._levels.get(client, (float(self._burst), 0.0))
        return min(self._burst, level + (self._now() - then) * self._rate)


def client_of(host: str | None) -> str | None:
    """Whom an address stands for: itself, or its /64; None for this machine itself, which is not limited."""
    try:
        address = ip_address(host or "")
    except ValueError:
        return host  # a Unix socket has no address: whoever comes through it is one client
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback:
        return None
    return str(ip_network((address, HOUSEHOLD), strict=False)) if address.version == 6 else str(address)
