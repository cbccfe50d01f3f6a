"""The lines that one member may send, and the faults that it may make: two buckets that leak over time."""

from __future__ import annotations

from math import ceil
from typing import Final

from ..core.origins import Origin
from ..limits import PAST_BYTES, PAST_MESSAGES, TICK, Limits

NO_LIMIT: Final = 1 << 30


class RateLimit:
    """The lines that a member has said and the faults it has made, against `rate`, `burst` and `flood`.

    Both count against those of its address too. Once the address has used up its lines, each of its members is
    promised some in its turn, as many as its own rate gives between two looks at the deadlines: none can keep the
    others out.
    """

    __slots__ = ("_faults", "_faults_at", "_limits", "_lines", "_lines_at", "_promised", "_promised_at", "origin")

    def __init__(self, limits: Limits, now: float, origin: Origin) -> None:
        self._limits = limits
        self.origin: Origin = origin
        """The address under which its connection is counted."""
        self._promised = 0  # lines of the address that only this member may say …
        self._promised_at = 0.0  # … from then on
        self._lines = self._most  # how many it may say now
        self._faults = 0.0
        self._lines_at = self._faults_at = now

    @property
    def _most(self) -> float:
        """The burst; it is at least what the rate gives between two looks at the deadlines."""
        return max(self._limits.burst, self._limits.rate * TICK)

    def grant(self, now: float) -> int:
        """Return how many lines the member may say now. If none, it may from `ready_at` on."""
        rate = self._limits.rate
        if not rate:
            return NO_LIMIT
        self._lines = min(self._most, self._lines + (now - self._lines_at) * rate)
        self._lines_at = now
        own = max(0, int(self._lines))
        return own if not own or not self.origin.limited else min(own, self._shared(own, now))

    def _shared(self, own: int, now: float) -> int:
        """Return how many lines of its address it may say now; if none, promise it some for later."""
        free = self.origin.free(now)
        if self._promised:
            return self._promised if now >= self._promised_at else 0
        if free >= 1:
            return int(free)
        self._promised = min(own, ceil(self._limits.rate * TICK))
        self._promised_at = self.origin.promise(self._promised, now)
        return 0

    @property
    def ready_at(self) -> float:
        """When the member may say its next line, after a `grant` of 0."""
        if self._lines >= 1:
            return self._promised_at
        return self._lines_at + (1 - self._lines) / self._limits.rate

    def spend(self, lines: float) -> None:
        """Charge the member for so many lines."""
        self._lines -= lines
        if self._promised:
            promised = min(ceil(lines), self._promised)
            self._promised -= promised
            lines -= promised
        if self.origin.limited:
            self.origin.spend(lines)

    def spend_on_past(self, messages: int, size: int) -> None:
        """Charge for so many messages of the past, of so many bytes, that the member is shown.

        The price is at most a whole burst, so that a member that resumes after a long time is held up for at most
        `burst` / `rate` seconds.
        """
        self.spend(min(max(messages / PAST_MESSAGES, size / PAST_BYTES), self._limits.burst))

    def fault(self, now: float) -> bool:
        """Count a fault; return whether the faults of the member, or those of its address, are a flood."""
        self._faults = max(0.0, self._faults - (now - self._faults_at)) + 1
        self._faults_at = now
        return self.origin.fault(now) or self._faults > self._limits.flood

    def close(self) -> Origin:
        """Give back what was promised to the member, because it says nothing more; return its address."""
        self.origin.spend(-self._promised)
        self._promised = 0
        return self.origin
