"""The client library against our own server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from scripted import dev, kinds, take
from serving import served

from chatapi import ChatAPI
from chatapi.addresses import Address
from chatapi.client.events import (
    Gap,
    Lost,
    SendRefused,
    Welcome,
)
from chatapi.errors import NotDelivered, Refused, TextTooLong
from chatapi.events import History, Joined, Left, Message, Renamed, Whisper

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def frail(address: Address, patience: list[int]) -> AsyncIterator[str]:
    """A line to the server that breaks after so many bytes from it, connection after connection; then it holds."""

    async def handle(near: anyio.abc.SocketStream) -> None:
        left = patience.pop(0) if patience else 1 << 60
        async with near, await anyio.connect_tcp(*address) as far, anyio.create_task_group() as tasks:

            async def up() -> None:
                with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                    async for data in near:
                        await far.send(data)
                    await far.send_eof()

            tasks.start_soon(up)
            with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
                while left > 0:
                    data = (await far.receive())[:left]
                    left -= len(data)
                    await near.send(data)
            tasks.cancel_scope.cancel()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_address)[1]}"
        tasks.cancel_scope.cancel()


async def test_two_talk_on_our_own_server() -> None:
    async with served(ChatAPI()) as doors, dev(doors["text"]) as mina, dev(doors["text"], name="Zoe") as zoe:
        hello = await mina.send("hello\nthere")
        assert (hello.seq, hello.name) == (1, "Mina")
        assert await zoe.members() == ["Mina", "Zoe"]
        await zoe.whisper("mina", "psst")
        await zoe.rename("Zo")
        assert await mina.rooms() == {"dev": 2}
        assert await mina.ping() >= 0
        with pytest.raises(NotDelivered):
            await mina.whisper("Zoe", "psst")
        with pytest.raises(Refused, match="name_taken"):
            await mina.rename("zo")
        with pytest.raises(TextTooLong):
            await mina.send("x" * 10_000)
        with pytest.raises(SendRefused, match="empty_text"):
            await mina.send("\x1b")
        moved = await zoe.join("ops")
        assert (moved.room, moved.members) == ("ops", ("Zo",))
        assert await mina.history() == History((hello,), more=False)
        assert kinds(await take(mina, 5)) == [Welcome, Joined, Whisper, Renamed, Left]
        assert kinds(await take(zoe, 4)) == [Welcome, Message, Renamed, Welcome]


async def test_history_and_echo_on_our_own_server() -> None:
    async with served(ChatAPI()) as doors, dev(doors["text"], name="Zoe") as zoe:
        said = [await zoe.send(str(n)) for n in range(5)]
        async with dev(doors["text"], history=3, echo=True) as mina:
            said.append(await mina.send("mine"))
            assert (await take(mina, 5))[1:] == said[2:]
            page = await mina.history(limit=2)
            assert (page.messages, page.more) == (tuple(said[4:]), True)
            page = await mina.history(before=page.messages[0].seq)
            assert (page.messages, page.more) == (tuple(said[:4]), False)


async def test_a_name_that_is_taken_on_our_own_server() -> None:
    async with served(ChatAPI()) as doors, dev(doors["text"]):
        with pytest.raises(Refused, match="name_taken"):
            async with dev(doors["text"], name="MINA"):
                raise AssertionError


async def test_nothing_is_lost_or_doubled_on_a_line_that_keeps_breaking() -> None:
    async with served(ChatAPI()) as doors, frail(doors["text"], [900 + 37 * n for n in range(25)]) as line:
        told: list[Message] = []
        async with dev(doors["text"], name="Zoe") as zoe, dev(line) as mina:

            async def mina_says(part: int) -> None:
                told.extend([await mina.send(f"m{part}.{n}") for n in range(15)])

            async with anyio.create_task_group() as tasks:
                for part in range(4):
                    tasks.start_soon(mina_says, part)
                told += [await zoe.send(f"z{n}") for n in range(60)]
            last = await zoe.send("last")
            heard: dict[str, list[Message]] = {"Mina": [], "Zoe": []}
            for room in (mina, zoe):
                while not heard[room.name] or last not in (heard[room.name][-1], *told[:1]):
                    event = await anext(room)
                    assert not isinstance(event, Gap)
                    if isinstance(event, Message):
                        heard[room.name].append(event)
                    if room is zoe and len(heard["Zoe"]) == 60:
                        break
        everything = sorted([*told, last], key=lambda m: m.seq)
        assert [m.seq for m in everything] == list(range(1, 122))
        assert heard["Mina"] == [m for m in everything if m.name == "Zoe"]
        assert heard["Zoe"] == [m for m in everything if m.name == "Mina"]
        for part in range(4):
            own = [m.text for m in everything if m.text.startswith(f"m{part}.")]
            assert own == [f"m{part}.{n}" for n in range(15)]


async def test_a_server_that_goes_and_comes_back_leaves_a_gap() -> None:
    async with served(ChatAPI()) as first, served(ChatAPI()) as second:
        lines = [first["text"], second["text"]]

        async def handle(near: anyio.abc.SocketStream) -> None:
            async with near, await anyio.connect_tcp(*lines.pop(0)) as far, anyio.create_task_group() as tasks:

                async def pass_on(source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream) -> None:
                    async for data in source:
                        await sink.send(data)
                    tasks.cancel_scope.cancel()

                tasks.start_soon(pass_on, near, far)
                tasks.start_soon(pass_on, far, near)
                if lines:
                    await gone.wait()
                    tasks.cancel_scope.cancel()

        gone = anyio.Event()
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, handle)
            port = listener.extra(anyio.abc.SocketAttribute.local_address)[1]
            async with dev(f"127.0.0.1:{port}") as room:
                assert (await room.send("one")).seq == 1
                gone.set()
                assert kinds(await take(room, 3)) == [Welcome, Lost, Gap]
                assert (await room.send("two")).seq == 1
            tasks.cancel_scope.cancel()
