"""The bounded queue of events between a connection and the program that reads them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import anyio
import anyio.lowlevel

from ..errors import ChatError
from .events import Lost, News, Recovered

EXTRA_EVENTS: Final = 65_536
"""Events accepted beyond the bound while a call waits for an answer that is queued behind them at the server. A room's
log holds as many entries, so whatever is already on its way fits."""
_YIELD_EVERY: Final = 64
"""Events taken without a wait, after which `EventQueue.take` gives other tasks a turn."""


class Signal:
    """Wakes all tasks that wait at the moment when it is set. It does not remember that it was set."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._waiting = 0

    def set(self) -> None:
        """Wake all waiting tasks."""
        if self._waiting:
            self._event.set()
            self._event = anyio.Event()

    async def wait(self) -> None:
        """Wait for the next `set`. The caller then checks its condition again."""
        self._waiting += 1
        try:
            await self._event.wait()
        finally:
            self._waiting -= 1


class EventQueue:
    """Events in order. It enforces no bound: the caller of `put` checks `full` and `overfull` first.

    If `accepting` is false, `put` drops the event.
    """

    def __init__(self, max_events: int, accepting: bool) -> None:
        self.accepting: bool = accepting
        self.changed: Signal = Signal()
        """Set when there is space again, and when tasks that wait for space must check their condition again."""
        self._max_events = max_events
        self._events: deque[News] = deque()
        self._arrived = Signal()
        self._taken = 0
        self._ended = False
        self._error: Callable[[], ChatError] | None = None

    def __len__(self) -> int:
        return len(self._events)

    @property
    def full(self) -> bool:
        """Whether the connection must stop reading, unless a call waits for an answer."""
        return len(self._events) >= self._max_events

    @property
    def overfull(self) -> bool:
        """Whether the connection must stop reading even if a call waits for an answer."""
        return len(self._events) >= self._max_events + EXTRA_EVENTS

    def put(self, event: News) -> None:
        """Add an event."""
        if not self.accepting or self._ended:
            return
        tail = self._events
        if isinstance(event, Lost) and len(tail) > 1 and isinstance(tail[-1], Recovered) and isinstance(tail[-2], Lost):
            tail.pop()  # merge with the previous loss, so that an unstable network cannot fill the queue
            return
        self._events.append(event)
        self._arrived.set()

    def stop(self) -> None:
        """Drop all further events; those in the queue can still be taken."""
        self.accepting = False

    def end(self, error: Callable[[], ChatError] | None) -> None:
        """End the iteration behind the last event: with the error that `error` makes, or without one if it is None."""
        self._ended, self._error = True, error
        self._arrived.set()
        self.changed.set()

    async def take(self) -> News:
        """Take the next event; at the end raise `StopAsyncIteration` or the error. Cancelling it loses no event."""
        self._taken += 1
        if not self._taken % _YIELD_EVERY:
            await anyio.lowlevel.checkpoint()
        while (event := self.take_now()) is None:
            await self._arrived.wait()
        return event

    def take_now(self) -> News | None:
        """Take the next event, or return None if there is none yet; at the end raise what `take` raises."""
        if not self._events:
            if self._ended:
                raise StopAsyncIteration if self._error is None else self._error()
            return None
        event = self._events.popleft()
        if len(self._events) <= self._max_events // 2:  # not for each event
            self.changed.set()
        return event
