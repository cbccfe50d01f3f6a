"""Joins two rooms of a chat server and passes messages between them, for as long as it runs.

python examples/bridge.py HOST:PORT ROOM ROOM

A connection that breaks is made again by the library, and nothing is passed twice.
"""

from __future__ import annotations

import sys

import anyio

from chatapi import Connection, Gap, Message, Refused, SendRefused, TextTooLong, connect


async def carry(source: Connection, target: Connection) -> None:
    """Say in one room what is said in the other; one's own messages are not among the events."""
    async for event in source:
        if isinstance(event, Message) and event.text:  # one that was deleted has none
            try:
                await target.send(f"{event.name}: {event.text}")
            except (Refused, SendRefused, TextTooLong) as error:
                sys.stderr.write(f"not passed to {target.room}: {error}\n")
        elif isinstance(event, Gap):
            sys.stderr.write(f"messages of {source.room} may be missing: {event.reason}\n")


async def main(address: str, one: str, other: str) -> None:
    """Be in both rooms until a connection ends for good, which raises."""
    async with (
        connect(address, name="bridge", room=one) as first,
        connect(address, name="bridge", room=other) as second,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(carry, first, second)
        tasks.start_soon(carry, second, first)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: bridge.py HOST:PORT ROOM ROOM")
    try:
        anyio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
    except KeyboardInterrupt:
        pass
