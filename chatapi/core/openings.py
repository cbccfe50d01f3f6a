"""Openings: connections that have no member, because they are on their way in or out, and which of them gives way."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from ..limits import Limits
from .origins import Origin

CHANCE: Final = 1.0
"""Seconds that a connection has to say who it is before it gives way to another one."""

SHORT_CHANCE: Final = 0.05
"""The same where the server is full: while one waits for longer, members that come back would be refused."""

_C = TypeVar("_C")


class Openings(Generic[_C]):
    """These connections by their origin. The oldest one of the origin that has the most is the first to give way."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._number = 0
        self._by_number: dict[int, dict[Origin, None]] = {}  # the origins that have so many, each of them once
        self._most = 0

    def __len__(self) -> int:
        return self._number

    def add(self, connection: _C, origin: Origin, now: float) -> None:
        """A connection begins, or its member has left; nothing where it is among them."""
        if origin.openings is None:
            origin.openings = {}
        if connection not in origin.openings:
            origin.openings[connection] = now
            self._counted(origin, len(origin.openings) - 1)

    def discard(self, connection: _C, origin: Origin) -> None:
        """A connection has a member, or is closed."""
        if origin.openings is not None and origin.openings.pop(connection, None) is not None:
            self._counted(origin, len(origin.openings) + 1)
            origin.openings = origin.openings or None

    def _counted(self, origin: Origin, before: int) -> None:
        """An origin has one more or one less than before."""
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
        """Whether one of them gives way to each further one."""
        return self._number >= self._limits.openings

    def oldest(self, now: float, chance: float = CHANCE) -> _C | None:
        """The one that gives way; None if it has not had so many seconds yet."""
        if not self._number:
            return None
        openings: dict[_C, float] = next(iter(self._by_number[self._most])).openings or {}
        connection, since = next(iter(openings.items()))
        return connection if now - since >= chance else None

    def one_too_many(self, origin: Origin) -> _C | None:
        """The oldest one of an origin that has too many."""
        openings: dict[_C, float] = origin.openings or {}
        if origin.trusted or len(openings) <= self._limits.address_openings:
            return None
        return next(iter(openings))
