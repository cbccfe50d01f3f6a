"""A TCP proxy for tests, which delays, splits, cuts and resets the streams that pass through it."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Literal

import anyio
import anyio.abc

from ..addresses import Address

_READ: Final = 64 * 1024
_BROKEN: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, OSError)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the proxy does with one connection."""

    cut_after: int | None = None
    """Bytes in one direction after which both sides are closed, possibly within a frame; None for never."""
    direction: Literal["up", "down"] = "down"
    """Whether `cut_after` counts the bytes to the server (`up`) or to the client (`down`)."""
    reset: bool = False
    """Whether a cut is a reset, which destroys bytes in flight, instead of an end of stream."""
    split: int = 0
    """Bytes that are passed on at once; 0 for all that were received."""
    delay: float = 0
    """Seconds by which each piece is delayed."""


class Proxy:
    """A proxy between clients and a server. A test calls `open`, and the clients connect to `address`.

    The first connection gets the first plan, and so on; connections without a plan pass unchanged.
    """

    def __init__(self, target: Address, plans: Iterable[Plan] = ()) -> None:
        self.target: Address = target
        """The address of the server; a test may change it after starting another server."""
        self.address: Address = Address("127.0.0.1", 0)
        """The address on which the proxy listens."""
        self.connections: int = 0
        """The number of connections so far."""
        self.cuts: int = 0
        """The number of connections that it has cut."""
        self._plans = iter(plans)
        self._open: set[anyio.CancelScope] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Proxy]:
        """Listen until the block ends; then cut all open connections."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self.address = Address("127.0.0.1", int(listener.extra(anyio.abc.SocketAttribute.local_port)))
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, self._serve)
            yield self
            tasks.cancel_scope.cancel()

    def cut_all(self) -> None:
        """Cut every connection now."""
        for scope in list(self._open):
            self.cuts += 1
            scope.cancel()

    async def _serve(self, client: anyio.abc.SocketStream) -> None:
        plan = next(self._plans, Plan())
        self.connections += 1
        async with client:
            try:
                server = await anyio.connect_tcp(self.target.host, self.target.port)
            except OSError:
                return
            async with server:
                sockets = [stream.extra(anyio.abc.SocketAttribute.raw_socket) for stream in (client, server)]
                with anyio.CancelScope() as scope:
                    self._open.add(scope)
                    try:
                        async with anyio.create_task_group() as tasks:
                            tasks.start_soon(self._pass_on, client, server, plan, "up", scope)
                            tasks.start_soon(self._pass_on, server, client, plan, "down", scope)
                    finally:
                        self._open.discard(scope)
                if scope.cancel_called and plan.reset:
                    for raw in sockets:
                        with suppress(OSError, ValueError):  # closed already, if it broke by itself
                            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def _pass_on(
        self,
        source: anyio.abc.SocketStream,
        target: anyio.abc.SocketStream,
        plan: Plan,
        direction: str,
        scope: anyio.CancelScope,
    ) -> None:
        left = plan.cut_after if direction == plan.direction else None
        try:
            while True:
                data = await source.receive(_READ)
                while data:
                    piece = data[: plan.split or len(data)] if left is None else data[: min(plan.split or left, left)]
                    data = data[len(piece) :]
                    if plan.delay:
                        await anyio.sleep(plan.delay)
                    await target.send(piece)
                    if left is not None:
                        left -= len(piece)
                        if left <= 0:
                            self.cuts += 1
                            scope.cancel()
                            return
        except anyio.EndOfStream:
            try:
                await target.send_eof()
            except (*_BROKEN, RuntimeError):  # `RuntimeError` on uvloop
                scope.cancel()
        except _BROKEN:
            scope.cancel()
