"""Backpressure: who lags too far behind in a room, how long the room waits for them, and who waits for the room."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from .clients import Client
from .limits import LOOK_EVERY, PAUSE_AT, RESUME_AT
from .log import Log


class Sender(Protocol):
    """Who may have to wait before saying more."""

    def resume(self) -> None:
        """Go on: whatever stood in the way may be gone."""
        ...


class Pressure:
    """The state of one room's backpressure."""

    __slots__ = ("_deadlines", "_look_at", "_patient", "_waiting")

    def __init__(self) -> None:
        self._deadlines: dict[Client, float] = {}  # of those who lag by too much
        self._patient: set[Client] = set()  # those of them who are waited for
        self._waiting: dict[Sender, None] = {}
        self._look_at = (0, 0)  # bytes and entries of the log at which it is time for another look

    @property
    def paused(self) -> bool:
        """Whether those who send must wait for somebody."""
        return bool(self._patient)

    @property
    def lagging(self) -> bool:
        """Whether anybody lags by too much, so that deadlines must be watched."""
        return bool(self._deadlines)

    def wait(self, sender: Sender) -> None:
        """Call the sender's `resume` when it may go on."""
        self._waiting[sender] = None

    def relieve(self, client: Client) -> None:
        """This client caught up, or is gone."""
        if self._deadlines.pop(client, None) is not None:
            self._patient.discard(client)

    def forgo(self) -> None:
        """Wait for nobody."""
        self._deadlines.clear()
        self._patient.clear()

    def resume(self) -> None:
        """Let everybody who waits go on."""
        waiting, self._waiting = self._waiting, {}
        for sender in waiting:
            sender.resume()

    def is_due(self, log: Log) -> bool:
        """Whether so much was written since the last look that somebody may have come to lag by too much."""
        return log.written >= self._look_at[0] or log.head >= self._look_at[1]

    def look(
        self, readers: Iterable[Client], log: Log, now: float, grace: float, forgiven: Callable[[Client], bool]
    ) -> list[Client]:
        """Look at everybody who is behind; returns those whose time is up or whose place is lost."""
        self._look_at = log.written + int(log.max_bytes * LOOK_EVERY), log.head + int(log.max_entries * LOOK_EVERY)
        pause, resume, tail = log.behind_by(PAUSE_AT), log.behind_by(RESUME_AT), log.tail
        late = []
        for client in readers:
            at = client.oldest
            deadline = self._deadlines.get(client)
            if at < tail or (deadline is not None and now >= deadline):
                late.append(client)
            elif deadline is None:
                if at < pause:
                    self._deadlines[client] = now + grace
                    if forgiven(client):
                        self._patient.add(client)
            elif at >= resume:
                self.relieve(client)
        return late
