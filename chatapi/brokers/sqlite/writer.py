"""The threads of a store: one reads, and one commits the submitted entries of all rooms together."""

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
"""Urgent calls in a row that go before one that is not urgent, so that neither kind starves."""

Position: TypeAlias = tuple[int, int]
"""A `seq` and a `ts`."""


class Log:
    """The numbers of an open room. The writing thread changes them while anything is unsettled."""

    __slots__ = ("epoch", "key", "name", "seq", "ts", "unsettled")

    def __init__(self, key: str, past: Past) -> None:
        self.key: str = key
        self.name: str = past.name
        self.epoch: str = past.epoch
        self.seq: int = past.seq
        self.ts: int = past.ts
        self.unsettled: int = 0
        """Entries that are neither delivered nor refused."""

    def next_position(self, entry: AnyEntry, now: int) -> Position:
        """Return the position of the next entry. An entry that is not kept has the `seq` of the message before it."""
        if not isinstance(entry, KeptEntry):
            return self.seq, 0
        seq, ts = self.seq + 1, max(now, self.ts + 1)
        self.seq, self.ts = self.seq + entry.count, ts + entry.count - 1
        return seq, ts


class Submission(NamedTuple):
    """Entries that were submitted to one room."""

    log: Log
    entries: Sequence[AnyEntry]

    def without_numbers(self) -> list[Position]:
        """Return the positions of entries that are not kept, if the others are refused."""
        return [(self.log.seq, 0)] * len(self.entries)


class Committed(NamedTuple):
    """The result of a commit: a position for each entry. If there is a reason, entries that are kept are refused.

    The event loop sets the positions of the entries, when everybody may see them.
    """

    submissions: Sequence[Submission]
    positions: Sequence[Sequence[Position]]
    stored: bool
    """Whether there was anything to store."""
    reason: str = ""


Done: TypeAlias = deque[Callable[[], None]]
"""Callbacks that give results to the event loop, which has to call them."""


class Worker(threading.Thread):
    """Executes functions in their order, urgent ones first. It calls `wake` in this thread when `done` has a result."""

    def __init__(self, name: str, done: Done, wake: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)  # a disk that hangs must not keep the program from ending
        self._done, self._wake = done, wake
        self._urgent: deque[Callable[[], None]] = deque()
        self._other: deque[Callable[[], None]] = deque()
        self._in_a_row = 0  # urgent calls before the next that is not urgent
        self._tokens: SimpleQueue[None] = SimpleQueue()  # one for each call that waits, and one to stop

    def execute(self, function: Callable[[], _T], *, urgent: bool = False) -> Pending[_T]:
        """Call `function` in this thread, and return what it returns or raises. The result is set on the event loop."""
        pending: Pending[_T] = Pending()

        def call() -> None:
            try:
                value = function()
            except Exception as error:
                self._give_back(partial(pending.fail, error))
            else:
                self._give_back(partial(pending.resolve, value))

        self._put(call, urgent=urgent)
        return pending

    def _put(self, work: Callable[[], None], *, urgent: bool = False) -> None:
        (self._urgent if urgent else self._other).append(work)
        self._tokens.put(None)

    def stop(self) -> None:
        """End the thread when everything that waits is done."""
        self._tokens.put(None)

    def run(self) -> None:
        """Execute what waits, until stopped."""
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

    def _give_back(self, callback: Callable[[], None]) -> None:
        self._done.append(callback)
        self._wake()


class Writer(Worker):
    """The thread that writes. Everything that waits when a commit begins is part of it.

    `committed` is called with the result of each commit, on the event loop.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        done: Done,
        wake: Callable[[], None],
        committed: Callable[[Committed], None],
    ) -> None:
        super().__init__("chatapi store", done, wake)
        self._store, self._clock, self._committed = store, clock, committed
        self._submissions: SimpleQueue[Sequence[Submission]] = SimpleQueue()

    def commit(self, submissions: Sequence[Submission]) -> None:
        """Commit these, with everything else that waits."""
        self._submissions.put(submissions)
        self._put(self._commit_all)

    def _commit_all(self) -> None:
        submissions: list[Submission] = []
        while not self._submissions.empty():
            submissions += self._submissions.get()
        if submissions:
            self._give_back(partial(self._committed, self._commit(submissions)))

    def _commit(self, submissions: Sequence[Submission]) -> Committed:
        now = self._clock.micros()
        before = {one.log: (one.log.seq, one.log.ts) for one in submissions}
        positions = [[one.log.next_position(entry, now) for entry in one.entries] for one in submissions]
        appends = {log: Append(log.key, log.name, log.epoch, []) for log in before}
        for submission, placed in zip(submissions, positions, strict=True):
            for entry, position in zip(submission.entries, placed, strict=True):
                if isinstance(entry, KeptEntry):
                    appends[submission.log].entries.append(Placed(entry, *position))
        stored = [append for append in appends.values() if append.entries]
        try:
            if stored:
                self._store.append(stored)
        except Exception as error:
            for log, (seq, ts) in before.items():
                log.seq, log.ts = seq, ts
            if not isinstance(error, StoreError):
                _logger.exception("an error inside the server, while storing messages")
            refused = [one.without_numbers() for one in submissions]
            return Committed(submissions, refused, True, str(error) or repr(error))
        return Committed(submissions, positions, bool(stored))
