"""How fast one member may speak, and how much that is refused is put up with: two buckets that leak over time."""

from __future__ import annotations

from typing import Final

from .limits import TICK, Limits

NO_LIMIT: Final = 1 << 30


class Pace:
    """The lines that a member has said and the faults it has made, against `rate`, `burst` and `flood`."""

    __slots__ = ("_faults", "_faults_at", "_limits", "_lines", "_lines_at")

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._lines = self._most  # how many it may say now
        self._faults = 0.0
        self._lines_at = self._faults_at = now

    @property
    def _most(self) -> float:
        """The burst; what the rate gives between two looks at the deadlines is always in it."""
        return max(self._limits.burst, self._limits.rate * TICK)

    def allowance(self, now: float) -> int:
        """How many lines it may say now; 0 for none before `ready_at`."""
        rate = self._limits.rate
        if not rate:
            return NO_LIMIT
        self._lines = min(self._most, self._lines + (now - self._lines_at) * rate)
        self._lines_at = now
        return max(0, int(self._lines))

    @property
    def ready_at(self) -> float:
        """When it may say the next line, after an `allowance` of 0."""
        return self._lines_at + (1 - self._lines) / self._limits.rate

    def spend(self, lines: int) -> None:
        """It said so many lines."""
        self._lines -= lines

    def fault(self, now: float) -> bool:
        """Something of it was refused; returns whether that makes it a flood."""
        self._faults = max(0.0, self._faults - (now - self._faults_at)) + 1
        self._faults_at = now
        return self._faults > self._limits.flood
