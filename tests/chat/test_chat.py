"""The library inside a program: serving, bots and looking around."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import anyio
import anyio.abc
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from loops import EVERY_LOOP
from serving import served

import gotcpchat
from chatapi import (
    ChatAPI,
    Client,
    Disconnected,
    Joined,
    Left,
    Limits,
    Message,
    NotDelivered,
    RefusalCode,
    Refused,
    Renamed,
    TextTooLong,
    Whisper,
)
from chatapi.addresses import Address
from chatapi.server.poller import Poller

pytestmark = pytest.mark.anyio


class Line:
    """A client of the text protocol."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self.stream = stream
        self._lines = BufferedByteReceiveStream(stream)

    async def send(self, text: str) -> None:
        await self.stream.send(text.encode())

    async def next(self) -> str:
        return (await self._lines.receive_until(b"\n", 1 << 20)).decode()

    async def at_end(self) -> bool:
        try:
            await self._lines.receive()
        except anyio.EndOfStream:
            return True
        return False


_open: list[anyio.abc.SocketStream] = []


@pytest.fixture(autouse=True)
async def close_connections() -> AsyncIterator[None]:
    yield
    while _open:
        await _open.pop().aclose()


async def connect(address: Address, name: str, room: str = "dev", **fields: Any) -> Line:
    line = Line(await anyio.connect_tcp(*address))
    _open.append(line.stream)
    await line.send(json.dumps({"name": name, "room": room, **fields}) + "\n/list\n")
    answer = await line.next()
    assert answer.startswith(f"* in {room}"), answer
    return line


@pytest.mark.parametrize("anyio_backend", EVERY_LOOP)
async def test_members_of_both_protocols_hear_each_other_and_the_end_on_every_event_loop() -> None:
    chat = ChatAPI(Limits(linger=0.1))
    async with served(chat) as doors:
        mina = await connect(doors["text"], "Mina")
        zoe = Line(await anyio.connect_tcp(*doors["text"]))
        _open.append(zoe.stream)
        await zoe.send('{"name": "Zoe", "room": "dev", "protocol": "json"}\n')
        assert json.loads(await zoe.next())["members"] == ["Mina", "Zoe"]
        await mina.send("hello\n")
        heard = json.loads(await zoe.next())
        assert (heard["type"], heard["name"], heard["text"]) == ("message", "Mina", "hello")
        await zoe.send('{"type": "message", "text": "hello back"}\n')
        assert await mina.next() == "Zoe:hello back"
        await chat.drain()
        assert (await mina.next()).startswith("* draining: ")
        assert json.loads(await zoe.next())["type"] == "ack"
        assert json.loads(await zoe.next())["code"] == "draining"


async def test_a_bot_and_a_client_talk() -> None:
    chat = ChatAPI()
    async with served(chat) as doors, chat.join("bot", "dev") as bot:
        line = await connect(doors["text"], "Mina")
        await line.send("ping\n")
        events = [await anext(bot), await anext(bot)]
        assert events[0] == Joined(0, "Mina")
        message = events[1]
        assert isinstance(message, Message)
        assert (message.seq, message.name, message.text) == (1, "Mina", "ping")
        await bot.post("pong")
        assert await line.next() == "bot:pong"
        await line.stream.aclose()
        assert await anext(bot) == Left(2, "Mina", "bye")


async def test_bots_talk_without_a_server() -> None:
    chat = ChatAPI()
    async with chat.join("a", "dev") as a, chat.join("b", "dev") as b:
        await a.post("one\ntwo\r\n\x1b[31mthree")
        first = await anext(b)
        assert isinstance(first, Message)
        assert first.text == "one\ntwo\n[31mthree"
        await b.whisper("A", "psst")
        await b.rename("c")
        assert await anext(a) == Joined(0, "b")
        events = [await anext(a), await anext(a)]
        assert isinstance(next(event for event in events if isinstance(event, Whisper)), Whisper)
        assert Renamed(1, "b", "c") in events
        assert await anext(b) == Renamed(1, "b", "c")
        assert [client.name for client in chat.rooms[0].members] == ["a", "c"]
        with pytest.raises(NotDelivered, match="nobody here is called 'zoe'"):
            await a.whisper("zoe", "hi")
        with pytest.raises(Refused) as refused:
            await b.rename("A")
        assert refused.value.code is RefusalCode.NAME_TAKEN
        with pytest.raises(TextTooLong, match="8,193 bytes"):
            await a.post("x" * 8193)
        await a.post("x" * 8192)


async def test_texts_of_several_lines_reach_text_members_line_by_line() -> None:
    chat = ChatAPI()
    async with served(chat) as doors, chat.join("bot", "dev") as bot:
        line = await connect(doors["text"], "Mina")
        await bot.post("one\ntwo")
        assert [await line.next(), await line.next()] == ["bot:one", "bot:two"]


async def test_history_comes_first_and_nothing_is_missing_after_it() -> None:
    chat = ChatAPI()
    async with chat.join("a", "dev") as a:
        for i in range(5):
            await a.post(f"m{i}")
        async with chat.join("b", "dev", history=3) as b:
            await a.post("m5")
            got = [await anext(b) for _ in range(4)]
    assert [event.text for event in got if isinstance(event, Message)] == ["m2", "m3", "m4", "m5"]


async def test_iteration_ends_with_leaving_and_raises_when_disconnected() -> None:
    chat = ChatAPI()
    async with chat.join("a", "dev") as a, chat.join("b", "dev") as b:
        await a.post("last")
        b.leave()
        assert [event.text async for event in b if isinstance(event, Message)] == ["last"]
        a.client.disconnect("kicked", "enough")
        with pytest.raises(Disconnected, match="kicked: enough") as error:
            [event async for event in a]
        assert error.value.reason.code == "kicked"
        with pytest.raises(Disconnected):
            await a.post("hello?")
        assert chat.disconnects == {"bye": 1, "kicked": 1}
        with pytest.raises(KeyError):
            a.client.disconnect("nonsense")


async def test_cancelling_the_wait_for_an_event_loses_none() -> None:
    chat = ChatAPI()
    async with chat.join("a", "dev") as a, chat.join("b", "dev") as b:
        assert await anext(a) == Joined(0, "b")
        with anyio.move_on_after(0):
            await anext(b)
        await a.post("one")
        event = await anext(b)
        assert isinstance(event, Message)
        assert event.text == "one"


async def test_a_member_of_the_text_door_can_be_looked_at_told_and_removed() -> None:
    chat = ChatAPI()
    async with served(chat) as doors:
        line = await connect(doors["text"], "Mina")
        room = chat.room("DEV")
        assert room is not None
        mina = room.member("mina")
        assert isinstance(mina, Client)
        assert mina.address == "127.0.0.1"
        mina.disconnect("kicked", "be nice")
        assert await line.next() == "* kicked: be nice"
        assert await line.at_end()
        assert chat.room("dev") is None


async def test_draining_delivers_what_was_read_and_tells_everybody() -> None:
    chat = ChatAPI()
    async with anyio.create_task_group() as tasks:
        [(_, address), *_] = await tasks.start(chat.serve, "127.0.0.1:0")
        a, b = await connect(address, "a"), await connect(address, "b")
        silent = await anyio.connect_tcp(*address)
        await a.send("before\n")
        assert await b.next() == "a:before"
        with anyio.fail_after(60):
            tasks.start_soon(chat.drain)
            for line in (a, b):
                assert (await line.next()).startswith("* draining: ")
                assert await line.at_end()
                await line.stream.aclose()
            refusal = json.loads(await silent.receive())
            assert refusal["code"] == "draining"
            await silent.aclose()
    assert chat.connections == 0
    with pytest.raises(OSError, match=r".+"):
        await anyio.connect_tcp(*address)


async def test_cancelling_the_server_leaves_nothing_behind() -> None:
    chat = ChatAPI()
    async with served(chat) as doors:
        await connect(doors["text"], "Mina")
        assert chat.connections == 1
    assert chat.connections == 0
    assert chat.rooms == []
    async with served(chat) as doors:
        await connect(doors["text"], "Mina")


async def test_a_chat_is_served_once_at_a_time() -> None:
    chat = ChatAPI()
    async with served(chat):
        with pytest.raises(RuntimeError, match="already"):
            await chat.serve("127.0.0.1:0")


async def test_an_existing_api_is_served_inside_a_programs_own_loop() -> None:
    chat = ChatAPI()
    async with anyio.create_task_group() as tasks:
        listening = await tasks.start(gotcpchat.run_tcp_with_existing_api, "127.0.0.1:0", chat)
        await connect(listening[0].address, "Mina")
        assert [room.name for room in chat.rooms] == ["dev"]
        tasks.cancel_scope.cancel()


async def test_the_poller_can_wait_in_a_thread_where_the_selector_has_no_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chatapi.chat.Poller", partial(Poller, threaded=True))
    chat = ChatAPI()
    async with served(chat) as doors:
        a, b = await connect(doors["text"], "a"), await connect(doors["text"], "b")
        for i in range(3):
            await a.send(f"{i}\n")
            assert await b.next() == f"a:{i}"


async def test_the_programs_own_loop_is_not_held_up() -> None:
    """While lines pour in, another task still gets its turn between two slices of work."""
    chat = ChatAPI(Limits(rate=0))
    async with served(chat) as doors:
        a, b = await connect(doors["text"], "a"), await connect(doors["text"], "b")
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await anyio.lowlevel.checkpoint()
                turns += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count_turns)
            await a.send("x\n" * 20_000)
            for _ in range(20_000):
                assert await b.next() == "a:x"
            assert turns > 0
            tasks.cancel_scope.cancel()


async def test_a_slow_bot_is_waited_for_then_disconnected() -> None:
    chat = ChatAPI(Limits(rate=0, log_entries=64, grace=0.2))
    async with served(chat) as doors, chat.join("slow", "dev") as slow:
        line = await connect(doors["text"], "Mina")
        reader = await connect(doors["text"], "Zoe")
        await line.send("".join(f"{i}\n" for i in range(1000)))
        for i in range(1000):
            assert await reader.next() == f"Mina:{i}"
        with pytest.raises(Disconnected) as error:
            [event async for event in slow]
        assert error.value.reason.code == "slow_consumer"
        assert chat.disconnects["slow_consumer"] == 1


async def test_a_bot_that_only_speaks_is_never_slow() -> None:
    chat = ChatAPI(Limits(rate=0, log_entries=64, grace=0.2))
    async with chat.join("speaker", "dev", reads=False) as speaker, chat.join("b", "dev") as b:
        for i in range(1000):
            await speaker.post(f"{i}")
            event = await anext(b)
            assert isinstance(event, Message)
            assert event.text == str(i)
        assert speaker.room is not None


async def test_posting_waits_for_a_member_that_lags() -> None:
    chat = ChatAPI(Limits(rate=0, log_entries=64, grace=60))
    posted = 0

    async with served(chat), chat.join("reader", "dev") as reader, chat.join("writer", "dev", reads=False) as writer:

        async def write() -> None:
            nonlocal posted
            for i in range(200):
                await writer.post(f"{i}")
                posted += 1

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            got = [event.text for event in [await anext(reader) for _ in range(201)] if isinstance(event, Message)]
    assert got == [str(i) for i in range(200)]


async def test_errors_of_addresses_are_raised_where_serving_starts() -> None:
    chat = ChatAPI()
    with pytest.raises(ValueError, match="has no port"):
        await chat.serve("nonsense")
    async with served(ChatAPI()) as doors:
        with pytest.raises(OSError, match=r"[Aa]ddress already in use|in use"):
            await chat.serve(str(doors["text"]))
        with pytest.raises(Refused, match="bad_room"):
            await chat.serve("127.0.0.1:0", telnet="127.0.0.1:0", lobby="no room")
