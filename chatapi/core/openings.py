"""Openings: connections without a member, and the choice of the one that is closed for a new connection."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from ..limits import Limits
from .origins import Origin

CHANCE: Final = 1.0
"""Seconds that a connection has for its handshake before it may give way to another one."""

SHORT_CHANCE: Final = 0.05
"""The same if the server is full: with more, members that come back would be refused."""

_C = TypeVar("_C")


class Openings(Generic[_C]):
    """The openings of each origin. The oldest one of the origin that has the most is the first to give way."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._number = 0
        self._by_number: dict[int, dict[Origin, None]] = {}  # the origins that have this number of them
        self._most = 0

    def __len__(self) -> int:
        return self._number

    def add(self, connection: _C, origin: Origin, now: float) -> None:
        """Add a connection that begins, or whose member has left; without effect if it is there."""
        if origin.openings is None:
            origin.openings = {}
        if connection not in origin.openings:
            origin.openings[connection] = now
            self._counted(origin, len(origin.openings) - 1)

    def discard(self, connection: _C, origin: Origin) -> None:
        """Remove a connection that has a member now, or is closed; without effect if it is not there."""
        if origin.openings is not None and origin.openings.pop(connection, None) is not None:
            self._counted(origin, len(origin.openings) + 1)
            origin.openings = origin.openings or None

    def _counted(self, origin: Origin, before: int) -> None:
        """Note that an origin has one more or one less than `before`."""
        number = len(origin.openings or ())
        if before:
            del self._by_number[before][origin]
        if number:
            self._by_number.setdefault(number, {})[origin] = None
        if before and not self._by_number[before]:
            del self._by_number[before]
        self._most = number if number > self._most or self._most not in self._by_number else self._most
        self._number += number - before

    @property
    def full(self) -> bool:
        """Whether one of them must give way to each further one."""
        return self._number >= self._limits.openings

    def oldest(self, now: float, chance: float = CHANCE) -> _C | None:
        """Return the one that gives way; None if it has not been there for `chance` seconds."""
        if not self._number:
            return None
        openings: dict[_C, float] = next(iter(self._by_number[self._most])).openings or {}
        connection, since = next(iter(openings.items()))
        return connection if now - since >= chance else None

    def one_too_many(self, origin: Origin) -> _C | None:
        """Return the oldest one of an origin if that has too many, otherwise None."""
        openings: dict[_C, float] = origin.openings or {}
        if origin.trusted or len(openings) <= self._limits.address_openings:
            return None
        return next(iter(openings))
