"""Joins two rooms of a chat server and passes messages between them, for as long as it runs.

python examples/bridge.py HOST:PORT ROOM ROOM

The library makes a broken connection again, and no message is passed twice. Ctrl-C ends the program with code 0.
"""

from __future__ import annotations

import argparse
import sys

import anyio

from chatapi import (
    AddressError,
    ChatError,
    Connection,
    Disconnected,
    Gap,
    Message,
    Refused,
    SendRefused,
    TextTooLong,
    connect,
)


async def carry(source: Connection, target: Connection) -> None:
    """Send each message of one room to the other; the events do not include the bridge's own messages."""
    async for event in source:
        if isinstance(event, Message) and event.text:  # a deleted message has no text
            try:
                await target.send(f"{event.name}: {event.text}")
            except (Refused, SendRefused, TextTooLong) as error:
                sys.stderr.write(f"not passed to {target.room!r}: {str(error)!r}\n")
        elif isinstance(event, Gap):
            sys.stderr.write(f"messages of {source.room!r} may be missing: {event.reason!r}\n")


async def main(address: str, one: str, other: str) -> str:
    """Stay in both rooms until the server ends a connection for good; return its reason."""
    reason = ""
    try:
        async with (
            connect(address, name="bridge", room=one) as first,
            connect(address, name="bridge", room=other) as second,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(carry, first, second)
            tasks.start_soon(carry, second, first)
    except* Disconnected as errors:
        reason = str(errors.exceptions[0])
    return reason


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Pass messages between two rooms of a chat server.")
    parser.add_argument("address", metavar="HOST:PORT", help="where the server listens")
    parser.add_argument("one", metavar="ROOM", help="a room")
    parser.add_argument("other", metavar="ROOM", help="another room")
    given = parser.parse_args()
    try:
        sys.exit(f"{parser.prog}: {anyio.run(main, given.address, given.one, given.other)}")
    except AddressError as error:
        parser.error(str(error))
    except ChatError as error:  # the server cannot be reached, or refuses the name or a room
        sys.exit(f"{parser.prog}: {error}")
    except KeyboardInterrupt:
        pass
