"""The client library as a command with the interface of the conformance run: library_client.py HOST:PORT NAME ROOM."""

from __future__ import annotations

import os
import sys

import anyio

from chatapi import ChatError, Connection, Disconnected, Gap, Message, Refused, TextTooLong, connect


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


class Program:
    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.code = 0

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.print_messages, tasks.cancel_scope)
            async with anyio.create_task_group() as sending:
                rest = b""
                while rest is not None:
                    await anyio.wait_readable(0)
                    data = os.read(0, 65536)
                    *lines, rest = (rest + data).split(b"\n") if data else (rest, None)
                    for line in filter(None, lines):
                        sending.start_soon(self.send, line.decode())
                        await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

    async def send(self, text: str) -> None:
        try:
            await self.connection.send(text)
        except ChatError as error:
            self.code = 1
            say(f"{'text_too_long: ' if isinstance(error, TextTooLong) else ''}{error}")

    async def print_messages(self, everything: anyio.CancelScope) -> None:
        try:
            async for event in self.connection:
                if isinstance(event, Gap):
                    say(f"messages may be missing: {event.reason}")
                elif isinstance(event, Message) and event.text:
                    for line in event.text.split("\n"):
                        sys.stdout.buffer.write(f"{event.name}:{line}\n".encode())
                        sys.stdout.flush()
        except Disconnected as error:
            self.code = 1
            say(f"{error.reason.code}: {error}")
            everything.cancel()


async def main(address: str, name: str, room: str) -> int:
    try:
        async with connect(address, name=name, room=room, close_timeout=60) as connection:
            program = Program(connection)
            await program.run()
    except Refused as refused:
        say(f"{refused.code}: {refused}")
        return 1
    return program.code


if __name__ == "__main__":
    sys.exit(anyio.run(main, *sys.argv[1:]))
