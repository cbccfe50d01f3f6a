"""The broker: the one seam between rooms and the world. It gives every message its place and brings it back.

A room hands over what its members did (`submit`) and gets it back, in the same order, each message with its `seq`
and `ts` (`Rooms.deliver`): at once from the in-process broker, later from one that has to wait for a disk or a network.
A broker may also keep what a room's own log forgets, and rooms themselves over the end of the process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from .clock import Clock
from .entries import AnyEntry, AnyKept, Deletion, Said
from .errors import RefusalCode, Refused
from .limits import Limits


class Past(NamedTuple):
    """What a broker has of a room that begins to live, or goes on."""

    epoch: str
    """Names this life of its log."""
    name: str
    """The room's name in its first spelling."""
    seq: int = 0
    """The number of the newest message or deletion; 0 before the first."""
    ts: int = 0
    """Its time, in microseconds since 1970."""
    first: int = 1
    """The number of the oldest that is kept; `seq` + 1 where none is."""
    tail: Sequence[AnyKept] = ()
    """The newest ones, the oldest of them first, none missing up to `seq`."""


class Sent(NamedTuple):
    """Where that stands which a session has said under an id."""

    room: str
    """The room's key."""
    seq: int
    ts: int


class Rooms(Protocol):
    """What a broker speaks to: the rooms of a chat. Nothing here waits or raises."""

    limits: Limits
    """The numbers that bound the chat, such as how long ids are remembered."""

    def deliver(self, room: str, entries: Sequence[AnyEntry]) -> None:
        """Entries of a room in their final order, each with its place."""
        ...

    def refuse(self, room: str, entries: Sequence[AnyKept], reason: Refused) -> None:
        """These entries were not taken and never will be: their authors are told."""
        ...

    def wake(self) -> None:
        """Have `Broker.collect` called soon, if nothing is under way that ends with that."""
        ...

    def ring(self) -> None:
        """The same, from another thread: the one call here that is allowed there."""
        ...

    def trimmed(self, room: str, first: int) -> None:
        """Messages with a number below `first` are not kept any more."""
        ...


Outcome: TypeAlias = Callable[[Refused | None], None]
Opened: TypeAlias = Callable[[Past | Refused], None]
Read: TypeAlias = Callable[[Sequence[AnyKept] | Refused], None]
Recalled: TypeAlias = Callable[[Mapping[str, Sent] | Refused], None]


class Broker(Protocol):
    """What rooms need from whoever keeps their order.

    Everything but `run` is synchronous, and none of it waits: what takes time is told later, by calling back on the
    event loop that `run` was started on. A callback may be called before the call that asked for it returns.
    """

    keeps: bool
    """Whether it keeps what a room's own log forgets, so that `read` and `sent` find something."""

    def attach(self, rooms: Rooms) -> None:
        """Learn whom to speak to; called once, before anything else."""
        ...

    async def run(self, started: Callable[[], None]) -> None:
        """Do what takes time, until cancelled; call `started` once everything else here can be called.

        Raises where it cannot begin. What is still on its way when it is cancelled is either delivered or refused.
        """
        ...

    def collect(self) -> None:
        """Tell what has come back meanwhile, and begin with what was submitted, if that is better done together.

        Called on the event loop, at the beginning and the end of every round, and soon after `Rooms.ring`.
        """
        ...

    def open(self, room: str, name: str, epoch: str, messages: int, max_bytes: int, then: Opened) -> None:
        """A room begins to live: tell what there is of it.

        `name` and `epoch` are for a room that nothing is known of. The tail is what `read` would give: as many entries
        as hold `messages` messages, and about `max_bytes`.
        """
        ...

    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        """Take entries of an open room; each is delivered or refused once, those delivered in the order submitted.

        Only a `KeptEntry` can be refused.
        """
        ...

    def read(self, room: str, before: int, messages: int, max_bytes: int, then: Read) -> None:
        """The newest entries of an open room with a number below `before`, the oldest of them first, none missing.

        As many as hold `messages` messages, and about `max_bytes`. The first and the last run may hold more than that:
        who asked takes what it needs of them.
        """
        ...

    def sent(self, session: str, then: Recalled) -> None:
        """What a session has said under which ids, within `Limits.remember` seconds."""
        ...

    def close(self, room: str) -> None:
        """A room is no longer looked at; it has nothing submitted that is not delivered or refused."""
        ...


class Sequencer:
    """Counts one log: dense seqs, and times that grow from message to message."""

    __slots__ = ("_clock", "epoch", "seq", "ts")

    def __init__(self, epoch: str, clock: Clock, seq: int = 0, ts: int = 0) -> None:
        self.epoch: str = epoch
        self.seq: int = seq
        """The newest message's."""
        self.ts: int = ts
        self._clock = clock

    def stamp(self, entry: AnyEntry) -> None:
        """Give an entry its place."""
        if not isinstance(entry, Said | Deletion):
            entry.seq = self.seq
            return
        entry.seq = self.seq + 1
        entry.ts = max(self._clock.micros(), self.ts + 1)
        self.seq += entry.count
        self.ts = entry.ts + entry.count - 1


class InProcessBroker:
    """The order of one process, kept in memory: what is submitted is delivered before `submit` returns."""

    keeps = False

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._logs: dict[str, Sequencer] = {}
        self._rooms: Rooms | None = None

    def attach(self, rooms: Rooms) -> None:
        """Learn whom to speak to."""
        self._rooms = rooms

    async def run(self, started: Callable[[], None]) -> None:
        """Nothing here takes time."""
        started()

    def collect(self) -> None:
        """Everything was told at once."""

    def open(self, room: str, name: str, epoch: str, messages: int, max_bytes: int, then: Opened) -> None:
        """Begin to count a room."""
        self._logs[room] = Sequencer(epoch, self._clock)
        then(Past(epoch, name))

    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        """Stamp and deliver."""
        assert self._rooms is not None, "this broker is not attached to a chat"
        log = self._logs[room]
        for entry in entries:
            log.stamp(entry)
        self._rooms.deliver(room, entries)

    def read(self, room: str, before: int, messages: int, max_bytes: int, then: Read) -> None:
        """There is nothing but what the room holds itself."""
        then(())

    def sent(self, session: str, then: Recalled) -> None:
        """Sessions live as long as the process."""
        then({})

    def close(self, room: str) -> None:
        """Forget a room."""
        del self._logs[room]


def unavailable(detail: str) -> Refused:
    """The reason where a broker cannot take or give anything now."""
    return Refused(RefusalCode.UNAVAILABLE, detail)
