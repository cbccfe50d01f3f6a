"""A whole chat in a test, without sockets and without waiting."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import anyio

from ..brokers.memory import InProcessBroker
from ..core.broker import Broker
from ..core.broker_events import BrokerEventHandler
from ..core.hooks import Hooks
from ..core.hub import Hub
from ..core.origins import LOOPBACK
from ..limits import TICK, Limits
from ..pending import Pending
from ..protocol.connection_protocol import Door
from ..protocol.handshake import HandshakeProtocol
from ..protocol.text.telnet import telnet_door
from ..server.connection import Connection
from ..server.listener import open_connection
from ._counting_broker import CountingBroker
from .broker_runner import WakeUp, run_broker
from .clock import VirtualClock
from .transport import MemoryTransport


class Peer:
    """A client that is connected to a `ChatKit`."""

    def __init__(self, kit: ChatKit, door: Door, address: str, capacity: int) -> None:
        self.transport: MemoryTransport = MemoryTransport(capacity)
        connection = open_connection(kit.hub, door, self.transport, address)
        assert connection is not None, "the server has too many connections to answer this one"
        self.connection: Connection = connection
        self._kit = kit

    def send(self, data: str | bytes) -> None:
        """Send bytes; the server reads them when the kit settles."""
        self.transport.feed(data.encode() if isinstance(data, str) else data)

    def end(self) -> None:
        """End the client's stream."""
        self.transport.feed(b"")

    def received(self) -> str:
        """Settle the kit, and return everything received since the last call."""
        self._kit.settle()
        data = bytearray()
        while taken := self.transport.take():
            data += taken
            self._kit.settle()
        return data.decode()

    def lines(self) -> list[str]:
        """Return `received`, as lines."""
        return self.received().splitlines()


class ChatKit:
    """A whole chat in a test: no event loop, no sockets, no waiting.

    A broker with threads or tasks, such as one with a disk, needs an event loop: see `running` and `settled`.
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
        self._counting = CountingBroker(self.broker, self._set_answered)
        self._answered = anyio.Event()
        numbers = count(1)
        self.hub: Hub = Hub(
            limits,
            self.clock,
            self._counting,
            lambda: f"{keys}{next(numbers)}",
            hooks or Hooks(),
            machat=machat,
            echo=echo,
            commands=commands,
            trusted=trusted,
        )
        self._counting.attach(BrokerEventHandler(self.hub))
        self.asked: list[tuple[Awaitable[object], Pending[object]]] = []
        """The awaitables that async hooks returned, each with its result, which the test sets."""
        self.hub.spawn = self._spawn
        self.hub.wake = lambda: None
        self.peers: list[Peer] = []
        self._text: Door = HandshakeProtocol
        self._telnet = telnet_door(lobby, self.hub.naming)
        self._hosts = count(1)

    def connect(
        self, *, telnet: bool = False, door: Door | None = None, address: str = "", capacity: int = 1 << 30
    ) -> Peer:
        """Open a connection, by default at the door for programs.

        `capacity` is the number of bytes that its buffer accepts before it refuses what the server sends.
        """
        address = address or f"10.0.{next(self._hosts)}.1:1000"
        peer = Peer(self, door or (self._telnet if telnet else self._text), address, capacity)
        self.peers.append(peer)
        return peer

    def member(
        self, name: str, room: str = "dev", *, capacity: int = 1 << 30, address: str = "", **fields: Any
    ) -> Peer:
        """Open a connection, send a handshake with any further fields, and settle: it is let in or refused."""
        peer = self.connect(capacity=capacity, address=address)
        peer.send(json.dumps({"name": name, "room": room, **fields}) + "\n")
        self.settle()
        return peer

    def settle(self) -> None:
        """Read and write on all connections, and deliver, until nothing is left to do at this time."""
        while True:
            progress = [
                peer for peer in self.peers if not peer.transport.closed and peer.transport.poll(self.clock.monotonic())
            ]
            busy = self.hub.busy  # then some connections may be able to read again
            while self.hub.busy:
                for _ in self.hub.settle():
                    pass
            if not progress and not busy:
                return

    def wait(self, seconds: float) -> None:
        """Advance the clock, and run all deadlines in that time."""
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            self.clock.turn(min(TICK, end - self.clock.monotonic()))
            self.settle()
            self.hub.timers.run(self.clock.monotonic())
            self.settle()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ChatKit]:
        """Run the broker during the block, and cancel it at the end of the block."""
        wake_up = WakeUp()
        self.hub.wake = self.hub.ring = wake_up.set
        async with run_broker(self.broker, wake_up):
            yield self

    async def settled(self) -> None:
        """Settle, and wait until the broker has answered everything, including what follows from its answers."""
        while True:
            self.settle()
            if not self._counting.unanswered:
                return
            self._answered = anyio.Event()
            await self._answered.wait()

    def _spawn(self, awaitable: Awaitable[object], /, *, shield: bool = False) -> Pending[object]:
        result: Pending[object] = Pending()
        self.asked.append((awaitable, result))
        return result

    def _set_answered(self) -> None:
        self._answered.set()
