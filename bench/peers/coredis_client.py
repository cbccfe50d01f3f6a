"""Redis without a chat, through the library that the broker uses: `coredis_client.py PORT hear|say SECONDS RATE`.

`hear` notes how old what it is told is; `say` publishes, then calls a script that gives back its argument. Each prints
its times, in nanoseconds.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from typing import Any, Final

import anyio
from coredis import BaseConnection, TCPConnection
from coredis.connection import TCPLocation

_BYTES: Final = 64
_CHANNEL: Final = "plain"
_END: Final = b"end"


async def _hear(connection: BaseConnection) -> list[int]:
    ages: list[int] = []
    connection.send_command(b"SUBSCRIBE", _CHANNEL)
    async for kind, *message in connection.push_messages:
        now = time.monotonic_ns()
        if kind == b"subscribe":
            sys.stdout.write("it hears\n")
            sys.stdout.flush()
        elif message[1] == _END:
            break
        else:
            ages.append(now - int(bytes(message[1]).rstrip(b"x")))  # type: ignore[arg-type]
    return ages


async def _say(connection: BaseConnection, seconds: float, rate: float) -> list[int]:
    trips: list[int] = []
    sha = await connection.create_request(b"SCRIPT LOAD", "return ARGV[1]")
    commands: list[tuple[bytes, list[Any]]] = [(b"PUBLISH", [_CHANNEL]), (b"EVALSHA", [sha, 0])]
    for command, where in commands:
        trips.clear()
        due = anyio.current_time()
        for _ in range(round(seconds * rate)):
            due += 1 / rate
            await anyio.sleep_until(due)
            began = time.monotonic_ns()
            await connection.create_request(command, *where, str(began).encode().ljust(_BYTES, b"x"))
            trips.append(time.monotonic_ns() - began)
    await connection.create_request(b"PUBLISH", _CHANNEL, _END)
    return trips


async def _main(*arguments: str) -> None:
    port, role, seconds, rate = arguments
    async with anyio.create_task_group() as tasks:
        connection = TCPConnection(TCPLocation("127.0.0.1", int(port)), stream_timeout=30)
        await tasks.start(connection.run)
        times = await (_hear(connection) if role == "hear" else _say(connection, float(seconds), float(rate)))
        sys.stdout.write(json.dumps(times))
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    options = {"use_uvloop": importlib.util.find_spec("uvloop") is not None}  # as the server's executable does
    anyio.run(_main, *sys.argv[1:], backend_options=options)
