"""Servers that follow a script, and clients of them, for the tests of the client library."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

from chatapi.client.connection import Connection, connect
from chatapi.client.events import News

LONG = 30.0  # seconds until a test that hangs fails; nothing waits for them


def line(kind: str, **fields: Any) -> bytes:
    return json.dumps({"type": kind, **fields}).encode() + b"\n"


def message(seq: int, text: str = "hi") -> bytes:
    return line("message", seq=seq, ts=seq * 10, name="Zoe", text=text)


class Peer:
    """The server's side of one connection."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self._stream = stream
        self._lines = BufferedByteReceiveStream(stream)
        self.handshake: dict[str, Any] = {}

    async def welcome(self, **fields: Any) -> dict[str, Any]:
        """Answer the handshake; returns it."""
        self.handshake = await self.hear()
        given: dict[str, Any] = {"name": self.handshake["name"], "room": self.handshake["room"], "session": "key"}
        given |= {"epoch": "e", "seq": 0, "ts": 0, "members": ["Mina"], "count": 1, "recovered": None, "limits": {}}
        await self.say(line("welcome", **given | fields))
        return self.handshake

    async def hear(self) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(await self._lines.receive_until(b"\n", 100_000))
        return frame

    async def say(self, *lines: bytes) -> None:
        await self._stream.send(b"".join(lines))

    async def until_end(self) -> list[dict[str, Any]]:
        """What is still said until the client ends its side."""
        frames = []
        try:
            while True:
                frames.append(await self.hear())
        except (anyio.IncompleteRead, anyio.BrokenResourceError):
            return frames

    async def goodbye(self) -> None:
        """Expect a goodbye and nothing else, and answer it."""
        assert await self.until_end() == [{"type": "bye"}]
        await self.say(line("bye", code="bye", detail="goodbye", reconnect=False, after=0))

    def reset(self) -> None:
        """Break the connection."""
        raw = self._stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[str]:
    """A server whose first connection follows the first script, and so on; each script is followed to its end."""
    left = list(scripts)
    done = anyio.Event()

    async def handle(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            script = left.pop(0)  # an IndexError is a connection too many
            await script(Peer(stream))
        if not left:
            done.set()

    with anyio.fail_after(LONG):
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, handle)
            address = listener.extra(anyio.abc.SocketAttribute.local_address)
            yield f"127.0.0.1:{address[1]}"
            if scripts:
                await done.wait()
            tasks.cancel_scope.cancel()


def dev(address: str, **arguments: Any) -> Any:
    return connect(address, **{"name": "Mina", "room": "dev", "backoff": 0.001, "backoff_cap": 0.01, **arguments})


async def take(room: Connection, count: int) -> list[News]:
    return [await anext(room) for _ in range(count)]


def kinds(news: list[News]) -> list[type]:
    return [type(n) for n in news]
