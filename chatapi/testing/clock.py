"""A clock for tests, which stands still until the test advances it."""

from __future__ import annotations


class VirtualClock:
    """A clock for tests: its time changes only when the test calls `turn`."""

    def __init__(self, start: float = 1_000.0) -> None:
        self._now = start

    def monotonic(self) -> float:
        """Return the seconds since an arbitrary time."""
        return self._now

    def micros(self) -> int:
        """Return the microseconds since 1970; the virtual clock began in 2026."""
        return 1_767_225_600_000_000 + int(self._now * 1_000_000)

    def turn(self, seconds: float) -> None:
        """Advance the clock."""
        self._now += seconds
