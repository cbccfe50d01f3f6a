"""Backpressure: who lags too far behind in a room, how long the room waits for them, and who waits for the room."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from ..limits import LOOK_EVERY, PAUSE_AT, RESUME_AT, ROUND_SHARE, TICK, Limits
from .log import Log
from .member import Member
from .origins import Origins


class Sender(Protocol):
    """Who may have to wait before saying more."""

    def wake(self) -> None:
        """Go on: whatever stood in the way may be gone."""
        ...


class WaitBudget:
    """The time that a room may still wait for slow members: a bucket that fills while it waits, and leaks all the time.

    At most half of `room_wait` is in it, and the other half leaks out in a minute. So the room waits for at most
    `room_wait` seconds in any minute, however many members are slow, and however short each pause is.
    """

    __slots__ = ("_at", "_used", "_waiting")

    def __init__(self) -> None:
        self._used = 0.0
        self._at = 0.0  # when `_used` was right
        self._waiting = False

    def count(self, now: float, room_wait: float, waiting: bool) -> None:
        """Account for the time until `now`; from here on the room waits or does not."""
        passed, self._at = now - self._at, now
        self._used = max(0.0, self._used - passed * room_wait / 120) + passed * self._waiting
        self._waiting = waiting

    def allows(self, room_wait: float) -> bool:
        """Whether the room may wait until the next look, two ticks after the last `count` at most."""
        return self._used + 2 * TICK <= room_wait / 2


class SlowPenalties:
    """The names and the addresses that were disconnected for being slow a short while ago."""

    def __init__(self, limits: Limits, origins: Origins) -> None:
        self._limits = limits
        self._origins = origins
        self._until: dict[str, float] = {}  # those that were added last at the end

    def __len__(self) -> int:
        return len(self._until)

    def add(self, client: Member, now: float) -> None:
        """This client was disconnected for being slow."""
        for mark in self._marks(client):
            self._until.pop(mark, None)
            self._until[mark] = now + self._limits.slow_penalty_seconds
        while self._until:
            oldest = next(iter(self._until))
            if self._until[oldest] > now and len(self._until) <= 2 * self._limits.connections:
                return
            del self._until[oldest]

    def has(self, client: Member, now: float) -> bool:
        """Whether the name or the address of this client is among them."""
        return any(self._until.get(mark, 0) > now for mark in self._marks(client))

    def _marks(self, client: Member) -> list[str]:
        """What a member is known by when it comes back: its name, and its address, which is never a name."""
        key, trusted = self._origins.key(client.address)
        return [client.key] if trusted or not client.address else [client.key, f"\n{key}"]


class FlowControl:
    """The state of one room's backpressure."""

    __slots__ = (
        "_budget",
        "_deadlines",
        "_look_at",
        "_room_wait",
        "most_entries",
        "most_written",
        "patient",
        "senders",
    )

    def __init__(self, room_wait: float, log: Log) -> None:
        self._room_wait = room_wait
        self._budget = WaitBudget()
        self._deadlines: dict[Member, float] = {}  # of those who lag by too much
        self.patient: set[Member] = set()
        """The members that lag by too much and that the senders wait for."""
        self.senders: dict[Sender, None] = {}
        """The senders that wait."""
        self.most_written: int = 0
        """The bytes of the log at which so much was said since the last fan-out that those who send must wait."""
        self.most_entries: int = 0
        """The same in entries."""
        self.passed(log)
        self._look_at = (0, 0)  # bytes and entries of the log at which it is time for another look

    @property
    def lagging(self) -> bool:
        """Whether anybody lags by too much, so that deadlines must be watched."""
        return bool(self._deadlines)

    def passed(self, log: Log) -> None:
        """Count what is said from here on against the part of the log that may be said before the next fan-out."""
        self.most_written = log.written + log.max_bytes // ROUND_SHARE
        self.most_entries = log.head + log.max_entries // ROUND_SHARE

    def is_full(self, log: Log) -> bool:
        """Whether that much was said."""
        return log.written >= self.most_written or log.head >= self.most_entries

    def wait(self, sender: Sender) -> None:
        """Call the sender's `wake` when it may go on."""
        self.senders[sender] = None

    def relieve(self, client: Member, now: float) -> None:
        """This client caught up, or is gone."""
        if self._deadlines.pop(client, None) is not None:
            self.patient.discard(client)
            self._count(now)

    def forgo(self, now: float) -> None:
        """Wait for nobody."""
        self._deadlines.clear()
        self.patient.clear()
        self._count(now)

    def _count(self, now: float) -> None:
        self._budget.count(now, self._room_wait, bool(self.patient))

    def resume(self) -> None:
        """Let everybody who waits go on."""
        waiting, self.senders = self.senders, {}
        for sender in waiting:
            sender.wake()

    def is_due(self, log: Log) -> bool:
        """Whether so much was written since the last look that somebody may have come to lag by too much."""
        return log.written >= self._look_at[0] or log.head >= self._look_at[1]

    def look(
        self, readers: Iterable[Member], log: Log, now: float, grace: float, forgiven: Callable[[Member], bool]
    ) -> list[Member]:
        """Look at everybody who is behind; returns those whose time is up or whose place is lost.

        Nobody is waited for once the room has waited for `Limits.room_wait` in the last minute.
        """
        self._look_at = log.written + int(log.max_bytes * LOOK_EVERY), log.head + int(log.max_entries * LOOK_EVERY)
        pause, resume, tail = log.behind_by(PAUSE_AT), log.behind_by(RESUME_AT), log.tail
        self._count(now)
        may_wait = self._budget.allows(self._room_wait)
        if not may_wait:
            self.patient.clear()
        late = []
        for client in readers:
            at = client.oldest
            deadline = self._deadlines.get(client)
            if at < tail or (deadline is not None and now >= deadline):
                late.append(client)
            elif deadline is None:
                if at < pause:
                    self._deadlines[client] = now + grace
                    if may_wait and forgiven(client):
                        self.patient.add(client)
            elif at >= resume:
                self.relieve(client, now)
        self._count(now)
        return late
