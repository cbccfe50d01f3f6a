"""A chat with rooms on python-socketio, as its documentation shows one: `socketio_server.py PORT [REDIS_URL]`."""

from __future__ import annotations

import importlib
import sys
from typing import Any

# Loaded by name: what is not installed everywhere need not be there for the types to be checked.
socketio: Any = importlib.import_module("socketio")
uvicorn: Any = importlib.import_module("uvicorn")

port, *redis = sys.argv[1:]
server = socketio.AsyncServer(
    async_mode="asgi",
    client_manager=socketio.AsyncRedisManager(*redis) if redis else None,
    ping_interval=3600,
    ping_timeout=3600,
)
rooms: dict[str, str] = {}


@server.event  # type: ignore[untyped-decorator]
async def join(sid: str, room: str) -> None:
    """Come into a room."""
    rooms[sid] = room
    await server.enter_room(sid, room)
    await server.emit("joined", to=sid)


@server.event  # type: ignore[untyped-decorator]
async def say(sid: str, text: str) -> None:
    """Say something to the room."""
    await server.emit("said", text, room=rooms[sid], skip_sid=sid)


@server.event  # type: ignore[untyped-decorator]
def disconnect(sid: str) -> None:
    """Leave."""
    rooms.pop(sid, None)


if __name__ == "__main__":
    uvicorn.run(socketio.ASGIApp(server), host="127.0.0.1", port=int(port), log_level="error", ws="websockets")
