"""The executable with thousands of members: nothing is lost, nobody is kept waiting for long, and memory is freed."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from executables import DEADLINE, Server, handshake

pytestmark = pytest.mark.long
_AT_ONCE = 500
"""Connections that are being opened at the same time."""


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[int]:
    """The number of files that this process may open: as many as the system allows."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Member:
    """A JSON member that remembers how to resume, and the numbers of the messages that it got."""

    def __init__(self, server: Server, name: str, room: str) -> None:
        self._server = server
        self.name = name
        self.room = room
        self.welcome: dict[str, Any] = {}
        self.seqs: list[int] = []
        self._ts = 0

    async def join(self, **fields: Any) -> None:
        """Connect, join the room, and wait for the welcome."""
        self._reader, self._writer = await asyncio.open_connection(*self._server.addresses[0])
        self._writer.write(handshake(self.name, self.room, protocol="json", **fields) + b"\n")
        self.welcome = await self._next("welcome")

    async def resume(self) -> None:
        """Connect again, and ask for all that followed the last message."""
        key = {name: self.welcome[name] for name in ("session", "epoch")}
        last = self.seqs[-1] if self.seqs else self.welcome["seq"]
        await self.join(resume={**key, "seq": last, "ts": self._ts or self.welcome["ts"]})

    async def hear_up_to(self, seq: int) -> None:
        """Read messages until the one with this number has come."""
        while not self.seqs or self.seqs[-1] < seq:
            await self._next("message")

    def say(self, text: str) -> None:
        """Send a message."""
        self.send(type="message", text=text)

    def send(self, **frame: Any) -> None:
        """Send a frame."""
        self._writer.write(json.dumps(frame).encode() + b"\n")

    async def answered(self) -> None:
        """Wait until the server has done all that was sent to it."""
        self.send(type="ping")
        await self._next("pong")

    async def _next(self, kind: str) -> dict[str, Any]:
        while True:
            line = await self._reader.readline()
            assert line, f"{self.name} was disconnected while it waited for a {kind}"
            frame: dict[str, Any] = json.loads(line)
            assert frame["type"] != "error", frame
            if frame["type"] == "message":
                self.seqs.append(frame["seq"])
                self._ts = frame["ts"]
            if frame["type"] == kind:
                return frame

    async def bye(self) -> None:
        """Leave as the protocol asks for."""
        self.send(type="bye")
        while await self._reader.read(1 << 16):
            pass
        self._writer.close()

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()

    def reset(self) -> None:
        """Break the connection."""
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


async def together(jobs: Iterable[Awaitable[None]]) -> None:
    """Do all of them, some hundreds at the same time."""
    free = asyncio.Semaphore(_AT_ONCE)

    async def do(job: Awaitable[None]) -> None:
        async with free:
            await job

    async with asyncio.timeout(4 * DEADLINE):
        await asyncio.gather(*map(do, jobs))


def serve(clients: Callable[[Server], Coroutine[Any, Any, None]], *flags: str) -> None:
    """Run clients against a server of their own, which must end in good order."""
    with Server("-rate", "0", "-log-level", "error", *flags) as server:
        asyncio.run(clients(server))


def test_five_thousand_members_that_are_dropped_at_once_resume_and_lose_nothing(descriptors: int) -> None:
    rooms, each = 50, min(100, (descriptors - 200) // 50)

    async def clients(server: Server) -> None:
        talkers = [Member(server, "talker", f"room{i}") for i in range(rooms)]
        members = [Member(server, f"member{i}", f"room{i % rooms}") for i in range(rooms * each)]
        await together(member.join() for member in [*talkers, *members])

        def say() -> None:
            for talker in talkers:
                talker.say("hello")

        say()
        await together(member.hear_up_to(1) for member in members)
        for i, member in enumerate(members):
            member.reset() if i % 2 else member.close()
        say()
        await together(talker.answered() for talker in talkers)
        await together(member.resume() for member in members)
        say()
        await together(member.hear_up_to(3) for member in members)
        assert {member.welcome["recovered"] for member in members} == {True}
        assert all(member.seqs == [1, 2, 3] for member in members)
        for member in [*talkers, *members]:
            member.close()

    serve(clients, "-reserve", "600")


def test_members_that_stop_reading_are_disconnected_and_the_others_lose_nothing() -> None:
    lines = 10_000

    async def clients(server: Server) -> None:
        talker = Member(server, "talker", "dev")
        members = [Member(server, f"member{i}", "dev") for i in range(20)]
        stalled = [server.member(f"slow{i}", "dev", receive_buffer=4096, source="127.0.0.2") for i in range(20)]
        await together(member.join() for member in [talker, *members])
        for _ in range(lines):
            talker.say("x" * 500)
        await together([talker.answered(), *(member.hear_up_to(lines) for member in members)])
        assert all(member.seqs == list(range(1, lines + 1)) for member in members)
        for peer in stalled:
            assert peer.rest().count(b"talker:") < lines, "it was not disconnected"
        for member in [talker, *members]:
            member.close()

    with Server("-rate", "0", "-grace", "10", "-room-wait", "120", "-log-bytes", "1000000") as server:
        asyncio.run(clients(server))


def resident(server: Server) -> int:
    """The bytes of memory that the server's process has."""
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_as_members_come_talk_and_leave() -> None:
    rooms, each, warm, cycles, most = 20, 8, 15, 45, 1 << 20

    async def visit(server: Server, number: int, room: str) -> None:
        member = Member(server, f"member{number}", room)
        await member.join(history=20)
        for _ in range(10):
            member.say("it is rather nice here")
        await member.answered()
        match number % 4:
            case 0:
                member.send(type="rename", to=f"{member.name}b")
            case 1:
                member.send(type="join", room=f"{room}b")
            case 2:
                member.send(type="whisper", to=member.name, text="psst")
            case _:
                member.reset()
                await member.resume()
        await member.answered()
        match number % 3:
            case 0:
                await member.bye()
            case 1:
                member.close()
            case _:
                member.reset()

    async def clients(server: Server) -> None:
        sizes = []
        for cycle in range(cycles):
            await together(visit(server, i, f"room{cycle}.{i % rooms}") for i in range(rooms * each))
            sizes.append(resident(server))
        early, late = max(sizes[warm : warm + 5]), min(sizes[-5:])
        assert late - early < most, sizes

    serve(clients, "-keep", "0.2", "-reserve", "0.2", "-remember", "0.2")
