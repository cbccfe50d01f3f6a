"""A limit for the log: clients can cause lines at will, and a program's event loop may wait for each of them."""

from __future__ import annotations

import logging
import threading
from typing import Final

from ..clock import Clock
from ..core.timers import Timers

_logger = logging.getLogger("chatapi")

RATE: Final = 10
"""Lines of one kind that are logged in a second, for any length of time."""
BURST: Final = 1000
"""Lines of one kind that are logged at once before `RATE` holds."""
EVERY: Final = 1.0
"""Seconds between two lines that say how many were left out."""
_KINDS: Final = 1000
"""Kinds of lines that are remembered; the library has far fewer."""


class _Kind:
    """The lines that have the same text, except for the values in it."""

    __slots__ = ("at", "left_out", "used")

    def __init__(self, now: float) -> None:
        self.used = 0.0
        self.at = now
        self.left_out = 0

    def take(self, now: float) -> bool:
        """Count a line; returns whether it is logged."""
        self.used = max(0.0, self.used - (now - self.at) * RATE)
        self.at = now
        logged = self.used + 1 <= BURST
        self.used += logged
        self.left_out += not logged
        return logged


class LogLimit(logging.Filter):
    """Lets at most `RATE` lines of each kind a second into the library's log, and says how many it left out.

    It is a filter of the library's logger while a chat runs, so that every line passes it, whichever module logs it and
    in whichever thread.
    """

    def __init__(self, clock: Clock, timers: Timers) -> None:
        super().__init__()
        self._clock = clock
        self._timers = timers
        self._kinds: dict[str, _Kind] = {}
        self._lock = threading.Lock()
        self._thread = 0  # the event loop's, which alone may use the timers
        self._sums_up = False

    def begin(self) -> None:
        """Limit the log, from the event loop."""
        self._thread = threading.get_ident()
        _logger.addFilter(self)

    def end(self) -> None:
        """Limit it no longer."""
        self._sum_up(0)
        self._timers.clear(self)
        _logger.removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is logged."""
        if self._sums_up:
            return True
        now, text = self._clock.monotonic(), str(record.msg)
        with self._lock:
            kind = self._kinds.get(text)
            if kind is None:
                if len(self._kinds) >= _KINDS:
                    self._kinds = {text: kind for text, kind in self._kinds.items() if kind.left_out}
                kind = self._kinds[text] = _Kind(now)
            logged = kind.take(now)
        if not logged and self._thread == threading.get_ident() and self not in self._timers:
            self._timers.set(self, now + EVERY, self._sum_up)
        return logged

    def _sum_up(self, now: float) -> None:
        with self._lock:
            left_out = [(kind.left_out, text) for text, kind in self._kinds.items() if kind.left_out]
            for kind in self._kinds.values():
                kind.left_out = 0
        self._sums_up = True
        try:
            for number, text in left_out:
                _logger.warning("… and %d more lines like this: %s", number, text)
        finally:
            self._sums_up = False
