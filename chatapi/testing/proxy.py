"""A TCP proxy for tests, which delays, splits, cuts and resets the streams that pass through it; see `testing`."""

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
    """What becomes of one connection."""

    cut_after: int | None = None
    """Bytes in one direction after which both sides are closed, in mid-frame if need be; None for never."""
    direction: Literal["up", "down"] = "down"
    """Whether the bytes to the server (`up`) or to the client are counted."""
    reset: bool = False
    """Whether a cut is a reset, which destroys what is in flight, and not an end of stream."""
    split: int = 0
    """Bytes that are passed on at once; 0 for all that there are."""
    delay: float = 0
    """Seconds that each piece waits."""


class Proxy:
    """Stands between clients and a server; `open` it, and let the clients connect to its `address`.

    The first connection gets the first plan, and so on; those for which there is none pass untouched.
    """

    def __init__(self, target: Address, plans: Iterable[Plan] = ()) -> None:
        self.target: Address = target
        """Where the server is; may be changed, when it was started anew elsewhere."""
        self.address: Address = Address("127.0.0.1", 0)
        """Where the proxy listens."""
        self.connections: int = 0
        """How many connections there were."""
        self.cuts: int = 0
        """How many of them it has cut."""
        self._plans = iter(plans)
        self._open: set[anyio.CancelScope] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Proxy]:
        """Listen until the block ends; whatever is open then is cut."""
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
                        with suppress(OSError, ValueError):  # closed already, where it broke by itself
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
            except (*_BROKEN, RuntimeError):  # which is how uvloop says it
                scope.cancel()
        except _BROKEN:
            scope.cancel()
