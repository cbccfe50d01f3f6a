"""Where news waits for the program that reads it, within bounds; and a signal for those who wait for a change."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import anyio
import anyio.lowlevel

from ..errors import ChatError
from .events import Lost, News, Recovered

BEHIND: Final = 65_536
"""Events beyond the bound that are taken in while somebody waits for an answer that stands behind them: as many as a
room's log has entries, so what is already on its way always fits."""
_AT_ONCE: Final = 64


class Signal:
    """Wakes everybody who waits at that moment; nothing is remembered for who comes later."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._waiting = 0

    def set(self) -> None:
        """Something has changed."""
        if self._waiting:
            self._event.set()
            self._event = anyio.Event()

    async def wait(self) -> None:
        """Until something has; look again then. Cancelling it leaves nothing behind."""
        self._waiting += 1
        try:
            await self._event.wait()
        finally:
            self._waiting -= 1


class Inbox:
    """News in order. It bounds nothing itself: whoever puts in looks at `full` and `overfull` first.

    Where `keep` is false, what is put in is dropped.
    """

    def __init__(self, most: int, keep: bool) -> None:
        self.keep: bool = keep
        self.changed: Signal = Signal()
        """Set when there is room again."""
        self._most = most
        self._news: deque[News] = deque()
        self._arrived = Signal()
        self._taken = 0
        self._ended = False
        self._error: Callable[[], ChatError] | None = None

    def __len__(self) -> int:
        return len(self._news)

    @property
    def full(self) -> bool:
        """Whether no more is to be read from the server."""
        return len(self._news) >= self._most

    @property
    def overfull(self) -> bool:
        """Whether that holds for answers too."""
        return len(self._news) >= self._most + BEHIND

    def put(self, news: News) -> None:
        """Add something."""
        if not self.keep or self._ended:
            return
        tail = self._news
        if isinstance(news, Lost) and len(tail) > 1 and isinstance(tail[-1], Recovered) and isinstance(tail[-2], Lost):
            tail.pop()  # lost twice with nothing in between is lost once: a bad line cannot fill the inbox
            return
        self._news.append(news)
        self._arrived.set()

    def stop(self) -> None:
        """Take in nothing more; what is there can still be read."""
        self.keep = False

    def end(self, error: Callable[[], ChatError] | None) -> None:
        """Nothing will come any more; `error` makes what `take` raises, or None for a quiet end."""
        self._ended, self._error = True, error
        self._arrived.set()
        self.changed.set()

    async def take(self) -> News:
        """The next of it. Raises `StopAsyncIteration` or the error at its end. Cancelling it loses nothing."""
        self._taken += 1
        if not self._taken % _AT_ONCE:
            await anyio.lowlevel.checkpoint()
        while (news := self.take_now()) is None:
            await self._arrived.wait()
        return news

    def take_now(self) -> News | None:
        """The next of it, if there is one now; raises what `take` raises."""
        if not self._news:
            if self._ended:
                raise StopAsyncIteration if self._error is None else self._error()
            return None
        news = self._news.popleft()
        if len(self._news) <= self._most // 2:  # not for every single one
            self.changed.set()
        return news
