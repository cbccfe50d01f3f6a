"""The broker: the one seam between rooms and the world. It gives every message its place and brings it back.

A room hands over what its members did (`submit`) and gets it back, in the same order, each message with its `seq`
and `ts` (`deliver`): at once from the in-process broker, later from one that has to wait for a disk or a network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from .clock import Clock
from .entries import AnyEntry, Said

Deliver: TypeAlias = Callable[[str, Sequence[AnyEntry]], None]
"""Called with a room's key and entries in their final order. It never waits and never raises."""


class Broker(Protocol):
    """What rooms need from whoever keeps their order. All of it is synchronous and none of it waits."""

    def attach(self, deliver: Deliver) -> None:
        """Learn where to deliver to; called once, before anything else."""
        ...

    def open(self, room: str, epoch: str) -> None:
        """A room begins to live; `epoch` names this life of its log."""
        ...

    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        """Take entries of an open room; each is delivered once, in the order submitted."""
        ...

    def close(self, room: str) -> None:
        """A room ends; it has nothing submitted that is not delivered."""
        ...


class Sequencer:
    """Counts one log: dense seqs from 1, and times that grow from message to message."""

    __slots__ = ("_clock", "epoch", "seq", "ts")

    def __init__(self, epoch: str, clock: Clock) -> None:
        self.epoch: str = epoch
        self.seq: int = 0
        """The newest message's."""
        self.ts: int = 0
        self._clock = clock

    def stamp(self, entry: AnyEntry) -> None:
        """Give an entry its place."""
        if not isinstance(entry, Said):
            entry.seq = self.seq
            return
        entry.seq = self.seq + 1
        entry.ts = max(self._clock.micros(), self.ts + 1)
        self.seq += entry.count
        self.ts = entry.ts + entry.count - 1


class InProcessBroker:
    """The order of one process, kept in memory: what is submitted is delivered before `submit` returns."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rooms: dict[str, Sequencer] = {}
        self._deliver: Deliver = _nobody

    def attach(self, deliver: Deliver) -> None:
        """Learn where to deliver to."""
        self._deliver = deliver

    def open(self, room: str, epoch: str) -> None:
        """Begin to count a room."""
        self._rooms[room] = Sequencer(epoch, self._clock)

    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        """Stamp and deliver."""
        sequencer = self._rooms[room]
        for entry in entries:
            sequencer.stamp(entry)
        self._deliver(room, entries)

    def close(self, room: str) -> None:
        """Forget a room."""
        del self._rooms[room]


def _nobody(room: str, entries: Sequence[AnyEntry]) -> None:
    raise RuntimeError("this broker is not attached to a chat")
