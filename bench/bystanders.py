"""Two who talk in a room of their own while others storm the server: `python -m bench.bystanders PORT`.

One says a line every 100 ms, the other waits for it. When standard input ends, it writes `Delays` as JSON.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from . import machine

Delays = list[tuple[float, float]]
"""When each line was due, by the monotonic clock, and how many seconds later it had arrived."""
_EVERY: Final = 0.1
_ROOM: Final = "bystanders"


@contextmanager
def bystanders(port: int) -> Iterator[Delays]:
    """Have them talk, in a process of their own; how late their lines were is known at the end."""
    delays: Delays = []
    with subprocess.Popen(
        [sys.executable, "-m", "bench.bystanders", str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=machine.ROOT,
        start_new_session=True,  # Ctrl-C is for us alone
    ) as process:
        try:
            yield delays
            delays += map(tuple, json.loads(process.communicate()[0]))
        finally:
            process.kill()


def main(port: str) -> None:
    """Talk until nobody is interested any more."""
    talker, listener = (_come_in(int(port), name) for name in ("mina", "zoe"))
    answers = listener.makefile("rb")
    delays = []
    due = time.monotonic() + _EVERY
    while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        talker.sendall(b"%r\n" % due)
        while answers.readline() != b"mina:%r\n" % due:
            pass
        delays.append((due, time.monotonic() - due))
        due += _EVERY
    sys.stdout.write(json.dumps(delays))


def _come_in(port: int, name: str) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(json.dumps({"name": name, "room": _ROOM}).encode() + b"\n@%s ready\n" % name.encode())
    connection.recv(64)  # its own whisper: it is in
    return connection


if __name__ == "__main__":
    main(sys.argv[1])
