"""The chat in a program that has something else to do: `python -m bench.beside LOOP FILE PORT MEMBERS [alone]`.

Beside the chat a task sleeps for a millisecond, again and again, and notes how much later than asked it goes on: that
is how long the event loop was kept from it. When the process is told to end, it writes to FILE what it noted before
all MEMBERS were there, while they were, and while they left. With "alone" there is no chat, but a socket to connect to.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Final

import anyio

from chatapi import ChatAPI, Limits

from .embedded import on_loop

_ASLEEP: Final = 0.001
_QUIET: Final = 0.1
"""Seconds after the last one came in that count for nothing: by then the load has begun."""
_LEAVING: Final = 3.0
"""Seconds at most in which the members must have left."""


class Neighbour:
    """The task beside the chat, and what it noted: seconds that it was late, by what was going on."""

    def __init__(self, chat: ChatAPI, members: int) -> None:
        self._chat = chat
        self._members = members
        self._complete: float | None = None  # since when all are there
        self.late: dict[str, list[float]] = {"arriving": [], "there": [], "leaving": []}
        self.left = anyio.Event()

    async def run(self) -> None:
        """Sleep and note, until cancelled."""
        while True:
            due = time.monotonic() + _ASLEEP
            await anyio.sleep(_ASLEEP)
            self.note(time.monotonic(), due)

    def note(self, now: float, due: float) -> None:
        """It went on at `now`, and was to at `due`."""
        connections = self._chat.connections
        if connections == self._members:
            if self._complete is None:
                self._complete = now
            if now - self._complete < _QUIET:
                return
            period = "there"
        elif self._complete is not None and not self.left.is_set():
            period = "leaving"
            if not connections:
                self.left.set()
        elif self._complete is None and connections:
            period = "arriving"
        else:
            return
        self.late[period].append(round(max(0.0, now - due), 6))


async def main(arguments: list[str]) -> dict[str, list[float]]:
    """Run until told to end; returns what was noted."""
    port, members, *alone = arguments
    chat = ChatAPI(Limits(rate=0))
    neighbour = Neighbour(chat, int(members))
    with anyio.open_signal_receiver(signal.SIGTERM) as told:
        async with anyio.create_task_group() as tasks:
            with socket.create_server(("127.0.0.1", int(port))) if alone else nullcontext():
                if not alone:
                    await tasks.start(chat.serve, f"127.0.0.1:{port}")
                tasks.start_soon(neighbour.run)
                async for _ in told:
                    break
            if not alone:
                with anyio.move_on_after(_LEAVING):
                    await neighbour.left.wait()
            tasks.cancel_scope.cancel()
    return neighbour.late


if __name__ == "__main__":
    loop, file, *arguments = sys.argv[1:]
    late = anyio.run(main, arguments, **on_loop(loop))
    Path(file).write_text(json.dumps(late))
