"""How packets find their way: STUN and TURN servers for both ends, and the addresses and ports of this one.

TURN credentials are made for one call and expire: coturn's `use-auth-secret`, the scheme of
draft-uberti-behave-turn-rest-00. Nobody's servers are asked unless the settings name them.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import random
import secrets
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from server.settings import IceServer, Settings


class PortsExhaustedError(Exception):
    """Every UDP port of the range is in use."""


@dataclass(frozen=True, slots=True)
class PortRange:
    """UDP ports `first` to `last`, both included. The system knows which are free; nothing is counted here."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def bind(self, addresses: Iterable[str]) -> list[socket.socket]:
        """One bound UDP socket for each address of this machine; all of them or PortsExhaustedError.

        An address that cannot be bound at all (it has just gone) is left out, as aioice does. The search
        begins anywhere, so that a call does not inherit the port, and the late packets, of the one before.
        """
        bound: list[socket.socket] = []
        try:
            for address in addresses:
                if opened := self._bind(address):
                    bound.append(opened)
        except BaseException:
            for opened in bound:
                opened.close()
            raise
        return bound

    def _bind(self, address: str) -> socket.socket | None:
        start = random.randrange(len(self))
        opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            opened.setblocking(False)
            for step in range(len(self)):
                try:
                    opened.bind((address, self.first + (start + step) % len(self)))
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:
                        opened.close()
                        return None
                else:
                    return opened
            raise PortsExhaustedError(f"no UDP port from {self.first} to {self.last} is free")
        except BaseException:
            opened.close()
            raise


@dataclass(frozen=True, slots=True)
class Network:
    """What one peer connection needs to know: servers with credentials that are still good, and this end.

    `ports`: where host sockets are bound (None: wherever the system likes). `advertise`: the public address
    of a machine behind 1:1 NAT. `relay_only`: use no way but TURN.
    """

    servers: tuple[IceServer, ...] = ()
    ports: PortRange | None = None
    advertise: str | None = None
    relay_only: bool = False


def turn_credentials(secret: str, user: str, expiry: int) -> tuple[str, str]:
    """(username, credential) that coturn takes until `expiry` (Unix seconds): base64 of HMAC-SHA1(secret, username)."""
    username = f"{expiry}:{user}"
    digest = hmac.new(secret.encode(), username.encode(), hashlib.sha1).digest()
    return username, base64.b64encode(digest).decode()


def ice_servers(settings: Settings) -> tuple[IceServer, ...]:
    """The servers that either end of a new call asks, TURN with credentials of its own."""
    if not settings.turn_urls:
        return settings.ice_servers
    assert settings.turn_secret is not None, "the settings see to it"
    expiry = int(time.time() + settings.turn_lifetime)
    name, credential = turn_credentials(settings.turn_secret.get_secret_value(), secrets.token_hex(4), expiry)
    turn = IceServer(urls=list(settings.turn_urls), username=name, credential=credential)
    return (*settings.ice_servers, turn)


def network(settings: Settings) -> Network:
    """The network of a new call."""
    return Network(
        ice_servers(settings),
        PortRange(*settings.udp_ports) if settings.udp_ports else None,
        str(settings.advertise) if settings.advertise else None,
        settings.relay_only,
    )


def facing(address: str, own: Iterable[str]) -> str | None:
    """Which of this machine's `own` addresses packets to `address` leave from.

    Connecting a UDP socket looks the route up and sends nothing.
    """
    version = ip_address(address).version
    candidates = [each for each in own if ip_address(each.partition("%")[0]).version == version]
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            source: str = probe.getsockname()[0]
    except OSError:
        source = ""
    return source if source in candidates else next(iter(candidates), None)
