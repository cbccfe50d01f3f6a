"""The time, through a small interface, so that tests can set it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """The clocks that a chat reads: one for deadlines, and one for the times of messages."""

    def monotonic(self) -> float:
        """Return seconds that never go back, for deadlines."""
        ...

    def micros(self) -> int:
        """Return the microseconds since 1970, for the `ts` of messages."""
        ...


class SystemClock:
    """The machine's own clocks."""

    @staticmethod
    def monotonic() -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    @staticmethod
    def micros() -> int:
        """Return the microseconds since 1970."""
        return time.time_ns() // 1000
