"""Deleting one message several times at once: one call succeeds, over every broker and over two servers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from redis_servers import needs_redis

from chatapi import Broker, ChatAPI, Deleted, NoSuchMessage, Refused
from chatapi.brokers.memory import InProcessBroker
from chatapi.brokers.sqlite.broker import SQLiteBroker
from chatapi.clock import SystemClock
from chatapi.core.broker import unavailable
from chatapi.testing import LateBroker, VirtualClock

pytestmark = pytest.mark.anyio

PATIENCE = 60
_numbers = count(1)


class Later(LateBroker):
    """Answers in later turns of the event loop."""

    async def run(self, started: Callable[[], None]) -> None:
        started()
        while True:
            await anyio.lowlevel.checkpoint()
            self.release(1)


async def outcome(chat: ChatAPI, seq: int) -> Deleted | type[Exception]:
    """What a deletion in the room `dev` returns, or the type of what it raises."""
    try:
        return await chat.delete("dev", seq, "moderator")
    except (NoSuchMessage, Refused) as error:
        return type(error)


async def together(*deletions: tuple[ChatAPI, int]) -> list[Deleted | type[Exception]]:
    """What deletions at the same time come to."""
    found: list[Deleted | type[Exception]] = []

    async def delete(chat: ChatAPI, seq: int) -> None:
        found.append(await outcome(chat, seq))

    async with anyio.create_task_group() as tasks:
        for chat, seq in deletions:
            tasks.start_soon(delete, chat, seq)
    return found


@pytest.fixture
def prefix() -> str:
    return f"deleting{next(_numbers)}"


@pytest.fixture(params=["in process", "late", "sqlite", pytest.param("redis", marks=needs_redis)])
def broker(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> Broker:
    if request.param == "in process":
        return InProcessBroker(SystemClock())
    if request.param == "late":
        return Later(VirtualClock())
    if request.param == "sqlite":
        return SQLiteBroker(tmp_path / "chat.db")
    from chatapi.brokers.redis.broker import RedisBroker

    return RedisBroker(request.getfixturevalue("shared_redis").url, prefix=prefix)


async def test_of_several_calls_for_one_message_one_succeeds_and_all_see_one_deletion(broker: Broker) -> None:
    chat = ChatAPI(broker=broker)
    with anyio.fail_after(PATIENCE):
        async with chat, chat.join("Mina", "dev", reads=False) as mina, chat.join("Zoe", "dev") as zoe:
            for text in ("one", "two", "end"):
                await mina.post(text)
            found = await together(*[(chat, 1)] * 5, *[(chat, 2)] * 5)
            deleted = [one for one in found if isinstance(one, Deleted)]
            assert sorted(one.target for one in deleted) == [1, 2]
            assert found.count(NoSuchMessage) == 8
            await mina.post("really")
            seen: list[Any] = []
            while not seen or getattr(seen[-1], "text", "") != "really":
                seen.append(await anext(zoe))
            assert [one for one in seen if isinstance(one, Deleted)] == sorted(deleted, key=lambda one: one.seq)
            assert await together((chat, 1), (chat, 1)) == [NoSuchMessage, NoSuchMessage]


async def test_a_call_that_waits_for_one_that_is_refused_tries_by_itself() -> None:
    broker = LateBroker(VirtualClock())
    chat = ChatAPI(broker=broker)
    found: list[Deleted | type[Exception]] = []

    async def delete() -> None:
        found.append(await outcome(chat, 1))

    with anyio.fail_after(PATIENCE):
        async with chat.join("Mina", "dev", reads=False) as mina:
            mina.post_nowait("one")
            broker.release()
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(delete)
                for failing in (unavailable("the disk is full"), None):
                    await anyio.wait_all_tasks_blocked()
                    assert broker.pending == 1
                    broker.failing = failing
                    broker.release()
    assert [one if isinstance(one, type) else type(one) for one in found] == [Refused, Deleted, NoSuchMessage]


async def test_a_call_after_one_that_was_cancelled_says_that_the_message_is_gone() -> None:
    broker = LateBroker(VirtualClock())
    chat = ChatAPI(broker=broker)
    with anyio.fail_after(PATIENCE):
        async with chat.join("Mina", "dev", reads=False) as mina:
            mina.post_nowait("one")
            broker.release()
            async with anyio.create_task_group() as cancelled:
                cancelled.start_soon(chat.delete, "dev", 1, "moderator")
                await anyio.wait_all_tasks_blocked()
                cancelled.cancel_scope.cancel()
            assert broker.pending == 1  # its deletion is on its way
            async with anyio.create_task_group() as tasks:

                async def delete() -> None:
                    assert await outcome(chat, 1) is NoSuchMessage

                tasks.start_soon(delete)
                await anyio.wait_all_tasks_blocked()
                broker.release()
            room = mina.room
            assert room is not None
            assert [message.text for message in room.history(10)] == [""]


@needs_redis
async def test_of_calls_on_two_servers_one_succeeds(shared_redis: Any, prefix: str) -> None:
    from chatapi.brokers.redis.broker import RedisBroker

    def chat() -> ChatAPI:
        return ChatAPI(broker=RedisBroker(shared_redis.url, prefix=prefix))

    with anyio.fail_after(PATIENCE):
        async with AsyncExitStack() as stack:
            one, other = [await stack.enter_async_context(chat()) for _ in range(2)]
            mina = await stack.enter_async_context(one.join("Mina", "dev", reads=False))
            await stack.enter_async_context(other.join("Zoe", "dev", reads=False))
            for number in range(20):
                message = await mina.post(f"message {number}")
                assert message is not None
                while (await other.history("dev", before=message.seq + 1, limit=1)).messages != (message,):
                    await anyio.lowlevel.checkpoint()
                found = await together(*[(one, message.seq), (other, message.seq)] * 2)
                assert sum(isinstance(each, Deleted) for each in found) == 1
                assert found.count(NoSuchMessage) == 3
