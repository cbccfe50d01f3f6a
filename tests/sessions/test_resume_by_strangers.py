"""Who shows a key that this chat has given may resume from as far back as the log; anybody else as far as `history`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from redis_servers import RedisServer, needs_redis
from speakers import Speaker

from chatapi import ChatAPI, Limits
from chatapi.brokers.redis.broker import RedisBroker
from chatapi.brokers.sqlite.broker import SQLiteBroker
from chatapi.brokers.sqlite.database import MIGRATIONS
from chatapi.brokers.sqlite.store import Store
from chatapi.core.session_keys import is_signed, signed
from chatapi.testing import ChatKit

HISTORY = 5
MADE_UP = ["", "x" * 22, "a-made-up-key-of-the-right-form", signed("x" * 22, b"another secret"), "é\ud800"]


def say(kit: ChatKit, messages: int) -> None:
    """Have the program say so many messages, as a member that stays."""
    client = kit.member("talker").connection.client
    assert client is not None
    for number in range(messages):
        client.post(f"{number}")
    kit.settle()


def texts(frames: list[dict[str, Any]]) -> list[str]:
    return [frame["text"] for frame in frames if frame["type"] == "message"]


def stranger_is_shown(missed: int, session: str, **options: Any) -> tuple[bool, list[str]]:
    """Whether somebody with this key, who has missed so many messages, is shown them, and what is shown."""
    kit = ChatKit(Limits(history=HISTORY))
    first = Speaker(kit, "first").opened()
    say(kit, missed)
    stranger = Speaker(kit, "stranger", resume=first.resume(0, 0, session=session), **options)
    welcome, *frames = stranger.frames()
    assert welcome.get("reason") == (None if welcome["recovered"] else "trimmed")
    return welcome["recovered"], texts(frames)


@pytest.mark.parametrize("session", MADE_UP[:4])
def test_without_a_key_of_this_chat_a_resume_shows_no_more_than_history_does(session: str) -> None:
    assert stranger_is_shown(HISTORY, session) == (True, ["0", "1", "2", "3", "4"])
    assert stranger_is_shown(HISTORY + 1, session) == (False, [])
    assert stranger_is_shown(HISTORY + 1, session, history=3) == (False, ["3", "4", "5"])


def test_history_at_the_limit() -> None:
    assert stranger_is_shown(HISTORY, "")[0]


def test_history_one_beyond() -> None:
    assert not stranger_is_shown(HISTORY + 1, "")[0]


@pytest.mark.parametrize("seconds", [0, 100])
def test_with_its_key_a_member_is_shown_all_that_it_missed(seconds: float) -> None:
    kit = ChatKit(Limits(history=HISTORY))
    mina = Speaker(kit).opened()
    mina.cut("reset")
    say(kit, 20)
    kit.wait(seconds)
    welcome, *frames = Speaker(kit, resume=mina.resume(0, 0)).frames()
    assert welcome["recovered"]
    assert texts(frames) == [*map(str, range(20))]


def test_a_session_that_is_forgotten_is_a_stranger() -> None:
    kit = ChatKit(Limits(history=HISTORY, remember=10))
    mina = Speaker(kit).opened()
    mina.cut("reset")
    say(kit, 20)
    kit.wait(20)
    welcome, *frames = Speaker(kit, resume=mina.resume(0, 0)).frames()
    assert (welcome["recovered"], welcome["reason"], frames) == (False, "trimmed", [])


@pytest.mark.parametrize("key", MADE_UP)
def test_only_the_secret_signs(key: str) -> None:
    assert signed(key, b"") == key
    assert not is_signed(key, b"")
    assert not is_signed(key, b"secret")
    ours = signed("x" * 22, b"secret")
    assert is_signed(ours, b"secret")
    assert not is_signed(ours, b"another")
    assert not is_signed("y" + ours[1:], b"secret")


@pytest.mark.anyio
async def test_over_a_restart_with_a_store_a_silent_member_is_shown_all_that_it_missed_and_a_stranger_is_not(
    tmp_path: Path,
) -> None:
    limits = Limits(history=HISTORY, rate=0)

    def life(keys: str) -> ChatKit:
        return ChatKit(limits, broker=lambda clock: SQLiteBroker(tmp_path / "chat.db", clock=clock), keys=keys)

    kit = life("first-life")
    async with kit.running():
        mina = Speaker(kit)
        await kit.settled()
        mina.opened()
        talker = kit.member("talker")
        for number in range(20):
            talker.send(f"{number}\n")
            await kit.settled()
        kit.clock.turn(10_000)  # nothing that Mina did is remembered
    for session in MADE_UP[:4]:
        kit = life("second-life")
        async with kit.running():
            stranger = Speaker(kit, "stranger", resume=mina.resume(0, 0, session=session), history=2)
            await kit.settled()
            welcome, *frames = stranger.frames()
            assert (welcome["recovered"], welcome["reason"]) == (False, "trimmed")
            assert texts(frames) == ["18", "19"]
            room = kit.hub.room("dev")
            assert room is not None
            assert room.oldest >= 20 - HISTORY, "nothing more was read from the disk for it"
    kit = life("third-life")
    async with kit.running():
        again = Speaker(kit, resume=mina.resume(0, 0))
        await kit.settled()
        welcome, *frames = again.frames()
        assert welcome["recovered"]
        assert texts(frames) == [*map(str, range(20))]


@needs_redis
@pytest.mark.anyio
async def test_on_another_server_a_silent_member_is_shown_all_that_it_missed_and_a_stranger_is_not() -> None:
    limits = Limits(history=HISTORY, rate=0)
    with RedisServer() as redis:

        def server(keys: str) -> ChatKit:
            return ChatKit(limits, broker=lambda clock: RedisBroker(redis.url), keys=f"a-long-enough-key-of-{keys}")

        one, two = server("one"), server("two")
        async with one.running(), two.running():
            assert one.broker.secret == two.broker.secret != b""
            mina = Speaker(one)
            await one.settled()
            mina.opened()
            talker = one.member("talker")
            await one.settled()
            talker.send("".join(f"{number}\n" for number in range(20)))
            await one.settled()
            assert redis.cli("DEL", *redis.cli("KEYS", "*:sent:*"))  # as if it were five minutes later
            for number, session in enumerate(MADE_UP[:4]):
                stranger = Speaker(two, f"stranger{number}", resume=mina.resume(0, 0, session=session))
                await two.settled()
                welcome, *frames = stranger.frames()
                assert (welcome["recovered"], welcome["reason"]) == (False, "trimmed")
                assert texts(frames) == []
            again = Speaker(two, resume=mina.resume(0, 0))
            await two.settled()
            welcome, *frames = again.frames()
            assert welcome["recovered"]
            assert texts(frames) == [*map(str, range(20))]


@needs_redis
@pytest.mark.anyio
async def test_servers_that_start_later_have_the_secret_of_the_first_one() -> None:
    with RedisServer() as redis:
        found = set()
        for _ in range(3):
            broker = RedisBroker(redis.url)
            async with ChatAPI(broker=broker):
                found.add(broker.secret)
                await anyio.lowlevel.checkpoint()
        assert len(found) == 1
        assert len(found.pop()) == 32


def test_a_file_of_the_first_version_is_given_a_signing_key(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    old = Store(path, migrations=MIGRATIONS[:1])
    old.open()
    old.close()
    new = Store(path)
    found = set()
    for _ in range(2):
        new.open()
        found.add(new.signing_key())
        new.close()
    assert [len(secret) for secret in found] == [32]
