"""Runs a broker on an event loop, for tests without a server."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.abc

from ..core.broker import Broker
from ..tasks import task_group


class WakeUp:
    """A socket pair with which a broker, from any thread, asks for a call of `collect` on the event loop."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def set(self) -> None:
        """Have `collect` called; does nothing after `close`. Any thread may call this."""
        with contextlib.suppress(OSError):
            self._sender.send(b"\0")

    async def serve(self, collect: Callable[[], None]) -> None:
        """Call `collect` after each `set`, until cancelled."""
        while True:
            await anyio.wait_readable(self._receiver)
            with contextlib.suppress(BlockingIOError):
                self._receiver.recv(4096)
            collect()

    def close(self) -> None:
        """Close both sockets."""
        self._receiver.close()
        self._sender.close()


@asynccontextmanager
async def run_broker(broker: Broker, wake_up: WakeUp) -> AsyncIterator[None]:
    """Run a broker for the time of the block."""

    async def begin(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        await broker.run(task_status.started)

    try:
        async with task_group() as tasks:
            await tasks.start(begin)
            tasks.start_soon(wake_up.serve, broker.collect)
            yield
            tasks.cancel_scope.cancel()
    finally:
        wake_up.close()
