"""A chat with rooms on python-socketio, as its documentation shows one: `socketio_server.py PORT`."""

from __future__ import annotations

import importlib
import sys
from typing import Any

# Imported by name, so that types can be checked on a machine without them.
socketio: Any = importlib.import_module("socketio")
uvicorn: Any = importlib.import_module("uvicorn")

server = socketio.AsyncServer(async_mode="asgi", ping_interval=3600, ping_timeout=3600)
rooms: dict[str, str] = {}


@server.event  # type: ignore[untyped-decorator]
async def join(sid: str, room: str) -> None:
    """Join a room."""
    rooms[sid] = room
    await server.enter_room(sid, room)
    await server.emit("joined", to=sid)


@server.event  # type: ignore[untyped-decorator]
async def say(sid: str, text: str) -> None:
    """Send a line to the room."""
    await server.emit("said", text, room=rooms[sid], skip_sid=sid)


@server.event  # type: ignore[untyped-decorator]
def disconnect(sid: str) -> None:
    """Leave the room."""
    rooms.pop(sid, None)


if __name__ == "__main__":
    uvicorn.run(socketio.ASGIApp(server), host="127.0.0.1", port=int(sys.argv[1]), log_level="error", ws="websockets")
