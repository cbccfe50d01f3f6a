"""The client library, while a server cannot keep messages: over sockets."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
import scripted
from client_protocols import (
    AVAILABLE,
    UNAVAILABLE,
    line,
)
from scripted import Peer, dev, kinds, take
from serving import served

from chatapi import ChatAPI
from chatapi.brokers.sqlite.broker import SQLiteBroker
from chatapi.client.connection import Connection
from chatapi.client.events import Lost, Notice, Recovered, Welcome
from chatapi.errors import Refused
from chatapi.events import Message

pytestmark = pytest.mark.anyio


async def test_send_returns_once_the_message_is_kept_after_all() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        first = await peer.hear()
        for _ in range(3):
            await peer.say(line("error", code="unavailable", detail="not kept", id=first["id"]))
            assert await peer.hear() == first
        await peer.say(line("ack", id=first["id"], seq=1, ts=10))
        await peer.goodbye()

    async with scripted.scripted(server) as address, dev(address) as room:
        assert await room.send("a") == Message(1, 10, "Mina", "a")


async def test_nobody_waits_longer_than_until_the_server_is_available() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        frames = [await peer.hear() for _ in range(2)]
        for frame in frames:
            await peer.say(line("error", code="unavailable", detail="not kept", id=frame["id"]))
        await peer.say(UNAVAILABLE)
        ping = await peer.hear()
        assert ping["type"] == "ping"
        await peer.say(line("pong", ref=ping["ref"]), AVAILABLE)
        for seq, frame in enumerate(frames, 1):
            assert await peer.hear() == frame
            await peer.say(line("ack", id=frame["id"], seq=seq, ts=seq * 10))
        await peer.goodbye()

    async with (
        scripted.scripted(server) as address,
        dev(address, backoff=1e9, backoff_cap=1e9, ping_timeout=1e9) as room,
        anyio.create_task_group() as tasks,
    ):
        for text in "ab":
            tasks.start_soon(room.send, text)
        assert kinds(await take(room, 2)) == [Welcome, Notice]
        await room.ping()
        assert await anext(room) == Notice("available", "Redis is back")


async def test_leaving_does_not_wait_for_ever_for_what_cannot_be_kept() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        frame = await peer.hear()
        await peer.say(line("error", code="unavailable", detail="not kept", id=frame["id"]))
        assert await peer.until_end() == []

    async with scripted.scripted(server) as address, anyio.create_task_group() as tasks:
        failed: list[str] = []

        async def send(room: Connection) -> None:
            with pytest.raises(Refused) as refused:
                await room.send("a")
            failed.append(refused.value.code)

        async with dev(address, backoff=1e9, backoff_cap=1e9, close_timeout=0.05) as room:
            tasks.start_soon(send, room)
            assert kinds(await take(room, 2)) == [Welcome, Notice]
        await anyio.wait_all_tasks_blocked()
        assert failed == ["unavailable"]


async def test_a_send_that_is_cancelled_while_it_waits_is_not_said_again() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        first = await peer.hear()
        await peer.say(line("error", code="unavailable", detail="not kept", id=first["id"]))
        second = await peer.hear()
        assert second["text"] == "second"
        await peer.say(line("ack", id=second["id"], seq=1, ts=10))
        await peer.goodbye()

    async with (
        scripted.scripted(server) as address,
        dev(address, backoff=1e9, backoff_cap=1e9) as room,
        anyio.create_task_group() as tasks,
    ):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as inner:
                inner.start_soon(room.send, "first")
                assert kinds(await take(room, 2)) == [Welcome, Notice]
                scope.cancel()
        tasks.start_soon(room.send, "second")


async def test_what_one_server_cannot_keep_goes_to_the_next() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        frame = await peer.hear()
        await peer.say(line("error", code="unavailable", detail="not kept", id=frame["id"]))

    async def second(peer: Peer) -> None:
        await peer.welcome(recovered=True)
        frame = await peer.hear()
        await peer.say(line("ack", id=frame["id"], seq=1, ts=10))
        await peer.goodbye()

    async with scripted.scripted(first, second) as address, dev(address) as room:
        assert (await room.send("a")).seq == 1
        assert kinds(await take(room, 4)) == [Welcome, Notice, Lost, Recovered]


async def test_a_store_that_is_away_for_a_while_keeps_everything_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with (
        served(ChatAPI(broker=SQLiteBroker(path))) as doors,
        dev(doors["text"]) as mina,
        dev(doors["text"], name="Zoe") as zoe,
        anyio.create_task_group() as tasks,
    ):
        assert (await mina.send("before")).seq == 1
        path.rename(tmp_path / "elsewhere")
        kept: list[Message] = []

        async def say(part: int) -> None:
            kept.extend([await mina.send(f"{part}.{n}") for n in range(5)])

        async with anyio.create_task_group() as saying:
            for part in range(4):
                saying.start_soon(say, part)
            while not mina._protocol.requests.holds_back:
                await anyio.lowlevel.checkpoint()
            assert await zoe.members() == ["Mina", "Zoe"]
            (tmp_path / "elsewhere").rename(path)
        heard = (await take(zoe, 22))[1:]
        assert [event.seq for event in heard if isinstance(event, Message)] == list(range(1, 22))
        assert heard[1:] == sorted(kept, key=lambda message: message.seq)
        for part in range(4):
            assert [m.text for m in kept if m.text.startswith(f"{part}.")] == [f"{part}.{n}" for n in range(5)]
        tasks.cancel_scope.cancel()
