"""Rooms as in MaChat in Go, kept in files and in Redis, and seen by a program."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest
from redis_servers import RedisServer, needs_redis

from chatapi import Bot, Broker, ChatAPI, Message, NoSuchMessage, NotDelivered, Refused
from chatapi.brokers.redis.broker import RedisBroker
from chatapi.brokers.sqlite.broker import SQLiteBroker
from chatapi.cli import store
from chatapi.core.handshake import Handshake
from chatapi.core.hooks import Hooks
from chatapi.testing import ChatKit

# Members of a program's own, and a chat's own calls


@pytest.mark.anyio
async def test_a_program_s_own_members_and_look_ups_keep_to_the_same_rules() -> None:
    chat = ChatAPI(machat=True)
    async with (
        chat,
        chat.join("", "") as nobody,
        chat.join("Mina A.", "dev team"),
        chat.join("Mina A.", "Dev Team") as mina,
        chat.join("mina a.", "Dev Team") as other,
    ):
        await nobody.post("hello")
        await mina.post("hello")
        room = chat.room("Dev Team")
        assert room is not None
        assert [client.name for client in room.members] == ["Mina A.", "mina a."]
        assert room.member("Mina A.") == mina.client
        assert room.member("MINA A.") is None
        assert chat.room("DEV TEAM") is None
        await mina.whisper("mina a.", "psst")
        with pytest.raises(NotDelivered):
            await mina.whisper("MINA A.", "psst")
        with pytest.raises(Refused, match="already in"):
            await other.rename("Mina A.")
        await other.rename("Zoe\n:")
        assert other.client.name == "Zoe:"
        for name in ("x" * 257, "\ud800"):
            with pytest.raises(Refused, match=r"bytes|surrogate"):
                await other.rename(name)
        assert [message.text for message in (await chat.history("")).messages] == ["hello"]
        gone = await chat.delete("Dev Team", 1, "The Moderator")
        assert (gone.name, [m.text for m in (await chat.history("Dev Team")).messages]) == ("The Moderator", [""])
        assert (await chat.history("dev team")).messages == ()
    with pytest.raises(Refused, match="257 bytes"):
        await chat.history("x" * 257)


def test_a_hook_sees_the_names_of_go() -> None:
    seen: list[Handshake] = []
    kit = ChatKit(machat=True, hooks=Hooks(seen.append))  # type: ignore[arg-type]
    kit.connect().send('{"name": "Mina A."}')
    kit.settle()
    assert [(asked.name, asked.room) for asked in seen] == [("Mina A.", "")]


def test_a_json_member_comes_back_under_its_name() -> None:
    kit = ChatKit(machat=True)
    mina = kit.member("Mina A.", "Dev Team", protocol="json")
    welcome = json.loads(mina.lines()[0])
    mina.transport.reset()
    zoe = kit.member("Zoe", "Dev Team")
    zoe.send("\n")
    assert "name_taken" in kit.member("Mina A.", "Dev Team").received()
    assert kit.member("mina a.", "Dev Team").received() == ""
    resume = {key: welcome[key] for key in ("epoch", "seq", "ts", "session")}
    back = kit.member("Mina A.", "Dev Team", protocol="json", resume=resume)
    welcome, missed = (json.loads(line) for line in back.lines()[:2])
    assert (welcome["name"], welcome["room"], welcome["recovered"]) == ("Mina A.", "Dev Team", True)
    assert (missed["name"], missed["text"]) == ("Zoe", "")


# Where rooms are kept


ROOMS = ["Dev", "dev", "", "Dev Team", "a/b:c}", "x" * 256]


async def say_something(broker: Broker, *, machat: bool, rooms: list[str]) -> None:
    async with ChatAPI(machat=machat, broker=broker) as chat:
        for room in rooms:
            async with chat.join("Mina", room, reads=False) as mina:
                await mina.post(f"hello {room}")


async def found(broker: Broker, *, machat: bool, rooms: list[str]) -> list[list[str]]:
    async with ChatAPI(machat=machat, broker=broker) as chat:
        return [[message.text for message in (await chat.history(room)).messages] for room in rooms]


@pytest.mark.anyio
async def test_a_file_keeps_rooms_of_both_kinds_apart(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "chat.db")
    await say_something(SQLiteBroker(path), machat=True, rooms=ROOMS)
    assert await found(SQLiteBroker(path), machat=False, rooms=["dev"]) == [[]]
    await say_something(SQLiteBroker(path), machat=False, rooms=["dev"])
    await say_something(SQLiteBroker(path), machat=False, rooms=["DEV"])
    assert await found(SQLiteBroker(path), machat=True, rooms=ROOMS) == [[f"hello {room}"] for room in ROOMS]
    assert await found(SQLiteBroker(path), machat=False, rooms=["Dev"]) == [["hello dev", "hello DEV"]]
    assert store.main(["check", path]) == 0
    assert store.main(["rooms", path]) == 0
    told = capfd.readouterr().out.splitlines()
    assert told[0] == "ok: 7 rooms, 8 messages"
    listed = [json.loads(line) for line in told[1:]]
    assert sorted(room["name"] for room in listed if room.get("machat")) == sorted(ROOMS)
    assert [room["name"] for room in listed if "machat" not in room] == ["dev"]


async def _with_blank_lines(kit: ChatKit, *rooms: str) -> None:
    async with kit.running():
        for room in rooms:
            mina = kit.connect()
            mina.send(json.dumps({"name": "", "room": room}))
            await kit.settled()
            mina.send("one\n\n\ntwo\n")
            await kit.settled()
            assert mina.lines() == [":one", ":", ":", ":two"]


@pytest.mark.parametrize("room", ["Dev Team", "", "Dev"])
def test_rooms_of_go_with_blank_lines_are_sound_and_go_through_an_export(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], room: str
) -> None:
    path, copy = str(tmp_path / "chat.db"), str(tmp_path / "copy.db")
    anyio.run(_with_blank_lines, ChatKit(machat=True, broker=lambda clock: SQLiteBroker(path, clock=clock)), room, "x")
    for file in (path, copy):
        assert store.main(["export", "-machat", file, room, f"{file}.ndjson"]) == 0
        assert store.main(["check", file]) == 0
        assert capfd.readouterr().out.startswith("ok: ")
        if file is path:
            assert store.main(["import", "--machat", copy, room, f"{path}.ndjson"]) == 0
            assert capfd.readouterr().out.startswith("imported")
    assert Path(f"{copy}.ndjson").read_bytes() == Path(f"{path}.ndjson").read_bytes()
    texts = anyio.run(lambda: found(SQLiteBroker(copy), machat=True, rooms=[room]))
    assert texts == [["one", "", "", "two"]]


async def _replayed_after_a_restart(path: str) -> list[str]:
    def kit() -> ChatKit:
        return ChatKit(machat=True, broker=lambda clock: SQLiteBroker(path, clock=clock))

    await _with_blank_lines(kit(), "dev")
    async with kit().running() as again:
        zoe = again.connect()
        zoe.send('{"name":"Zoe","room":"dev","history":10}')
        await again.settled()
        return zoe.lines()


async def _deleted(path: str, seq: int) -> int:
    async with ChatAPI(machat=True, broker=SQLiteBroker(path)) as chat:
        return (await chat.delete("dev", seq, "moderator")).target


@pytest.mark.usefixtures("capfd")
def test_what_a_file_cannot_tell_of_a_blank_line_is_as_it_is_documented(tmp_path: Path) -> None:
    path = str(tmp_path / "chat.db")
    assert anyio.run(_replayed_after_a_restart, path) == [":one", ":two"]
    with pytest.raises(NoSuchMessage):
        anyio.run(_deleted, path, 2)
    assert anyio.run(_deleted, path, 1) == 1
    assert store.main(["check", path]) == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["export", "{file}", "Dev Team"], "white space"),
        (["export", "{file}", "Dev"], "has no room 'Dev'"),
        (["export", "-machat", "{file}", "dev"], "did you mean 'Dev'"),
        (["import", "-machat", "{file}", "Dev", "{lines}"], "already has a room 'Dev'"),
        (["import", "new.db", "Dev", "{lines}"], "'name': the name is empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_sub_command_without_the_switch_looks_for_rooms_of_its_own_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    anyio.run(_with_blank_lines, ChatKit(machat=True, broker=lambda clock: SQLiteBroker("go.db", clock=clock)), "Dev")
    assert store.main(["export", "-machat", "go.db", "Dev", "dev.ndjson"]) == 0
    with pytest.raises(SystemExit):
        store.main([argument.format(file="go.db", lines="dev.ndjson") for argument in arguments])
    assert why in capfd.readouterr().err


@pytest.mark.anyio
@needs_redis
async def test_servers_that_share_a_redis_keep_to_the_rules_of_go() -> None:
    with RedisServer() as redis:

        def chat(*, machat: bool = True) -> ChatAPI:
            return ChatAPI(machat=machat, broker=RedisBroker(redis.url))

        async with chat() as one, chat() as two, chat(machat=False) as ours, AsyncExitStack() as stack:
            mina = await stack.enter_async_context(one.join("Mina A.", "Dev Team"))
            other = await stack.enter_async_context(two.join("mina a.", "Dev Team"))
            nobody = await stack.enter_async_context(two.join("", "Dev Team"))
            theirs = await stack.enter_async_context(one.join("Mina", "dev"))
            apart = await stack.enter_async_context(ours.join("Mina", "dev"))
            for bot in (mina, nobody, other):
                await _until(bot, ["", "Mina A.", "mina a."])
            for speaker, chat_of_it in ((theirs, one), (apart, ours)):
                await speaker.post("hello")
                room = chat_of_it.room("dev")
                assert room is not None
                assert (len(room), room.seq) == (1, 1)
            with pytest.raises(Refused, match=r"'Mina A\.'"):
                await stack.enter_async_context(two.join("Mina A.", "Dev Team"))
            for name in ("mina a.", ""):
                await mina.whisper(name, "psst")
            await nobody.post("hello")
            while not isinstance(event := await anext(mina), Message):
                pass
            assert (event.name, event.text) == ("", "hello")
            await nobody.rename("Zoe:\t1")
            await _until(mina, ["Mina A.", "Zoe:1", "mina a."])
            await nobody.rename("")
            await other.rename("Zoe B.")
            await _until(mina, ["", "Mina A.", "Zoe B."])
            nobody.leave()
            await _until(mina, ["Mina A.", "Zoe B."])


async def _until(bot: Bot, names: list[str]) -> None:
    """Read what a member is told until these are the names in its room."""
    room = bot.client.room
    assert room is not None
    with anyio.fail_after(10):
        while room.first_members(9) != names:
            await anext(bot)
