"""The two clocks a chat needs, behind one small seam so that tests can turn them by hand."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the chat gets its time from."""

    def monotonic(self) -> float:
        """Seconds that only ever grow, for deadlines."""
        ...

    def micros(self) -> int:
        """Microseconds since 1970, for the `ts` of messages."""
        ...


class SystemClock:
    """The machine's own clocks."""

    @staticmethod
    def monotonic() -> float:
        """Seconds that only ever grow."""
        return time.monotonic()

    @staticmethod
    def micros() -> int:
        """Microseconds since 1970."""
        return time.time_ns() // 1000
