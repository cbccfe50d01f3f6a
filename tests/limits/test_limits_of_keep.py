"""How much of a room's history a store's file keeps, each bound at its limit and one beyond it."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatapi import ChatAPI
from chatapi.brokers.sqlite.broker import SQLiteBroker
from chatapi.limits import Keep
from chatapi.testing import VirtualClock

pytestmark = pytest.mark.anyio

DAY = 24 * 3600
TEXTS = [f"{number:099}" for number in range(8)]
"""A hundred bytes each in the file, with the line end."""


async def kept(keep: Keep, path: Path, said: int, *, live: bool, days: float = 0) -> list[str]:
    """What is shown of so many texts after so many days, once what is too old or too much is forgotten.

    They are read in the life of the server in which they were said, or in the next one.
    """
    clock = VirtualClock()

    async def look(chat: ChatAPI, broker: SQLiteBroker) -> list[str]:
        await broker.trim()
        return [message.text for message in (await chat.history("dev", limit=1000)).messages]

    broker = SQLiteBroker(path, clock=clock, keep=keep if live else Keep())
    async with ChatAPI(broker=broker, clock=clock) as chat, chat.join("Mina", "dev", reads=False) as mina:
        for text in TEXTS[:said]:
            await mina.post(text)
        clock.turn(days * DAY)
        if live:
            return await look(chat, broker)
    broker = SQLiteBroker(path, clock=clock, keep=keep)
    async with ChatAPI(broker=broker, clock=clock) as chat:
        return await look(chat, broker)


LIVES = pytest.mark.parametrize("live", [True, False], ids=["while it is open", "in the next life"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


@LIVES
async def test_messages_at_the_limit(path: Path, live: bool) -> None:
    assert await kept(Keep(messages=5), path, 5, live=live) == TEXTS[:5]


@LIVES
async def test_messages_one_beyond(path: Path, live: bool) -> None:
    assert await kept(Keep(messages=5), path, 6, live=live) == TEXTS[1:6]


@LIVES
async def test_bytes_at_the_limit(path: Path, live: bool) -> None:
    assert await kept(Keep(bytes=500), path, 5, live=live) == TEXTS[:5]


@LIVES
async def test_bytes_one_beyond(path: Path, live: bool) -> None:
    assert await kept(Keep(bytes=499), path, 5, live=live) == TEXTS[1:5]
    assert await kept(Keep(bytes=1), path.with_name("other.db"), 5, live=live) == TEXTS[4:5]  # the newest one stays


@LIVES
async def test_days_at_the_limit(path: Path, live: bool) -> None:
    assert await kept(Keep(days=2), path, 3, live=live, days=2 - 1 / DAY) == TEXTS[:3]


@LIVES
async def test_days_one_beyond(path: Path, live: bool) -> None:
    assert await kept(Keep(days=2), path, 3, live=live, days=2 + 1 / DAY) == []
