"""The threads of a store: one that reads, and one that writes, committing whatever waits, all rooms together."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Final, NamedTuple, TypeAlias, TypeVar

from ...clock import Clock
from ...core.broker import Past
from ...core.entries import AnyEntry, KeptEntry
from ...errors import StoreError
from ...pending import Pending
from .store import Append, Placed, Store

_logger = logging.getLogger("chatapi")
_T = TypeVar("_T")

URGENT_IN_A_ROW: Final = 16
"""Urgent calls that go before one that is not: neither kind can keep the other from ever having its turn."""

Place: TypeAlias = tuple[int, int]
"""A seq and a ts."""


class Log:
    """An open room. The writing thread counts, as long as anything is on its way, and the event loop otherwise."""

    __slots__ = ("epoch", "key", "name", "on_its_way", "seq", "ts")

    def __init__(self, key: str, past: Past) -> None:
        self.key: str = key
        self.name: str = past.name
        self.epoch: str = past.epoch
        self.seq: int = past.seq
        self.ts: int = past.ts
        self.on_its_way: int = 0
        """Entries that are neither delivered nor refused."""

    def place(self, entry: AnyEntry, now: int) -> Place:
        """The place of the next entry; what is not kept has that of the last message before it."""
        if not isinstance(entry, KeptEntry):
            return self.seq, 0
        seq, ts = self.seq + 1, max(now, self.ts + 1)
        self.seq, self.ts = self.seq + entry.count, ts + entry.count - 1
        return seq, ts


class Part(NamedTuple):
    """What was submitted to one room."""

    log: Log
    entries: Sequence[AnyEntry]

    def unplaced(self) -> list[Place]:
        """Places for what is not kept, where nothing else has any."""
        return [(self.log.seq, 0)] * len(self.entries)


class Committed(NamedTuple):
    """What came of a commit: a place for each entry or, where there is a reason against it, only for what is not kept.

    The entries themselves have none yet: that is for the event loop, once everybody may know.
    """

    parts: Sequence[Part]
    places: Sequence[Sequence[Place]]
    tried: bool
    """Whether anything was to be kept."""
    reason: str = ""


Done: TypeAlias = deque[Committed | Callable[[], None]]
"""What came of the work: commits, and what is to be called on the event loop."""


class Worker(threading.Thread):
    """Calls what it is given, in order but for what is urgent; `ring` is called, in this thread, when something was
    added to `done`."""

    def __init__(self, name: str, done: Done, ring: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)  # a disk that hangs must not keep the program from ending
        self._done, self._ring = done, ring
        self._urgent: deque[Callable[[], None]] = deque()
        self._other: deque[Callable[[], None]] = deque()
        self._in_a_row = 0  # urgent ones that went before one that waits
        self._tokens: SimpleQueue[None] = SimpleQueue()  # one for each that waits, and one to stop

    def call(self, what: Callable[[], _T], *, urgent: bool = False) -> Pending[_T]:
        """Call `what` in this thread, behind what waits, or if it is `urgent` behind what is urgent.

        The result is what it returned or raised, and is set on the event loop.
        """
        pending: Pending[_T] = Pending()

        def call() -> None:
            try:
                value = what()
            except Exception as error:
                self._tell(partial(pending.fail, error))
            else:
                self._tell(partial(pending.resolve, value))

        self._put(call, urgent=urgent)
        return pending

    def _put(self, work: Callable[[], None], *, urgent: bool = False) -> None:
        (self._urgent if urgent else self._other).append(work)
        self._tokens.put(None)

    def stop(self) -> None:
        """End once all that waits is done."""
        self._tokens.put(None)

    def run(self) -> None:
        """Work until stopped."""
        while True:
            self._tokens.get()
            if not (self._urgent or self._other):
                return
            self._next()()

    def _next(self) -> Callable[[], None]:
        if self._urgent and (self._in_a_row < URGENT_IN_A_ROW or not self._other):
            self._in_a_row += 1
            return self._urgent.popleft()
        self._in_a_row = 0
        return self._other.popleft()

    def _tell(self, done: Committed | Callable[[], None]) -> None:
        self._done.append(done)
        self._ring()


class Writer(Worker):
    """The one that writes: what waits to be committed when it has time for it becomes one commit."""

    def __init__(self, store: Store, clock: Clock, done: Done, ring: Callable[[], None]) -> None:
        super().__init__("chatapi store", done, ring)
        self._store, self._clock = store, clock
        self._parts: SimpleQueue[Sequence[Part]] = SimpleQueue()

    def commit(self, parts: Sequence[Part]) -> None:
        """Commit these with whatever else waits."""
        self._parts.put(parts)
        self._put(self._commit_all)

    def _commit_all(self) -> None:
        parts: list[Part] = []
        while not self._parts.empty():
            parts += self._parts.get()
        if parts:
            self._tell(self._commit(parts))

    def _commit(self, parts: Sequence[Part]) -> Committed:
        now = self._clock.micros()
        before = {part.log: (part.log.seq, part.log.ts) for part in parts}
        places = [[part.log.place(entry, now) for entry in part.entries] for part in parts]
        appends = {log: Append(log.key, log.name, log.epoch, []) for log in before}
        for part, placed in zip(parts, places, strict=True):
            for entry, place in zip(part.entries, placed, strict=True):
                if isinstance(entry, KeptEntry):
                    appends[part.log].entries.append(Placed(entry, *place))
        stored = [append for append in appends.values() if append.entries]
        try:
            if stored:
                self._store.append(stored)
        except Exception as error:
            for log, (seq, ts) in before.items():
                log.seq, log.ts = seq, ts
            if not isinstance(error, StoreError):
                _logger.exception("an error inside the server, while storing messages")
            return Committed(parts, [part.unplaced() for part in parts], True, str(error) or repr(error))
        return Committed(parts, places, bool(stored))
