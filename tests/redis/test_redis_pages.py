"""Pages of history that many members ask for at once, over Redis: none is refused, and no member is disconnected."""

from __future__ import annotations

import anyio
import pytest
from redis_servers import RedisServer, needs_redis
from speakers import Speaker

from chatapi import Limits
from chatapi.brokers.redis.broker import RedisBroker
from chatapi.testing import ChatKit

pytestmark = [pytest.mark.anyio, pytest.mark.slow, needs_redis]

MEMBERS, MESSAGES = 100, 240
LARGEST_ANSWER = 8 * 1024 * 1024
"""Bytes that Redis lets this server owe: less than all pages together."""


async def test_many_deep_pages_at_once_are_no_more_than_redis_sends_in_one_go() -> None:
    with RedisServer(config=[f"client-output-buffer-limit pubsub {LARGEST_ANSWER} 0 0"]) as redis:
        kit = ChatKit(Limits(rate=0, log_bytes=65536), broker=lambda clock: RedisBroker(redis.url, patience=10))
        async with kit.running():
            talker = kit.member("talker")
            await kit.settled()
            for start in range(0, MESSAGES, 8):
                talker.send("".join(f"{number} ".ljust(8000, "x") + "\n" for number in range(start, start + 8)))
                await kit.settled()
            readers = [Speaker(kit, f"reader{number}") for number in range(MEMBERS)]
            await kit.settled()
            for number, reader in enumerate(readers):
                reader.opened() if number == MEMBERS - 1 else reader.frames()
                reader.send("history", before=100 + number)
            with anyio.fail_after(60):
                await kit.settled()
            for number, reader in enumerate(readers):
                [answer] = [frame for frame in reader.frames() if frame["type"] not in ("welcome", "joined")]
                assert answer["type"] == "history"
                assert answer["messages"][-1]["seq"] == 99 + number
