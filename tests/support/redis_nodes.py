"""Servers over one Redis that are killed, stopped and cut off while clients talk, each behind proxies of its own."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.abc
import anyio.to_thread
from executables import Server
from redis_servers import RedisServer

from chatapi import Address, ChatAPI
from chatapi.brokers.redis.broker import RedisBroker
from chatapi.testing import Plan, Proxy

PROGRAM = Path(__file__).with_name("serve_over_redis.py")


class Line(Proxy):
    """The network between one node and Redis. Connections break by a reset, which destroys data in flight."""

    def __init__(self, target: Address) -> None:
        super().__init__(target, iter(lambda: Plan(reset=True), None))
        self._home = target
        self._flows = {"up": anyio.Event(), "down": anyio.Event()}
        self.delay = 0.0
        """Seconds that each piece waits."""
        for flow in self._flows.values():
            flow.set()

    @asynccontextmanager
    async def cut(self) -> AsyncIterator[None]:
        """Nothing is connected, and nothing can be."""
        with nowhere() as self.target:
            self.cut_all()
            yield
        self.target = self._home

    def move(self, target: Address) -> None:
        """Connect to this address from now on."""
        self.target = self._home = target
        self.cut_all()

    @asynccontextmanager
    async def frozen(self, *directions: str) -> AsyncIterator[None]:
        """Nothing comes through in these directions (`up` to Redis, `down` to the node), and no connection breaks."""
        for direction in directions:
            self._flows[direction] = anyio.Event()
        yield
        for direction in directions:
            self._flows[direction].set()

    @asynccontextmanager
    async def slow(self, delay: float) -> AsyncIterator[None]:
        """Everything takes so many seconds longer."""
        self.delay = delay
        yield
        self.delay = 0.0

    async def _pass_on(self, source: anyio.abc.SocketStream, target: anyio.abc.SocketStream, *how: Any) -> None:
        _, direction, _ = how
        held = _Held(source, self, lambda: self._flows[direction])
        await super()._pass_on(cast("anyio.abc.SocketStream", held), target, *how)


class _Held:
    """A stream from which nothing comes while the line does not let it through."""

    def __init__(self, source: anyio.abc.SocketStream, line: Line, flow: Callable[[], anyio.Event]) -> None:
        self._source, self._line, self._flow = source, line, flow

    async def receive(self, most: int) -> bytes:
        data = await self._source.receive(most)
        await anyio.sleep(self._line.delay)
        await self._flow().wait()
        return data


class nowhere:
    """An address without a listener, for the length of a `with` block."""

    def __enter__(self) -> Address:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        return Address(*self._socket.getsockname())

    def __exit__(self, *raised: object) -> None:
        self._socket.close()


class Node:
    """A server process, found by members at `door` whether it runs or not; it reaches Redis through `line`."""

    def __init__(self, redis: RedisServer, *argv: str | Path) -> None:
        self.line = Line(Address("127.0.0.1", redis.port))
        self.door = Proxy(Address("127.0.0.1", redis.port))
        self._argv: Sequence[str | Path] = argv
        self._server: Server | None = None

    @property
    def server(self) -> Server:
        """The process, which runs."""
        assert self._server is not None
        return self._server

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Have proxies for it, and see to it that nothing of it is left when the block ends."""
        async with self.line.open(), self.door.open():
            with nowhere() as self._closed:
                try:
                    yield
                except BaseException as error:
                    if self._server is not None:
                        error.add_note(f"a server said:\n{self._server.err[-2000:]}")
                        self._server.__exit__(*sys.exc_info())
                    raise

    async def start(self) -> None:
        """Have it serve."""
        redis = f"redis://127.0.0.1:{self.line.address.port}/0"
        start = lambda: Server("-redis", redis, argv=self._argv)  # noqa: E731
        self._server = await anyio.to_thread.run_sync(start)
        self.door.target = Address(*self._server.addresses[0])

    async def stop(self) -> None:
        """Have it end in good order, as an upgrade does."""
        server = self.server
        await anyio.to_thread.run_sync(server.stop)
        self._forget(server)

    async def kill(self) -> None:
        """Kill it, and see that it dies of nothing else."""
        server = self.server
        server.process.kill()
        assert await anyio.to_thread.run_sync(server.wait) == -signal.SIGKILL
        self._forget(server)

    def _forget(self, server: Server) -> None:
        self._server, self.door.target = None, self._closed
        with server:
            pass


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process stands still for the length of a block, by SIGSTOP."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def program(loop: str, lease: float, patience: float) -> list[str | Path]:
    """How a server is started, as `Server` takes it; its Redis follows with ``-redis``."""
    return [sys.executable, PROGRAM, loop, "-lease", str(lease), "-patience", str(patience)]


@asynccontextmanager
async def two_nodes(redis: RedisServer, *argv: str | Path) -> AsyncIterator[tuple[Node, Node]]:
    """Two servers that serve until the block ends, whatever was done to them in between."""
    one, other = Node(redis, *argv), Node(redis, *argv)
    async with one.open(), other.open():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.start)
            tasks.start_soon(other.start)
        yield one, other
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.stop)
            tasks.start_soon(other.stop)


@asynccontextmanager
async def served(*urls: str, **options: Any) -> AsyncIterator[list[Address]]:
    """Run servers in this program, each over one of these URLs; yield their addresses."""
    async with anyio.create_task_group() as tasks:
        chats = [ChatAPI(broker=RedisBroker(url, **options)) for url in urls]
        yield [(await tasks.start(chat.serve, "127.0.0.1:0"))[0].address for chat in chats]
        tasks.cancel_scope.cancel()
