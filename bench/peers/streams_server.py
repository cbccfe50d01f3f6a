"""A simple broadcaster on asyncio's streams: `streams_server.py PORT`.

A member's first line is its room and its name; each other line goes to all others in the room, after the member's name.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict

rooms: defaultdict[str, set[asyncio.StreamWriter]] = defaultdict(set)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one member, from its first line until it leaves."""
    room, _, name = (await reader.readline()).decode().strip().partition(" ")
    members = rooms[room]
    members.add(writer)
    writer.write(b"ok\n")
    try:
        while line := await reader.readline():
            for member in list(members):
                if member is not writer:
                    member.write(f"{name}:".encode() + line)
                    await member.drain()
    except ConnectionError:
        pass  # this member's connection broke, or another member's
    finally:
        members.discard(writer)
        writer.close()


async def main() -> None:
    """Serve until the process ends."""
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
