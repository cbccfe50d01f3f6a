"""Deadlines: at most one for each owner, checked every `TICK` seconds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import ceil
from typing import TypeAlias

from ..limits import TICK

_logger = logging.getLogger("chatapi")

Action: TypeAlias = Callable[[float], None]
"""Called with the time when its deadline has passed."""


class Timers:
    """The deadlines. Setting or clearing one costs the same, however many there are."""

    __slots__ = ("_buckets", "_seen", "_when", "lost")

    def __init__(self) -> None:
        self._buckets: dict[int, dict[object, Action]] = {}  # by tick
        self._when: dict[object, int] = {}
        self._seen: int | None = None  # the last tick that was checked
        self.lost: float = 0.0
        """Seconds in which the server stood still. Deadlines and ticks do not count them."""

    def __bool__(self) -> bool:
        return bool(self._when)

    def __contains__(self, owner: object) -> bool:
        return owner in self._when

    def when(self, owner: object) -> float | None:
        """Return the time of the owner's deadline, rounded to a tick; None if it has none."""
        tick = self._when.get(owner)
        return None if tick is None else tick * TICK + self.lost

    def counted(self, now: float) -> float:
        """Return this time without the seconds in which the server stood still."""
        return now - self.lost

    def set(self, owner: object, when: float, action: Action) -> None:
        """Call `action` once, at `when` or a tick later. This replaces an earlier deadline of the owner."""
        self.clear(owner)
        tick = ceil(self.counted(when) / TICK)
        if self._seen is not None and tick <= self._seen:
            tick = self._seen + 1
        self._when[owner] = tick
        self._buckets.setdefault(tick, {})[owner] = action

    def clear(self, owner: object) -> None:
        """Forget the owner's deadline, if there is one."""
        tick = self._when.pop(owner, None)
        if tick is not None:
            bucket = self._buckets[tick]
            del bucket[owner]
            if not bucket:
                del self._buckets[tick]

    def postpone(self, seconds: float) -> None:
        """Move every deadline by the seconds in which the server stood still."""
        self.lost += seconds

    def run(self, now: float) -> bool:
        """Call the actions of all deadlines that have passed; return whether others are left."""
        tick = int((now - self.lost) / TICK)
        if tick != self._seen:
            self._run(tick, now)
        return bool(self._when)

    def _run(self, tick: int, now: float) -> None:
        if self._seen is None or tick - self._seen > len(self._buckets):
            passed = sorted(due for due in self._buckets if due <= tick)
        else:
            passed = [due for due in range(self._seen + 1, tick + 1) if due in self._buckets]
        self._seen = tick
        for due in passed:
            bucket = self._buckets.get(due, {})
            for owner, action in list(bucket.items()):
                if self._when.get(owner) == due:
                    self.clear(owner)
                    try:
                        action(now)
                    except Exception:  # the other deadlines are still checked
                        _logger.exception("an error inside the server, at the deadline of %s", owner)
