"""Origins: the addresses of connections, and the limits that all connections of one address share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

from ..clock import Clock
from ..errors import AddressError
from ..limits import TICK, Limits
from .timers import Timers

LOOPBACK: Final = ("127.0.0.0/8", "::1")
"""The addresses that are trusted unless the program says otherwise: proxies and benchmarks on this machine."""

_CACHED: Final = 4096
"""Hosts whose keys are cached: those that connected last."""
_FAULTS_A_SECOND: Final = 10
"""Refusals a second that an address may cause in the long run."""


class Origin:
    """One address, and how many of the lines and refusals that it is allowed its connections have used."""

    __slots__ = (
        "_faults",
        "_faults_at",
        "_limits",
        "_used",
        "_used_at",
        "held",
        "key",
        "limited",
        "openings",
        "session_bytes",
        "sessions",
        "trusted",
    )

    def __init__(self, key: str, trusted: bool, limits: Limits) -> None:
        self.key: str = key
        self.trusted: bool = trusted
        """Whether it stands for many clients: the limits of one address do not apply to it."""
        self.limited: bool = bool(limits.rate and limits.address_rate) and not trusted
        """Whether the lines of its connections are counted together."""
        self.held: int = 0
        """The number of connections and sessions that belong to it."""
        self.openings: dict[Any, float] | None = None
        """Its connections without a member, the oldest first, each with the time when it began to have none; None if
        there are no such connections."""
        self.session_bytes: int = 0
        """Bytes of its sessions."""
        self.sessions: dict[object, None] | None = None
        """Its sessions whose members are not connected, in the order in which they left; None before the first one."""
        self._limits = limits
        self._used = self._used_at = 0.0  # lines in a leaky bucket, which `address_rate` empties
        self._faults = self._faults_at = 0.0

    @property
    def _most(self) -> float:
        """The burst: at least as many lines as the rate allows between two looks at the deadlines."""
        return max(self._limits.address_burst, self._limits.address_rate * TICK)

    def free(self, now: float) -> float:
        """Return the lines that its connections may send now; below 0 if more are promised to them."""
        self._used = max(0.0, self._used - (now - self._used_at) * self._limits.address_rate)
        self._used_at = now
        return self._most - self._used

    def spend(self, lines: float) -> None:
        """Count lines that a connection has sent or, if negative, gives back because they were only promised."""
        self._used += lines

    def promise(self, lines: int, now: float) -> float:
        """Promise lines to a connection, after those promised to others; return when it may send them."""
        self.spend(lines)
        return now + max(0.0, -self.free(now)) / self._limits.address_rate

    def fault(self, now: float) -> bool:
        """Count a refusal for one of its connections; return whether these are too many now."""
        self._faults = max(0.0, self._faults - (now - self._faults_at) * _FAULTS_A_SECOND) + 1
        self._faults_at = now
        return self._faults > self._limits.address_flood and not self.trusted

    def at_rest(self, now: float) -> float:
        """Return the time from which nothing that it has used counts any more; at least `now`."""
        lines = self._used_at + self._used / self._limits.address_rate if self.limited else now
        return max(now, lines, self._faults_at + self._faults / _FAULTS_A_SECOND)


class Origins:
    """Every origin that is in use, or that has used lines or refusals which still count."""

    def __init__(self, limits: Limits, clock: Clock, timers: Timers, trusted: Iterable[str] = LOOPBACK) -> None:
        self._limits = limits
        self._clock = clock
        self._timers = timers
        self._trusted = networks(trusted)
        self.key: Callable[[str], tuple[str, bool]] = lru_cache(_CACHED)(self._key)
        """The key under which every rule about addresses counts a host, and whether the host is trusted."""
        self._origins: dict[str, Origin] = {}
        self._left: dict[Origin, None] = {}  # not in use, the first to be released first

    def __len__(self) -> int:
        return len(self._origins)

    def hold(self, host: str) -> Origin:
        """Return the origin of a host, for a connection or session that uses it until `let_go`."""
        key, trusted = self.key(host)
        origin = self._origins.get(key)
        if origin is None:
            origin = self._origins[key] = Origin(key, trusted, self._limits)
        elif self._left.pop(origin, origin) is None:
            self._timers.clear(origin)
        origin.held += 1
        return origin

    def let_go(self, origin: Origin) -> None:
        """Release an origin. It is forgotten when nothing uses it and nothing that it has used counts."""
        origin.held -= 1
        if origin.held:
            return
        now = self._clock.monotonic()
        at_rest = origin.at_rest(now)
        if at_rest <= now:
            del self._origins[origin.key]
            return
        self._left[origin] = None
        self._timers.set(origin, at_rest, lambda now: self._forget(origin))
        if len(self._left) > self._limits.connections:
            self._forget(next(iter(self._left)))

    def _forget(self, origin: Origin) -> None:
        del self._left[origin]
        del self._origins[origin.key]
        self._timers.clear(origin)

    def _key(self, host: str) -> tuple[str, bool]:
        """Return what `key` does, which caches it: parsing an address takes as long as accepting a connection.

        A host is counted under its IPv4 address, also if that is inside an IPv6 address, or under the first 64 bits of
        its IPv6 address, because one customer has all addresses that begin with them. A trusted address is counted in
        full. A text that is not an address is used as it is.
        """
        try:
            address = ip_address(host.strip("[]"))
        except ValueError:
            return host, False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if any(address in network for network in self._trusted):
            return str(address), True
        if isinstance(address, IPv4Address):
            return str(address), False
        return str(IPv6Network((int(address) >> 64 << 64, 64))), False


def networks(trusted: Iterable[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    """Return the trusted networks. Raises `AddressError` for a text that is neither an address nor a network."""
    found = []
    for text in trusted:
        try:
            found.append(ip_network(text.strip()))
        except ValueError as error:
            form = "a trusted address is an IP address, or a network such as 10.0.0.0/8 or 2001:db8::/32"
            raise AddressError(f"{text!r}: {error}; {form}") from None
    return tuple(found)
