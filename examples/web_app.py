"""A Starlette application with a chat server: people chat over TCP; web requests read the rooms and send messages.

pip install '.[examples]'
python examples/web_app.py [--port PORT] [HOST:PORT]       or: uvicorn --app-dir examples web_app:app
curl localhost:8000/rooms
curl localhost:8000/rooms/lounge
curl localhost:8000/rooms/lounge -d 'deployed'
curl 'localhost:8000/rooms/lounge?name=ci' -d 'tested'

Ctrl-C drains the chat; then the program ends with code 0.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from functools import partial

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

import gotcpchat
from chatapi import AddressError, ChatAPI, ChatError

ADDRESS = os.environ.get("CHAT_ADDRESS", "localhost:8989")
chat = ChatAPI()
speaking = anyio.Lock()  # a name can be in a room only once, so concurrent requests take turns


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Serve the chat for as long as the application runs, then drain it."""
    async with anyio.create_task_group() as tasks:
        await tasks.start(chat.serve, ADDRESS)
        yield
        await chat.drain()


async def rooms(request: Request) -> Response:
    """Return the number of members of each room."""
    return JSONResponse({room.name: len(room) for room in chat.rooms})


async def room(request: Request) -> Response:
    """Return a room's last messages; with POST, send the body to the room."""
    place = request.path_params["name"]
    if request.method == "POST":
        text = (await request.body()).decode(errors="replace")
        try:
            async with speaking, chat.join(request.query_params.get("name", "web"), place, reads=False) as bot:
                await bot.post(text)
        except ChatError as error:  # the name is taken, the text is too long, or the server drains
            return PlainTextResponse(f"{error}\n", 409)
        return Response(status_code=204)
    found = chat.room(place)
    messages = [] if found is None else found.history(20)
    return JSONResponse([{"seq": m.seq, "name": m.name, "text": m.text} for m in messages])


routes = [Route("/rooms", rooms), Route("/rooms/{name}", room, methods=["GET", "POST"])]
app = Starlette(routes=routes, lifespan=lifespan)


async def web(port: int) -> None:
    """Serve the application beside the chat, and end it in good order when the chat has stopped."""
    config = uvicorn.Config(app, port=port, lifespan="off", log_level="warning", timeout_graceful_shutdown=5)
    server, sockets = uvicorn.Server(config), [socket.create_server(("127.0.0.1", port))]
    server.capture_signals = nullcontext  # `run_tcp` handles the signals
    with anyio.CancelScope(shield=True):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, sockets)
            await chat.stopped()
            server.should_exit = True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A web application that hosts a chat.")
    parser.add_argument("--port", type=int, default=8000, help="where the web is served (default 8000)")
    parser.add_argument("address", nargs="?", default=ADDRESS, metavar="HOST:PORT", help="where the chat listens")
    given = parser.parse_args()
    if not 0 <= given.port <= 65_535:
        parser.error(f"--port {given.port}: a port is 0 to 65535")
    try:
        in_good_order = gotcpchat.run_tcp(given.address, chat, started=print, beside=partial(web, given.port))
    except AddressError as error:
        parser.error(str(error))
    except OSError as error:
        sys.exit(f"{parser.prog}: cannot listen: {error}")
    sys.exit(0 if in_good_order else 1)  # 1 after a second Ctrl-C
