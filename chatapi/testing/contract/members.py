"""Members of a chat over a broker, as the contract suite uses them, and the chat that they are in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, TypeAlias

import anyio

from ...limits import Limits
from ..clock import VirtualClock
from ..kit import ChatKit, Peer
from . import recorder
from .subject import Subject, same

Frame: TypeAlias = dict[str, Any]
Enough: TypeAlias = Callable[[list[Frame]], bool]

KEPT = ("message", "ack", "deleted")
"""The types of frames with a number of their own."""
_lives = count(1)


class Member:
    """A member that speaks the JSON protocol, from the client's side."""

    def __init__(self, chat: ChatKit, name: str, room: str = "dev", **fields: Any) -> None:
        self._chat = chat
        self.name = name
        self.peer: Peer = chat.member(name, room, protocol="json", **fields)
        self.welcome: Frame = {}
        """The last welcome that it has read."""

    def send(self, type: str, **fields: Any) -> None:  # noqa: A002
        """Send a frame."""
        self.peer.send(json.dumps({"type": type, **fields}) + "\n")

    async def hears(self) -> list[Frame]:
        """Return the frames since the last call, after everything that follows from earlier frames has happened."""
        await settled(self._chat)
        frames: list[Frame] = [json.loads(line) for line in self.peer.lines()]
        for frame in frames:
            if frame["type"] == "welcome":
                self.welcome = frame
        return frames

    async def hears_until(self, enough: Enough) -> list[Frame]:
        """Return the frames since the last call, when `enough` is true of them: other chats deliver with a delay."""
        frames = await self.hears()
        with anyio.move_on_after(recorder.PATIENCE):
            while not enough(frames):
                await anyio.sleep(0.001)
                frames += await self.hears()
            return frames
        raise AssertionError(f"{self.name} has got no more than {frames[-3:]} after {recorder.PATIENCE:g} seconds")

    async def kept(self) -> list[Frame]:
        """Return those frames of `hears` that have a number of their own."""
        return [frame for frame in await self.hears() if frame["type"] in KEPT]

    async def error(self) -> Frame:
        """Return the one error since the last call."""
        errors = [frame for frame in await self.hears() if frame["type"] == "error"]
        same(len(errors), 1, f"the number of errors among {errors}")
        return errors[0]

    def position(self, seq: int, ts: int, **other: Any) -> Frame:
        """Return the `resume` with which it goes on after a message."""
        return {"epoch": self.welcome["epoch"], "seq": seq, "ts": ts, "session": self.welcome["session"], **other}

    def cut(self) -> None:
        """Break its connection."""
        self.peer.transport.reset()
        self._chat.settle()


async def settled(*chats: ChatKit) -> None:
    """Wait until nothing is on its way through the broker."""
    with anyio.move_on_after(recorder.PATIENCE):
        for chat in chats:
            await chat.settled()
        return
    raise AssertionError(f"the broker has not answered after {recorder.PATIENCE:g} seconds")


async def all_hear(*members: Member) -> None:
    """Read and drop the frames of some members."""
    for member in members:
        await member.hears()


def others(one: list[Frame], other: list[Frame]) -> list[tuple[Any, ...]]:
    """Return the messages that one of two members saw, except those that either of them sent."""
    own = {frame["seq"] for frame in one + other if frame["type"] == "ack"}
    return [(f["seq"], f["ts"], f["name"], f["text"]) for f in one if f["seq"] not in own]


class ChatSubject(Subject):
    """A subject whose tests use whole chats over the broker."""

    @asynccontextmanager
    async def chat(self, clock: VirtualClock | None = None, **limits: Any) -> AsyncIterator[ChatKit]:
        """Run a chat, from its start to its end, without a limit of lines a second."""
        settings = Limits(**{"rate": 0, **limits})
        chat = ChatKit(settings, broker=self.broker, clock=clock, keys=f"life-{next(_lives)}-of-this-chat-")
        async with chat.running():
            yield chat
            if chat.broker.presence is not None:  # end like a stopped server: the next chat has other members
                for client in [client for room in chat.hub.rooms.values() for client in room.members]:
                    client.disconnect("draining")
                await settled(chat)
