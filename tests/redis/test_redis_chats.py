"""Two servers over one Redis are one chat; how long Redis keeps its messages, and how it is reached."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from executables import DEADLINE
from redis_servers import RedisCluster, RedisServer, needs_redis
from scripted import LONG
from serving import served
from witnesses import until

from chatapi import (
    ChatAPI,
    Connection,
    Joined,
    Left,
    Limits,
    Lost,
    Message,
    NotDelivered,
    Recovered,
    Refused,
    Renamed,
    StoreError,
    Welcome,
    Whisper,
    connect,
)
from chatapi.addresses import Address
from chatapi.bots import Bot
from chatapi.brokers.redis.broker import RedisBroker
from chatapi.limits import Keep
from chatapi.testing import Proxy

pytestmark = [pytest.mark.anyio, needs_redis]

_numbers = count(1)


# Two servers, one chat


@pytest.fixture
def prefix() -> str:
    return f"test{next(_numbers)}"


@asynccontextmanager
async def chats(url: str, prefix: str, number: int = 2, **options: Any) -> AsyncIterator[list[ChatAPI]]:
    """So many chats over one Redis, each as a server of its own would have it."""
    async with AsyncExitStack() as stack:
        stack.enter_context(anyio.fail_after(LONG))
        limits = options.pop("limits", None)
        yield [
            await stack.enter_async_context(ChatAPI(limits, broker=RedisBroker(url, prefix=prefix, **options)))
            for _ in range(number)
        ]


@asynccontextmanager
async def door_of(chat: ChatAPI) -> AsyncIterator[Address]:
    """Serve a chat; yield the address of its usual door."""
    async with served(chat) as doors:
        yield doors["text"]


async def up_to(room: Bot | Connection, text: str) -> list[Any]:
    """The events up to the message with this text."""
    events: list[Any] = []
    while not (events and isinstance(events[-1], Message) and events[-1].text == text):
        events.append(await anext(room))
    return events


async def test_bots_on_two_servers_are_in_one_room(shared_redis: RedisServer, prefix: str) -> None:
    async with chats(shared_redis.url, prefix) as (a, b), a.join("Mina", "dev") as mina, b.join("Zoe", "dev") as zoe:
        assert await anext(mina) == Joined(0, "Zoe")
        said, answer = await mina.post("hello\nyou"), await zoe.post("hi")
        assert (await anext(zoe), await anext(mina)) == (said, answer)
        for chat in (a, b):
            room = chat.room("DEV")
            assert room is not None
            assert (len(room), room.first_members(9), room.seq) == (2, ["Mina", "Zoe"], 2)
        with pytest.raises(Refused, match="name_taken: 'MINA' is already in 'dev'"):
            async with b.join("MINA", "dev"):
                raise AssertionError
        with pytest.raises(NotDelivered, match="nobody here is called 'Tom'"):
            await mina.whisper("Tom", "psst")
        await zoe.whisper("mina", "psst")
        whisper = await anext(mina)
        assert isinstance(whisper, Whisper)
        assert (whisper.name, whisper.text) == ("Zoe", "psst")
        with pytest.raises(Refused, match="name_taken"):
            await zoe.rename("mina")
        await zoe.rename("Zo")
        assert await anext(mina) == Renamed(2, "Zoe", "Zo")
        zoe.leave()
        assert await anext(mina) == Left(2, "Zo", "bye")
        async with b.join("Zo", "dev"):
            await a.delete("dev", 1, "Mina")
            assert [message.text for message in (await b.history("dev")).messages] == ["", "hi"]


async def test_the_client_library_goes_on_at_another_server(shared_redis: RedisServer, prefix: str) -> None:
    async with (
        chats(shared_redis.url, prefix) as (a, b),
        door_of(a) as here,
        door_of(b) as there,
        Proxy(here).open() as proxy,
        connect(proxy.address, name="Mina", room="dev", backoff=0.001) as mina,
        b.join("Zoe", "dev") as zoe,
        anyio.create_task_group() as tasks,
    ):
        for i, other in enumerate((there, here, there, here)):
            await mina.send(f"before {i}")
            tasks.start_soon(mina.send, f"at the time {i}")
            await zoe.post(f"meanwhile {i}")
            proxy.target = other
            proxy.cut_all()
            await mina.send(f"after {i}")
            assert await mina.members() == ["Mina", "Zoe"]
        await mina.send("last of Mina")
        heard = [event.text for event in await up_to(zoe, "last of Mina")]  # messages, and nothing else
        assert heard == [*(f"{when} {i}" for i in range(4) for when in ("before", "at the time", "after")), heard[-1]]
        await zoe.post("last of Zoe")
        news = await up_to(mina, "last of Zoe")
        assert sum(isinstance(event, Recovered) for event in news) == proxy.cuts == 4
        assert {type(event) for event in news} == {Welcome, Joined, Lost, Recovered, Message}
        heard = [event.text for event in news if isinstance(event, Message)]
        assert heard == [*(f"meanwhile {i}" for i in range(4)), "last of Zoe"]


@pytest.mark.slow
async def test_programs_on_two_servers_see_all_rooms_and_members(shared_redis: RedisServer, prefix: str) -> None:
    async with (
        chats(shared_redis.url, prefix) as (a, b),
        door_of(a) as here,
        door_of(b) as there,
        connect(here, name="Mina", room="dev") as mina,
        connect(there, name="Zoe", room="dev", events=False) as zoe,
        connect(there, name="Tom", room="lab", events=False) as tom,
    ):
        for room, names in ((mina, ["Mina", "Zoe"]), (zoe, ["Mina", "Zoe"]), (tom, ["Tom"])):
            assert await room.members() == names
            await rooms_are(room, {"dev": 2, "lab": 1})
        await tom.join("dev")
        await zoe.rename("Zo")
        for room in (mina, zoe, tom):
            assert await room.members() == ["Mina", "Tom", "Zo"]
            await rooms_are(room, {"dev": 3})
        await mina.whisper("zo", "psst")
        with pytest.raises(NotDelivered):
            await mina.whisper("Zoe", "psst")
        with pytest.raises(Refused, match="name_taken"):
            await mina.rename("TOM")
        with pytest.raises(Refused, match="name_taken"):
            async with connect(there, name="MINA", room="Dev"):
                raise AssertionError


async def rooms_are(room: Connection, expected: dict[str, int]) -> None:
    """A server may learn a moment later of rooms that are open elsewhere only."""
    found: dict[str, int] = {}
    with anyio.move_on_after(DEADLINE):
        while (found := await room.rooms()) != expected:  # noqa: ASYNC110
            await anyio.sleep(0.01)
    assert found == expected


@pytest.mark.slow
async def test_a_room_may_be_called_anything(shared_cluster: RedisCluster, prefix: str) -> None:
    """Even if Redis could take the name for another key, shard or channel."""
    names = ["{dev}", "dev", "d{e}v", "}{", "*", "d?v", "%7Bdev%7D", "漢字", "nodes", "dev/log", "a" * 64]
    async with chats(shared_cluster.url, prefix) as (a, b), AsyncExitStack() as stack:
        pairs = [
            [await stack.enter_async_context(chat.join(name, room)) for chat, name in ((a, "Mina"), (b, "Zoe"))]
            for room in names
        ]
        for (mina, _), name in zip(pairs, names, strict=True):
            await mina.post(f"this is {name}")
        for (_, zoe), name in zip(pairs, names, strict=True):
            assert await anext(zoe) == (await a.history(name)).messages[0]
            assert [message.text for message in (await a.history(name)).messages] == [f"this is {name}"]


async def test_chats_with_different_prefixes_or_databases_share_nothing(shared_redis: RedisServer, prefix: str) -> None:
    places = [(shared_redis.url, prefix), (shared_redis.url, f"{prefix}x"), (shared_redis.url[:-1] + "1", prefix)]
    async with AsyncExitStack() as stack:
        bots = []
        for url, its in places:
            [chat] = await stack.enter_async_context(chats(url, its, 1))
            bots.append(await stack.enter_async_context(chat.join("Mina", "dev", echo=True)))
        for i in range(3):
            for bot in bots:
                await bot.post(f"{i}")
        for bot in bots:
            assert [event.seq for event in await up_to(bot, "2")] == [1, 2, 3]  # and no word of another Mina


async def test_messages_that_were_not_published_are_read_from_the_log(shared_redis: RedisServer, prefix: str) -> None:
    silent = RedisBroker(shared_redis.url, prefix=prefix)
    async with (
        chats(shared_redis.url, prefix) as (a, b),
        ChatAPI(broker=silent) as c,
        a.join("Mina", "dev") as mina,
        b.join("Zoe", "dev") as zoe,
        c.join("Tom", "dev") as tom,
        anyio.create_task_group() as tasks,
    ):
        for bot, came in ((mina, ["Zoe", "Tom"]), (zoe, ["Tom"])):
            assert [await anext(bot) for _ in came] == [Joined(0, name) for name in came]
        room = silent._open["dev"]
        node = room._node
        room._node = replace(
            node, publish="SISMEMBER"
        )  # which publishes nothing: Tom's message is kept, and the others do not hear of it
        tasks.start_soon(tom.post, "unheard")
        await until(lambda: shared_redis.cli("XLEN", f"{prefix}:{{dev}}:log"), lambda: "it is in Redis")
        room._node = node
        said = await mina.post("heard")
        unheard = await anext(zoe)
        assert isinstance(unheard, Message)
        assert (unheard.seq, unheard.text) == (1, "unheard")
        assert (await anext(zoe), await anext(mina), await anext(tom)) == (said, unheard, said)


# What Redis keeps


async def shaken(where: Address, **fields: Any) -> dict[str, Any]:
    """Return the answer to a handshake of the JSON protocol; the connection ends with a goodbye."""
    async with await anyio.connect_tcp(*where) as stream:
        lines = BufferedByteReceiveStream(stream)
        await stream.send(json.dumps({"name": "Mina", "room": "dev", "protocol": "json", **fields}).encode() + b"\n")
        welcome: dict[str, Any] = json.loads(await lines.receive_until(b"\n", 100_000))
        await stream.send(b'{"type":"bye"}\n')
        with pytest.raises(anyio.IncompleteRead):
            await lines.receive_until(b"\0", 1_000_000)
        return welcome


async def test_messages_beyond_the_limit_are_forgotten_and_clients_are_told(
    shared_redis: RedisServer, prefix: str
) -> None:
    async with (
        chats(shared_redis.url, prefix, 3, keep=Keep(messages=10)) as (a, b, c),
        door_of(a) as here,
        door_of(b) as there,
        a.join("Zoe", "dev", reads=False) as zoe,
    ):
        said = [await zoe.post(f"{i}") for i in range(30)]
        session = (await shaken(here))["session"]
        for where in (here, there, here):
            for message, recovered in ((said[15], False), (said[25], True)):
                assert message is not None
                resume = {"epoch": zoe.room and zoe.room.epoch, "seq": message.seq, "ts": message.ts}
                welcome = await shaken(where, resume={**resume, "session": session})
                assert (welcome["recovered"], welcome.get("reason", "trimmed")) == (recovered, "trimmed")
        for chat in (a, b, c):
            assert [message.seq for message in (await chat.history("dev")).messages] == [*range(21, 31)]


async def test_old_messages_of_a_room_are_forgotten(shared_redis: RedisServer, prefix: str) -> None:
    async with (
        chats(shared_redis.url, prefix, 2, keep=Keep(days=1e-7)) as (a, b),
        a.join("Mina", "dev", reads=False) as mina,
    ):
        await mina.post("first")
        while (await b.history("dev", before=2)).messages:  # days pass
            await mina.post("more")
        assert (await a.history("dev", before=2)).messages == ()


async def test_nothing_stays_in_redis_for_ever(shared_redis: RedisServer, prefix: str) -> None:
    """Rooms with members, rooms of which only the history was read, and the keys of a server all expire."""
    async with chats(shared_redis.url, prefix, keep=Keep(days=2)) as (a, b), door_of(b) as there:
        async with a.join("Mina", "dev") as mina, b.join("Zoe", "dev"), a.join("Tom", "silent"):
            said = await mina.post("hello")
            assert said is not None
            await a.delete("dev", said.seq, "Mina")
            await shaken(there, name="Ann", room="dev")
        await a.history("nobody-was-here")
        with pytest.raises(Refused):
            async with a.join("x" * 33, "nor here"):
                raise AssertionError
        keys = shared_redis.cli("KEYS", f"{prefix}:*")
        lasts = {key: shared_redis.cli("TTL", key) for key in keys if key != f"{prefix}:{{nodes}}".encode()}
        assert 0 < lasts.pop(f"{prefix}:{{nodes}}:secret".encode()) <= 365 * 24 * 3600
        assert max(lasts.values()) <= 2 * 24 * 3600
        assert min(lasts.values()) > 0, f"these stay: {[key for key, seconds in lasts.items() if seconds < 0]}"
    assert f"{prefix}:{{nodes}}".encode() not in shared_redis.cli("KEYS", f"{prefix}:*")


async def test_session_keys_are_not_in_redis(shared_redis: RedisServer, prefix: str) -> None:
    """Someone who has one can take a member's place."""
    async with (
        chats(shared_redis.url, prefix) as (a, _),
        door_of(a) as here,
        await anyio.connect_tcp(*here) as stream,
    ):
        lines = BufferedByteReceiveStream(stream)
        await stream.send(b'{"name":"Mina","room":"dev","protocol":"json"}\n{"type":"message","text":"hi","id":"1"}\n')
        session = json.loads(await lines.receive_until(b"\n", 10_000))["session"]
        assert json.loads(await lines.receive_until(b"\n", 10_000))["type"] == "ack"
        everything = str([(key, contents(shared_redis, key)) for key in shared_redis.cli("KEYS", f"{prefix}:*")])
        assert "Mina" in everything
        assert session not in everything


def contents(redis: RedisServer, key: bytes) -> Any:
    """All that is under a key."""
    read = {
        "string": ("GET", key),
        "hash": ("HGETALL", key),
        "stream": ("XRANGE", key, "-", "+"),
        "zset": ("ZRANGE", key, 0, -1),
    }
    return redis.cli(*read[redis.cli("TYPE", key)])


async def test_ids_of_a_session_are_bounded(shared_redis: RedisServer, prefix: str) -> None:
    limits = Limits(remember_ids=10, rate=0)
    async with chats(shared_redis.url, prefix, 2, limits=limits) as (a, b), door_of(a) as here, door_of(b) as there:
        proxy = Proxy(here)
        async with proxy.open(), connect(proxy.address, name="Mina", room="dev", backoff=0.001) as mina:
            for i in range(100):
                await mina.send(f"{i}")
            proxy.target = there
            proxy.cut_all()
            assert (await mina.send("last")).seq == 101
        sizes = [shared_redis.cli("HLEN", key) for key in shared_redis.cli("KEYS", f"{prefix}:*:sent:*")]
        assert len(sizes) == 1
        assert sizes[0] < 50


async def test_a_member_of_a_silent_room_can_leave_and_join_again(shared_redis: RedisServer, prefix: str) -> None:
    async with chats(shared_redis.url, prefix) as (a, b):
        for chat in (a, a, b, a, b, b):
            async with chat.join("Mina", "dev") as mina:
                assert mina.room is not None
                assert mina.room.first_members(9) == ["Mina"]
            await until(
                lambda: not shared_redis.cli("EXISTS", f"{prefix}:{{dev}}:who"), lambda: "its name is given back"
            )


async def test_a_room_goes_on_when_all_servers_are_new(shared_redis: RedisServer, prefix: str) -> None:
    epochs = []
    for i in range(3):
        async with chats(shared_redis.url, prefix) as (a, b), b.join("Mina", "Dev") as mina:
            said = await mina.post(f"{i}")
            assert said is not None
            assert said.seq == i + 1
            assert [message.text for message in (await a.history("dev")).messages] == [*map(str, range(i + 1))]
            assert mina.room is not None
            epochs.append(mina.room.epoch)
    assert len({*epochs}) == 1


# How it is reached


async def test_it_is_reached_by_a_socket_of_unix(prefix: str, tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with RedisServer(config=[f"unixsocket {path}"]):
        async with (
            chats(f"unix://{path}", prefix) as (a, b),
            a.join("Mina", "dev") as mina,
            b.join("Zoe", "dev") as zoe,
        ):
            assert await mina.post("hello") == await anext(zoe)


async def test_a_password_is_needed_and_never_shown(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with RedisServer() as redis:
        redis.cli("ACL", "SETUSER", "mina", "on", ">right-password", "~*", "&*", "+@all")
        redis.cli("CONFIG", "SET", "requirepass", "default-password")
        url = redis.url.replace("://", "://mina:{}@")
        async with chats(url.format("right-password"), prefix, 1) as (a,), a.join("Mina", "dev") as mina:
            await mina.post("hello")
        for wrong in (url.format("wrong-password"), redis.url):
            with pytest.raises(StoreError, match=rf"cannot use Redis at .*127\.0\.0\.1:{redis.port}/0: ") as raised:
                async with chats(wrong, prefix, 1):
                    raise AssertionError
            assert "password" not in str(raised.value).replace("username-password", "")
    assert "right-password" not in caplog.text
    assert "wrong-password" not in caplog.text


async def test_a_redis_that_is_not_there_is_an_error_at_the_start(prefix: str) -> None:
    with RedisServer() as redis:
        pass
    with pytest.raises(StoreError, match=rf"cannot use Redis at redis://127\.0\.0\.1:{redis.port}/0: "):
        async with chats(redis.url, prefix, 1):
            raise AssertionError


@pytest.mark.parametrize(
    "url",
    ["", "http://127.0.0.1", "redis://127.0.0.1:no", "redis://127.0.0.1/dev", "redis+cluster://127.0.0.1/1",
     "redis+sentinel://127.0.0.1:26379", "redis://127.0.0.1?typo=1"],
)  # fmt: skip
def test_a_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(url.replace("://", "://mina:…@")))):
        RedisBroker(url.replace("://", "://mina:secret@"))
