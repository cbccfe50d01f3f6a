"""A Redis that has lost messages: members are told, and no client believes that it has recovered everything."""

from __future__ import annotations

import shutil
from pathlib import Path

import anyio.to_thread
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from executables import handshake
from redis_members import present
from redis_nodes import Line, served
from redis_servers import RedisServer, needs_redis
from witnesses import history, until

from chatapi import Address
from chatapi.errors import DISCONNECTS

pytestmark = [pytest.mark.anyio, needs_redis]


async def forget(redis: RedisServer, folder: Path) -> None:
    """Kill a Redis, restore the files that `remember` copied, and start it."""
    await anyio.to_thread.run_sync(redis.kill)
    shutil.rmtree(folder)
    shutil.move(f"{folder}.old", folder)
    await anyio.to_thread.run_sync(redis.start)


def remember(redis: RedisServer) -> Path:
    """Copy the files of a Redis, for `forget`; return their folder."""
    folder = Path(redis.cli("CONFIG", "GET", "dir")[1].decode(), "appendonlydir")
    shutil.copytree(folder, f"{folder}.old")
    return folder


async def test_rooms_begin_anew_if_redis_comes_back_empty() -> None:
    with RedisServer() as redis:
        async with served(redis.url, redis.url) as (a, b), present("dev", Al=a, Bo=b) as [al, bo]:
            await al.say("one")
            await bo.say("two")
            await al.has(2)
            await bo.has(2)
            await anyio.to_thread.run_sync(redis.restart)
            for member in (al, bo):
                await member.has_a_gap("unknown_epoch", 2)
            await al.say("three")
            await bo.say("four")
            assert [al.acknowledged["three"].seq, bo.acknowledged["four"].seq] == [1, 2]
            await until(lambda: [event.text for event in bo.events] == ["one", "three"], lambda: str(bo.events))
            await until(lambda: [event.text for event in al.events] == ["two", "four"], lambda: str(al.events))
            await al.sees({"Al", "Bo"})
            await bo.sees({"Al", "Bo"})


@pytest.mark.slow
async def test_a_text_member_is_told_why_it_is_disconnected() -> None:
    with RedisServer() as redis:
        async with served(redis.url) as [here], await anyio.connect_tcp(here.host, here.port) as stream:
            lines = BufferedByteReceiveStream(stream)
            await stream.send(handshake("Al", "dev") + b"\nhello\n/list\n")
            assert b"Al" in await lines.receive_until(b"\n", 1000)
            await anyio.to_thread.run_sync(redis.restart)
            told = await lines.receive_until(b"\n", 1000)
            if b"perhaps not kept" in told:  # "hello" was on its way
                told = await lines.receive_until(b"\n", 1000)
            assert DISCONNECTS["insufficient_state"].detail.encode() in told
            with pytest.raises(anyio.IncompleteRead):
                await lines.receive_until(b"\n", 1000)


@pytest.mark.slow
async def test_members_are_told_of_messages_that_redis_has_lost(redis: RedisServer) -> None:
    async with served(redis.url, redis.url) as (a, b), present("dev", Al=a, Bo=b) as [al, bo]:
        await al.say("one")
        folder = remember(redis)
        await bo.say("lost")
        await al.has(2)
        await bo.has(2)
        await forget(redis, folder)
        for member in (al, bo):
            await member.has_a_gap("diverged", 2)
        await al.say("two")
        assert al.acknowledged["two"].seq == 2
        await until(lambda: [event.text for event in bo.events] == ["one", "two"], lambda: str(bo.events))
        assert [message.text for message in await history(str(b), "dev")] == ["one", "two"]


@pytest.mark.slow
async def test_members_are_told_even_if_others_have_sent_as_many_messages_since(redis: RedisServer) -> None:
    line = Line(Address("127.0.0.1", redis.port))
    async with (
        line.open(),
        served(redis.url, f"redis://{line.address}") as (a, b),
        present("dev", Al=a, Bo=b) as [al, bo],
    ):
        await al.say("one")
        folder = remember(redis)
        await al.say("lost")
        await bo.has(2)
        async with line.cut():
            await forget(redis, folder)
            await al.has_a_gap("diverged", 2)
            await al.say("two")
            await al.say("three")
            assert bo.gaps == []
        await bo.has_a_gap("diverged", 2)
        await bo.say("four")
        assert bo.acknowledged["four"].seq == 4
        assert [message.text for message in await history(str(b), "dev")] == ["one", "two", "three", "four"]
