"""The broker in memory: it keeps nothing besides the rooms' own logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..clock import Clock
from ..core.broker import Past, Rooms, Sent
from ..core.entries import AnyEntry, AnyKept, Deletion, Said
from ..pending import Pending


class Sequencer:
    """Numbers one log: `seq` without holes, and `ts` that grows with each message."""

    __slots__ = ("_clock", "epoch", "seq", "ts")

    def __init__(self, epoch: str, clock: Clock, seq: int = 0, ts: int = 0) -> None:
        self.epoch: str = epoch
        self.seq: int = seq
        """The number of the newest message."""
        self.ts: int = ts
        self._clock = clock

    def stamp(self, entry: AnyEntry) -> None:
        """Set the position of an entry."""
        if not isinstance(entry, Said | Deletion):
            entry.seq = self.seq
            return
        entry.seq = self.seq + 1
        entry.ts = max(self._clock.micros(), self.ts + 1)
        self.seq += entry.count
        self.ts = entry.ts + entry.count - 1


class InProcessBroker:
    """Gives messages their order in memory. Everything is delivered before `submit` returns."""

    keeps = False
    secret: bytes = b""
    presence = None

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._logs: dict[str, Sequencer] = {}
        self._rooms: Rooms | None = None

    def attach(self, rooms: Rooms) -> None:
        self._rooms = rooms

    async def run(self, started: Callable[[], None]) -> None:
        started()

    def collect(self) -> None:
        pass  # `submit` has delivered everything

    def open(self, room: str, name: str, epoch: str, messages: int, max_bytes: int) -> Pending[Past]:
        self._logs[room] = Sequencer(epoch, self._clock)
        return Pending.resolved(Past(epoch, name))

    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        assert self._rooms is not None, "this broker is not attached to a chat"
        log = self._logs[room]
        for entry in entries:
            log.stamp(entry)
        self._rooms.deliver(room, entries)

    def read(self, room: str, before: int, messages: int, max_bytes: int) -> Pending[Sequence[AnyKept]]:
        return Pending.resolved(())

    def sent(self, room: str, session: str) -> Pending[Mapping[str, Sent]]:
        return Pending.resolved({})

    def close(self, room: str) -> None:
        del self._logs[room]
