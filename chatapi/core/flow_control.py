"""Backpressure: the members that lag in a room, how long the room waits for them, and the senders that wait."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from ..limits import LOOK_EVERY, PAUSE_AT, RESUME_AT, ROUND_SHARE, TICK, Limits
from .log import Log
from .member import Member
from .origins import Origins


class Sender(Protocol):
    """A connection or a call of `Bot.post`, which may have to wait before it says more."""

    def wake(self) -> None:
        """Try again: the reason for waiting may be gone."""
        ...


class WaitBudget:
    """The time that a room has waited for slow members: a leaky bucket, which fills while the room waits.

    At most half of `room_wait` is in it, and the other half leaks out in a minute. So the room waits for at most
    `room_wait` seconds in any minute, however many members are slow, and however short each pause is.
    """

    __slots__ = ("_at", "_used", "_waiting")

    def __init__(self) -> None:
        self._used = 0.0
        self._at = 0.0  # the time to which `_used` is counted
        self._waiting = False

    def count(self, now: float, room_wait: float, waiting: bool) -> None:
        """Count the time until `now`; `waiting` says whether the room waits from now on."""
        passed, self._at = now - self._at, now
        self._used = max(0.0, self._used - passed * room_wait / 120) + passed * self._waiting
        self._waiting = waiting

    def allows(self, room_wait: float) -> bool:
        """Return whether the room may wait until the next look, which is at most two ticks after the last `count`."""
        return self._used + 2 * TICK <= room_wait / 2


class SlowPenalties:
    """The names and addresses of members that were disconnected for being slow in the last `slow_penalty_seconds`."""

    def __init__(self, limits: Limits, origins: Origins) -> None:
        self._limits = limits
        self._origins = origins
        self._until: dict[str, float] = {}  # in the order in which they were added

    def __len__(self) -> int:
        return len(self._until)

    def add(self, client: Member, now: float) -> None:
        """Add a member that is disconnected for being slow."""
        for mark in self._marks(client):
            self._until.pop(mark, None)
            self._until[mark] = now + self._limits.slow_penalty_seconds
        while self._until:
            oldest = next(iter(self._until))
            if self._until[oldest] > now and len(self._until) <= 2 * self._limits.connections:
                return
            del self._until[oldest]

    def has(self, client: Member, now: float) -> bool:
        """Return whether the name or the address of this member is among them."""
        return any(self._until.get(mark, 0) > now for mark in self._marks(client))

    def _marks(self, client: Member) -> list[str]:
        """Return the keys of a member: that of its name and, with a line feed in front, that of its address."""
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
        self._deadlines: dict[Member, float] = {}  # of the members that lag by too much: when they are disconnected
        self.patient: set[Member] = set()
        """The members that lag by too much, and for which the senders wait."""
        self.senders: dict[Sender, None] = {}
        """The senders that wait."""
        self.most_written: int = 0
        """Senders wait for the next fan-out once `log.written` reaches this."""
        self.most_entries: int = 0
        """The same for `log.head`."""
        self.allow_share(log)
        self._look_at = (0, 0)  # `log.written` and `log.head` at which `is_due`

    @property
    def lagging(self) -> bool:
        """Whether members lag by too much, so that their deadlines must be watched."""
        return bool(self._deadlines)

    def allow_share(self, log: Log) -> None:
        """A fan-out has ended: allow senders another share (1/`ROUND_SHARE`) of the log."""
        self.most_written = log.written + log.max_bytes // ROUND_SHARE
        self.most_entries = log.head + log.max_entries // ROUND_SHARE

    def is_share_used_up(self, log: Log) -> bool:
        """Return whether the senders have used up their share."""
        return log.written >= self.most_written or log.head >= self.most_entries

    def wait(self, sender: Sender) -> None:
        """Call the sender's `wake` when it may go on."""
        self.senders[sender] = None

    def relieve(self, client: Member, now: float) -> None:
        """Note that a member has caught up, or has left."""
        if self._deadlines.pop(client, None) is not None:
            self.patient.discard(client)
            self._count(now)

    def stop_waiting(self, now: float) -> None:
        """Wait for no member."""
        self._deadlines.clear()
        self.patient.clear()
        self._count(now)

    def _count(self, now: float) -> None:
        self._budget.count(now, self._room_wait, bool(self.patient))

    def resume(self) -> None:
        """Let all senders that wait go on."""
        waiting, self.senders = self.senders, {}
        for sender in waiting:
            sender.wake()

    def is_due(self, log: Log) -> bool:
        """Return whether so much was written since the last look that another member may lag by too much now."""
        return log.written >= self._look_at[0] or log.head >= self._look_at[1]

    def look(
        self, readers: Iterable[Member], log: Log, now: float, grace: float, is_waited_for: Callable[[Member], bool]
    ) -> list[Member]:
        """Look for members that lag by too much; return those whose time is up, or whose place the log has forgotten.

        The room waits for no member once it has waited for `Limits.room_wait` seconds in the last minute.
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
                    if may_wait and is_waited_for(client):
                        self.patient.add(client)
            elif at >= resume:
                self.relieve(client, now)
        self._count(now)
        return late
