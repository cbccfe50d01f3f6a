"""A whole chat in a test: time that is turned by hand, wires without sockets, a broker that answers when told."""

from __future__ import annotations

import contextlib
import json
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, TypeVar

import anyio
import anyio.abc

from ..brokers.memory import InProcessBroker
from ..core.broker import Broker, Past, Presence, RoomCount, Sent, SharedRooms
from ..core.broker_events import BrokerEventHandler
from ..core.entries import AnyEntry, AnyKept, Deletion, Departed, NameChanged, Said
from ..core.hooks import Hooks
from ..core.hub import Hub
from ..core.names import naming_of
from ..core.origins import LOOPBACK
from ..errors import Refused
from ..events import Whisper
from ..limits import TICK, Limits
from ..pending import Pending
from ..server.connection import Connection
from ..server.door import Door
from ..server.listener import open_connection
from ..server.telnet_door import TelnetDoor
from ..server.text_door import TextDoor
from ..server.transport import Pollable
from ..tasks import task_group

_T = TypeVar("_T")


class VirtualClock:
    """A clock that stands still until it is turned."""

    def __init__(self, start: float = 1_000.0) -> None:
        self._now = start

    def monotonic(self) -> float:
        """Seconds."""
        return self._now

    def micros(self) -> int:
        """Microseconds since 1970; the virtual clock began in 2026."""
        return 1_767_225_600_000_000 + int(self._now * 1_000_000)

    def turn(self, seconds: float) -> None:
        """Let so much time pass."""
        self._now += seconds


class MemoryWire:
    """A connection without a socket: what the server sends is kept, up to `capacity` bytes that nobody takes."""

    def __init__(self, capacity: int = 1 << 30) -> None:
        self.capacity = capacity
        """Bytes that the other side's buffer takes before the server's sends are refused; change it at will."""
        self.sent: bytearray = bytearray()
        """What the server sent and nobody took yet."""
        self.reading: bool = False
        self.writing: bool = False
        self.ended: bool = False
        """Whether the server ended its stream."""
        self.given_up: bool = False
        """Whether what the other side had not taken was destroyed."""
        self.closed: bool = False
        """Whether the server closed the connection."""
        self.discarded: int = 0
        """Bytes that were still to be read when the server closed: a real socket would have sent a reset."""
        self._incoming: deque[bytes] = deque()
        self._broken = self._unreported = False
        self._owner: Pollable | None = None

    # The server's side

    def attach(self, owner: Pollable) -> None:
        """Learn who is to be told."""
        self._owner = owner

    def send(self, data: bytes | memoryview) -> int:
        """Take what there is room for."""
        self._report()
        if self.ended or self._broken or self.closed:
            raise BrokenPipeError("the stream was ended")
        room = max(0, self.capacity - len(self.sent))
        if not room:
            raise BlockingIOError("there is no room now")
        self.sent += data[:room]
        return min(room, len(data))

    def receive(self, most: int) -> bytes | None:
        """What has come in; after a reset too, as Linux has it: then the error, once, and the end."""
        if self._incoming:
            data = self._incoming.popleft()
            if len(data) > most or not data:  # the end stays the end
                self._incoming.appendleft(data[most:])
            return data[:most]
        self._report()
        return b"" if self._broken else None

    def _report(self) -> None:
        if self._unreported:
            self._unreported = False
            raise ConnectionResetError("the connection is broken")

    def watch(self, read: bool, write: bool) -> None:
        """Note what is wanted."""
        self.reading, self.writing = read, write

    def shut(self) -> None:
        """End the stream."""
        self.ended = True

    def give_up(self) -> None:
        """Destroy what was not taken."""
        self.given_up = True

    def close(self) -> None:
        """Close."""
        self.discarded = sum(map(len, self._incoming))
        self.closed = self.ended = True
        self.reading = self.writing = False
        self._owner = None

    # The other side's

    def feed(self, data: bytes) -> None:
        """Let bytes arrive; empty ones are the end of the stream."""
        self._incoming.append(data)

    def reset(self) -> None:
        """Break the connection; what has arrived can still be received."""
        self._broken = self._unreported = True

    def take(self, most: int | None = None) -> bytes:
        """Read what the server sent, at most `most` bytes of it."""
        taken = bytes(self.sent[:most])
        del self.sent[:most]
        return taken

    def poll(self, now: float) -> bool:
        """Tell the owner what can be done, as the poller would; returns whether there was anything."""
        owner = self._owner
        assert owner is not None
        readable = self.reading and (bool(self._incoming) or self._broken)
        writable = self.writing and (len(self.sent) < self.capacity or self._broken)
        if readable:
            owner.readable(now)
        if writable and self.writing:
            owner.writable(now)
        return readable or writable


class Peer:
    """One connected client of a `ChatKit`, as seen from the client's side."""

    def __init__(self, kit: ChatKit, door: Door, address: str, capacity: int) -> None:
        self.wire: MemoryWire = MemoryWire(capacity)
        connection = open_connection(kit.hub, door, self.wire, address)
        assert connection is not None, "the server has too many connections to tell this one so"
        self.connection: Connection = connection
        self._kit = kit

    def send(self, data: str | bytes) -> None:
        """Send bytes; they are read when the kit settles."""
        self.wire.feed(data.encode() if isinstance(data, str) else data)

    def end(self) -> None:
        """End this side's stream."""
        self.wire.feed(b"")

    def received(self) -> str:
        """Everything that came since the last call, after the kit has settled."""
        self._kit.settle()
        data = bytearray()
        while taken := self.wire.take():
            data += taken
            self._kit.settle()
        return data.decode()

    def lines(self) -> list[str]:
        """`received`, as lines."""
        return self.received().splitlines()


class LateBroker(InProcessBroker):
    """A broker that answers when the test says, as one that waits for a disk or a network would, only worse.

    With ``opens_late`` rooms are opened late too; `failing` makes it refuse, as with a disk that is full.
    """

    def __init__(self, clock: VirtualClock, *, opens_late: bool = False) -> None:
        super().__init__(clock)
        self._opens_late = opens_late
        self._pending: deque[tuple[str, AnyEntry] | Callable[[], None]] = deque()
        self.failing: Refused | None = None
        """Why nothing is taken, while that is so."""

    @property
    def pending(self) -> int:
        """What was asked and not yet answered."""
        return len(self._pending)

    def open(self, room: str, name: str, epoch: str, messages: int, max_bytes: int) -> Pending[Past]:
        """Begin to count a room."""
        opened = super().open(room, name, epoch, messages, max_bytes)
        if not self._opens_late:
            return opened
        later: Pending[Past] = Pending()
        self._pending.append(lambda: later.resolve(opened.result()))
        return later

    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        """Keep them for later."""
        self._pending.extend((room, entry) for entry in entries)

    def release(self, most: int | None = None) -> int:
        """Answer the oldest `most` of what was asked, or all of it; returns how many there were."""
        released = 0
        while self._pending and (most is None or released < most):
            asked = self._pending.popleft()
            if isinstance(asked, tuple):
                room, entry = asked
                self._settle(room, entry)
            else:
                asked()
            released += 1
        return released

    def _settle(self, room: str, entry: AnyEntry) -> None:
        assert self._rooms is not None
        if self.failing is not None and isinstance(entry, Said | Deletion):
            self._rooms.refuse(room, (entry,), self.failing)
        else:
            super().submit(room, (entry,))


class Bell:
    """What a broker rings, from any thread, to be asked on the event loop what has come back."""

    def __init__(self) -> None:
        self._bell, self._button = socket.socketpair()
        self._bell.setblocking(False)
        self._button.setblocking(False)

    def ring(self) -> None:
        """Have the broker asked; nothing where it was closed."""
        with contextlib.suppress(OSError):
            self._button.send(b"\0")

    async def answer(self, collect: Callable[[], None]) -> None:
        """Ask, whenever it rings, until cancelled."""
        while True:
            await anyio.wait_readable(self._bell)
            with contextlib.suppress(BlockingIOError):
                self._bell.recv(4096)
            collect()

    def close(self) -> None:
        """Ring no more."""
        self._bell.close()
        self._button.close()


@asynccontextmanager
async def run(broker: Broker, bell: Bell) -> AsyncIterator[None]:
    """Run a broker for as long as the block lasts."""

    async def begin(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        await broker.run(task_status.started)

    try:
        async with task_group() as tasks:
            await tasks.start(begin)
            tasks.start_soon(bell.answer, broker.collect)
            yield
            tasks.cancel_scope.cancel()
    finally:
        bell.close()


class _Watched:
    """A broker between a chat and the real one, which knows what was asked of it and not yet answered."""

    def __init__(self, broker: Broker, answered: Callable[[], None]) -> None:
        self._broker, self._answered = broker, answered
        self._rooms: SharedRooms | None = None
        self.limits: Limits
        self.keeps: bool = broker.keeps
        self.presence = None if broker.presence is None else _WatchedPresence(broker.presence, self)
        self.run = broker.run
        self.close = broker.close
        self.collect = broker.collect
        self.on_its_way = 0

    @property
    def secret(self) -> bytes:
        return self._broker.secret

    def attach(self, rooms: SharedRooms) -> None:
        self._rooms, self.limits = rooms, rooms.limits
        self.elsewhere, self.renamed, self.lost = rooms.elsewhere, rooms.renamed, rooms.lost
        self.whispered, self.cut, self.away = rooms.whispered, rooms.cut, rooms.away
        self._broker.attach(self)

    def open(self, room: str, name: str, epoch: str, messages: int, max_bytes: int) -> Pending[Past]:
        return self.asked(self._broker.open(room, name, epoch, messages, max_bytes))

    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        self.on_its_way += len(entries)
        self._broker.submit(room, entries)

    def read(self, room: str, before: int, messages: int, max_bytes: int) -> Pending[Sequence[AnyKept]]:
        return self.asked(self._broker.read(room, before, messages, max_bytes))

    def sent(self, room: str, session: str) -> Pending[Mapping[str, Sent]]:
        return self.asked(self._broker.sent(room, session))

    def deliver(self, room: str, entries: Sequence[AnyEntry], ours: bool = True) -> None:
        assert self._rooms is not None
        if ours:
            self.on_its_way -= len(entries)
        elif self.presence is not None:
            self.presence.told(room, entries)
        self._rooms.deliver(room, entries, ours)
        self._answered()

    def refuse(self, room: str, entries: Sequence[AnyKept], reason: Refused) -> None:
        assert self._rooms is not None
        self.on_its_way -= len(entries)
        self._rooms.refuse(room, entries, reason)
        self._answered()

    def known(self, room: str, said: Said, seq: int, ts: int) -> None:
        assert self._rooms is not None
        self.on_its_way -= 1
        self._rooms.known(room, said, seq, ts)
        self._answered()

    def wake(self) -> None:
        assert self._rooms is not None
        self._rooms.wake()

    def ring(self) -> None:
        assert self._rooms is not None
        self._rooms.ring()

    def trimmed(self, room: str, first: int) -> None:
        assert self._rooms is not None
        self._rooms.trimmed(room, first)

    def asked(self, answer: Pending[_T]) -> Pending[_T]:
        watched: Pending[_T] = Pending()
        self.on_its_way += 1

        def answered(answer: Pending[_T]) -> None:
            self.on_its_way -= 1
            if answer.error is None:
                watched.resolve(answer.result())
            else:
                watched.fail(answer.error)
            self._answered()

        answer.then(answered)
        return watched


class _WatchedPresence:
    """The same for who is there; somebody who leaves is on its way until that is told, unless nobody is to be told."""

    def __init__(self, presence: Presence, watched: _Watched) -> None:
        self._presence, self._watched = presence, watched
        self._leaving: set[tuple[str, str]] = set()

    def claim(self, room: str, name: str, session: str, quiet: bool) -> Pending[None]:
        return self._watched.asked(self._presence.claim(room, name, session, quiet))

    def release(self, room: str, key: str, reason: str, quiet: bool) -> None:
        if not quiet:
            self._watched.on_its_way += 1
            self._leaving.add((room, key))
        self._presence.release(room, key, reason, quiet)

    def rename(self, room: str, key: str, entry: NameChanged, session: str) -> Pending[None]:
        return self._watched.asked(self._presence.rename(room, key, entry, session))

    def whisper(self, room: str, key: str, whisper: Whisper, about: str) -> Pending[None]:
        return self._watched.asked(self._presence.whisper(room, key, whisper, about))

    def rooms(self) -> Pending[Sequence[RoomCount]]:
        return self._watched.asked(self._presence.rooms())

    def told(self, room: str, entries: Sequence[AnyEntry]) -> None:
        for entry in entries:
            key = naming_of(room).key(entry.name)
            if isinstance(entry, Departed) and (room, key) in self._leaving:
                self._leaving.remove((room, key))
                self._watched.on_its_way -= 1


class ChatKit:
    """A whole chat in a test: no event loop, no sockets, no waiting.

    A broker that takes its time, as one with a disk does, needs an event loop: `running` and `settled` are for that.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        broker: Callable[[VirtualClock], Broker] = InProcessBroker,
        hooks: Hooks | None = None,
        machat: bool = False,
        echo: bool | None = None,
        commands: bool | None = None,
        lobby: str = "lounge",
        clock: VirtualClock | None = None,
        keys: str = "key",
        trusted: Iterable[str] = LOOPBACK,
    ) -> None:
        self.clock: VirtualClock = clock or VirtualClock()
        self.broker: Broker = broker(self.clock)
        self._watched = _Watched(self.broker, self._answer)
        self._answered = anyio.Event()
        numbers = count(1)
        self.hub: Hub = Hub(
            limits,
            self.clock,
            self._watched,
            lambda: f"{keys}{next(numbers)}",
            hooks or Hooks(),
            machat=machat,
            echo=echo,
            commands=commands,
            trusted=trusted,
        )
        self._watched.attach(BrokerEventHandler(self.hub))
        self.asked: list[tuple[Awaitable[object], Pending[object]]] = []
        """The awaitables that async hooks returned, each with its result, which the test sets."""
        self.hub.spawn = self._spawn
        self.hub.wake = lambda: None
        self.peers: list[Peer] = []
        self._text, self._telnet = TextDoor(), TelnetDoor(lobby, self.hub.naming)
        self._hosts = count(1)

    def connect(self, *, telnet: bool = False, address: str = "", capacity: int = 1 << 30) -> Peer:
        """A new connection; `capacity` is what its buffer takes before the server's sends are refused."""
        address = address or f"10.0.{next(self._hosts)}.1:1000"
        peer = Peer(self, self._telnet if telnet else self._text, address, capacity)
        self.peers.append(peer)
        return peer

    def member(
        self, name: str, room: str = "dev", *, capacity: int = 1 << 30, address: str = "", **fields: Any
    ) -> Peer:
        """A connection that has sent its handshake, with any further fields, and was let in or refused."""
        peer = self.connect(capacity=capacity, address=address)
        peer.send(json.dumps({"name": name, "room": room, **fields}) + "\n")
        self.settle()
        return peer

    def settle(self) -> None:
        """Let everybody read, write and hear until nothing is left to be done at this point in time."""
        while True:
            progress = [peer for peer in self.peers if not peer.wire.closed and peer.wire.poll(self.clock.monotonic())]
            busy = self.hub.busy  # who then can go on may read on
            while self.hub.busy:
                for _ in self.hub.settle():
                    pass
            if not progress and not busy:
                return

    def wait(self, seconds: float) -> None:
        """Let time pass, with everything that falls due in it."""
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            self.clock.turn(min(TICK, end - self.clock.monotonic()))
            self.settle()
            self.hub.timers.run(self.clock.monotonic())
            self.settle()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ChatKit]:
        """Run a broker that takes its time, for as long as the block lasts; what is on its way then is cut off."""
        bell = Bell()
        self.hub.wake = self.hub.ring = bell.ring
        async with run(self.broker, bell):
            yield self

    async def settled(self) -> None:
        """`settle`, and wait until the broker has answered all that it was asked, and what follows from that."""
        while True:
            self.settle()
            if not self._watched.on_its_way:
                return
            self._answered = anyio.Event()
            await self._answered.wait()

    def _spawn(self, awaitable: Awaitable[object], /, *, shield: bool = False) -> Pending[object]:
        result: Pending[object] = Pending()
        self.asked.append((awaitable, result))
        return result

    def _answer(self) -> None:
        self._answered.set()
