"""A broker for tests that answers when the test calls `release`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from ..brokers.memory import InProcessBroker
from ..core.broker import Past
from ..core.entries import AnyEntry, Deletion, Said
from ..errors import Refused
from ..pending import Pending
from .clock import VirtualClock


class LateBroker(InProcessBroker):
    """A broker that answers on `release`, as one that waits for a disk or a network does.

    With ``opens_late`` it also opens rooms on `release`; while `failing` is set it refuses, as one with a full disk.
    """

    def __init__(self, clock: VirtualClock, *, opens_late: bool = False) -> None:
        super().__init__(clock)
        self._opens_late = opens_late
        self._pending: deque[tuple[str, AnyEntry] | Callable[[], None]] = deque()
        self.failing: Refused | None = None
        """The reason of refusals; None if entries are accepted."""

    @property
    def pending(self) -> int:
        """The number of entries and questions without an answer."""
        return len(self._pending)

    def open(self, room: str, name: str, epoch: str, messages: int, max_bytes: int) -> Pending[Past]:
        """Open a room."""
        opened = super().open(room, name, epoch, messages, max_bytes)
        if not self._opens_late:
            return opened
        later: Pending[Past] = Pending()
        self._pending.append(lambda: later.resolve(opened.result()))
        return later

    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        """Keep entries until `release`."""
        self._pending.extend((room, entry) for entry in entries)

    def release(self, most: int | None = None) -> int:
        """Answer the oldest `most` entries and questions, or all; return how many it has answered."""
        released = 0
        while self._pending and (most is None or released < most):
            unanswered = self._pending.popleft()
            if callable(unanswered):
                unanswered()
            else:
                self._settle(*unanswered)
            released += 1
        return released

    def _settle(self, room: str, entry: AnyEntry) -> None:
        assert self._rooms is not None
        if self.failing is not None and isinstance(entry, Said | Deletion):
            self._rooms.refuse(room, (entry,), self.failing)
        else:
            super().submit(room, (entry,))
