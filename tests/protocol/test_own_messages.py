"""A member is told what was kept of what it said: its text, and its name, where these are not what it knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from client_protocols import again, line, live, outcome, said
from redis_servers import RedisServer, needs_redis
from scripted import dev
from serving import served
from speakers import Speaker, chat, release

from chatapi import ChatAPI, Client, Message
from chatapi.addresses import Address
from chatapi.brokers.redis.broker import RedisBroker
from chatapi.brokers.sqlite.broker import SQLiteBroker
from chatapi.core.entries import Deletion
from chatapi.core.hooks import Hooks
from chatapi.testing import ChatKit

pytestmark = pytest.mark.anyio


def polite(client: Client, text: str) -> str:
    return text.replace("damn", "darn")


HOOKS = Hooks(on_message=polite)


def both(late: bool, **options: Any) -> tuple[ChatKit, Speaker]:
    kit = chat(late, **options)
    mina = Speaker(kit)
    release(kit)
    mina.frames()
    return kit, mina


def say(kit: ChatKit, mina: Speaker, text: str, **fields: Any) -> dict[str, Any]:
    mina.send("message", text=text, **fields)
    release(kit)
    frame = mina.frame()
    del frame["seq"], frame["ts"]
    return frame


# The server


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("fields", [{}, {"id": "a"}])
@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("hello", None),
        (" für alle ", None),
        ("one\ntwo", None),
        ("damn it", "darn it"),
        ("be\u0007ll", "bell"),
        ("one\n\ntwo\n", "one\ntwo"),
        ("da\u0000mn", "darn"),
    ],
)
def test_an_ack_has_the_text_where_it_is_not_what_was_sent(
    late: bool, fields: dict[str, str], sent: str, kept: str | None
) -> None:
    kit, mina = both(late, hooks=HOOKS)
    told = {} if kept is None else {"text": kept}
    ack = {"type": "ack", "id": fields.get("id")} | told
    assert say(kit, mina, sent, **fields) == ack
    if fields:
        assert say(kit, mina, sent, **fields) == ack | {"duplicate": True}


def test_a_run_of_messages_has_plain_acks() -> None:
    _, mina = both(False)
    mina.peer.send('{"type":"message","text":"one"}\n{"type":"message","text":"two"}\n')
    assert [set(frame) for frame in mina.frames()] == [{"type", "id", "seq", "ts"}] * 2


def test_what_the_program_says_for_a_member_is_told_to_it() -> None:
    kit, mina = both(False)
    kit.hub.rooms["dev"].members[0].post("as you wished")
    frame = mina.frame()
    assert (frame["type"], frame["id"], frame["name"], frame["text"]) == ("ack", None, "Mina", "as you wished")


@pytest.mark.parametrize("late", [False, True])
def test_a_duplicate_has_the_text_and_the_name_under_which_it_was_kept(late: bool) -> None:
    kit, mina = both(late, hooks=HOOKS)
    say(kit, mina, "damn", id="a")
    mina.send("rename", to="Min")
    release(kit)
    mina.frames()
    again = {"type": "ack", "id": "a", "name": "Mina", "duplicate": True}
    assert say(kit, mina, "damn", id="a") == {**again, "text": "darn"}
    assert say(kit, mina, "darn", id="a") == again
    mina.send("join", room="ops")
    release(kit)
    mina.frames()
    assert say(kit, mina, "damn", id="a") == {**again, "text": "darn"}


def test_a_duplicate_of_what_the_room_does_not_hold_any_more_has_its_place_alone() -> None:
    kit, mina = both(False, hooks=HOOKS)
    say(kit, mina, "damn", id="a")
    say(kit, mina, "later")
    kit.hub.rooms["dev"].log.shrink(0)
    assert say(kit, mina, "damn", id="a") == {"type": "ack", "id": "a", "duplicate": True}


def test_a_duplicate_of_one_of_several_that_were_kept_together() -> None:
    kit, _ = both(False)
    run = "".join(f"line {number}\n" for number in range(5))
    zoe = kit.member("Zoe")
    zoe.send(run)
    kit.settle()
    room = kit.hub.rooms["dev"]
    third = room.history(5)[2]
    assert room.log.message(third.seq, third.ts) == third
    assert room.log.message(third.seq, third.ts + 1) is None
    assert room.log.message(99, third.ts) is None


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("deleted", [False, True])
def test_what_was_not_heard_is_told_on_coming_back(echo: bool, renamed: bool, deleted: bool) -> None:
    kit, mina = both(False, hooks=HOOKS)
    shown = mina.resume()
    mina.send("message", text="damn", id="a")
    mina.send("message", text="plain", id="b")
    if renamed:
        mina.send("rename", to="Min")
    kit.settle()
    mina.cut("reset")
    if deleted:
        kit.hub.rooms["dev"].submit(Deletion("Zoe", 2))
    back = Speaker(kit, "Min" if renamed else "Mina", echo=echo, resume=shown)
    frames = back.frames()
    assert frames[0]["recovered"]
    first, second = ({key: frame[key] for key in frame if key not in ("ts", "type")} for frame in frames[1:3])
    texts = {"text": "darn"}, {"text": "" if deleted else "plain"}
    if echo:
        assert first == {"seq": 1, "id": "a", "name": "Mina", **texts[0]}
        assert second == {"seq": 2, "id": "b", "name": "Mina", **texts[1]}
    else:
        name = {"name": "Mina"} if renamed else {}
        assert first == {"seq": 1, "id": "a", **name, **texts[0]}
        assert second == {"seq": 2, "id": "b", **name, **(texts[1] if deleted else {})}


async def test_a_server_with_a_store_tells_all_that_was_kept_after_a_restart(tmp_path: Path) -> None:
    def kit(life: int) -> ChatKit:
        broker = {"broker": lambda clock: SQLiteBroker(tmp_path / "c.db", clock=clock)}
        return ChatKit(hooks=HOOKS, keys=f"{'k' * 20}{life}-", **broker)

    before = kit(1)
    async with before.running():
        mina = Speaker(before)
        await before.settled()
        mina.frames()
        mina.send("message", text="damn", id="a")
        await before.settled()
    after = kit(2)
    async with after.running():
        back = Speaker(after, resume=mina.resume())
        await after.settled()
        _, ack = back.frames()
        assert (ack["type"], ack["id"], ack["name"], ack["text"]) == ("ack", "a", "Mina", "darn")
        back.send("message", text="damn", id="a")
        await after.settled()
        duplicate = back.frame()
        assert (duplicate["duplicate"], duplicate["text"], "name" in duplicate) == (True, "darn", False)


# The client library


def test_the_library_believes_the_ack() -> None:
    it = live()
    one, two = it.ask("message", text="damn"), it.ask("message", text="plain")
    said(it)
    list(it.receive_data(line("ack", id="p-1", seq=1, ts=10, text="darn")))
    assert outcome(one) == Message(1, 10, "Mina", "darn")
    again(it, seq=1, ts=10, recovered=True, name="Min")
    said(it)
    list(it.receive_data(line("ack", id="p-2", seq=1, ts=10, name="Mina", duplicate=True)))
    assert outcome(two) == Message(1, 10, "Mina", "plain")


@pytest.mark.parametrize("echo", [False, True])
async def test_send_and_post_return_what_was_kept(echo: bool) -> None:
    chat = ChatAPI(on_message=polite)
    async with served(chat) as doors, dev(doors["text"], echo=echo) as mina:
        sent = [await mina.send(text) for text in ("damn", "be\u0007ll", "plain")]
        await mina.rename("Min")
        sent.append(await mina.send("later"))
        async with chat.join("Zoe", "dev", reads=False) as zoe:
            posted = await zoe.post("\u0007one\n\ntwo")
            assert posted is not None
            sent.append(posted)
        room = chat.room("dev")
        assert room is not None
        assert sent == room.history(10)
        assert [(message.name, message.text) for message in sent] == [
            ("Mina", "darn"),
            ("Mina", "bell"),
            ("Mina", "plain"),
            ("Min", "later"),
            ("Zoe", "one\ntwo"),
        ]


@needs_redis
async def test_over_redis_another_server_tells_all_that_was_kept() -> None:
    shake: dict[str, Any] = {"name": "Mina", "room": "dev", "protocol": "json"}
    message = {"type": "message", "text": "damn", "id": "a"}

    async def talk(address: Address, *said: dict[str, Any], frames: int) -> list[dict[str, Any]]:
        async with await anyio.connect_tcp(*address) as stream:
            lines = BufferedByteReceiveStream(stream)
            await stream.send(b"".join(json.dumps(one).encode() + b"\n" for one in said))
            return [json.loads(await lines.receive_until(b"\n", 100_000)) for _ in range(frames)]

    with RedisServer() as redis:
        chats = [ChatAPI(broker=RedisBroker(redis.url), on_message=polite) for _ in range(2)]
        async with served(chats[0]) as here, served(chats[1]) as there:
            welcome, ack = await talk(here["text"], shake, message, frames=2)
            assert (ack["type"], ack["text"], "name" in ack) == ("ack", "darn", False)
            resume = {field: welcome[field] for field in ("epoch", "seq", "ts", "session")}
            back, own, duplicate = await talk(there["text"], {**shake, "resume": resume}, message, frames=3)
            assert (back["recovered"], back["session"]) == (True, welcome["session"])
            assert own == {**ack, "name": "Mina"}
            assert duplicate == {**ack, "duplicate": True}
            async with dev(there["text"], name="Zoe") as zoe:
                sent = await zoe.send("damn")
            assert (sent.name, sent.text) == ("Zoe", "darn")
