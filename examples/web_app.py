"""A Starlette application with a chat server in it: people chat over TCP, and the web looks at the rooms and speaks.

pip install '.[examples]' && uvicorn --app-dir examples web_app:app
curl localhost:8000/rooms
curl localhost:8000/rooms/lounge
curl localhost:8000/rooms/lounge -d 'deployed'
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from chatapi import ChatAPI, ChatError

chat = ChatAPI()


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Serve the chat for as long as the application runs, then drain it."""
    async with anyio.create_task_group() as tasks:
        await tasks.start(chat.serve, os.environ.get("CHAT_ADDRESS", "localhost:8989"))
        yield
        await chat.drain()


async def rooms(request: Request) -> Response:
    """How many members each room has."""
    return JSONResponse({room.name: len(room) for room in chat.rooms})


async def room(request: Request) -> Response:
    """A room's last messages; or, with POST, say the body to it."""
    name = request.path_params["name"]
    if request.method == "POST":
        try:
            async with chat.join("web", name, reads=False) as bot:
                await bot.post((await request.body()).decode(errors="replace"))
        except ChatError as error:  # the name is taken, the text is too long, the server drains
            return PlainTextResponse(f"{error}\n", 409)
        return Response(status_code=204)
    found = chat.room(name)
    messages = [] if found is None else found.history(20)
    return JSONResponse([{"seq": m.seq, "name": m.name, "text": m.text} for m in messages])


app = Starlette(
    routes=[Route("/rooms", rooms), Route("/rooms/{name}", room, methods=["GET", "POST"])], lifespan=lifespan
)
