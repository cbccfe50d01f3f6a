"""What a second look at sessions, hooks and the client library found."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import anyio
import pytest
from speakers import Speaker

import chatapi
from chatapi import ChatAPI, Joined, Left, Limits, RefusalCode, Refused
from chatapi.client.requests import PendingRequests
from chatapi.core.hooks import Hooks
from chatapi.testing import ChatKit, LateBroker, Proxy


def test_who_ends_its_stream_during_a_pass_still_gets_what_was_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatapi.core.fanout.SLICE", 1)
    kit = ChatKit(Limits(announce=0))
    first, _, last = (Speaker(kit, name).opened() for name in ("a", "b", "c"))
    now = kit.clock.monotonic()
    first.send("message", text="hello")
    first.peer.transport.poll(now)
    work = kit.hub.settle()
    next(work)  # the pass has begun
    last.peer.end()
    last.peer.transport.poll(now)
    for _ in work:
        pass
    assert [frame["text"] for frame in last.frames()] == ["hello"]


def test_who_has_ended_its_stream_gets_nothing_that_is_said_later() -> None:
    kit = ChatKit(Limits(grace=20))
    slow, talker = Speaker(kit, "Mina", capacity=2000).opened(), Speaker(kit, "Zoe").opened()
    slow.frames()
    for number in range(30):
        talker.send("message", text=f"{number:300}")
    kit.settle()
    slow.peer.end()
    kit.settle()
    talker.send("message", text="later")
    kit.wait(6)  # its name is given up meanwhile
    texts = [frame["text"].strip() for frame in slow.frames()]
    assert texts == [str(number) for number in range(30)]


def test_an_interrupted_join_does_not_cost_a_later_message_its_ack() -> None:
    kit = ChatKit(Limits(rate=0))
    stalled = Speaker(kit, "Mina", capacity=4000).opened()
    talker = Speaker(kit, "Zoe").opened()
    stalled.frames()
    for _ in range(100):
        talker.send("message", text="x" * 500)
    kit.settle()
    stalled.send("join", room="other")  # waits, and never takes place: the connection is taken over
    kit.settle()
    mina = Speaker(kit, "Mina", resume=stalled.resume())
    mina.frames()
    said = {"type": "message", "text": "hi", "id": "1"}
    mina.peer.send("".join(json.dumps(frame) + "\n" for frame in (said, {"type": "join", "room": "other"})))
    assert [frame["type"] for frame in mina.frames()] == ["ack", "welcome"]


@pytest.mark.parametrize("protocol", ["json", "text"])
@pytest.mark.parametrize("late", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(("made", "code"), [("x" * 9000, "text_too_long"), (5, "server_error")], ids=["long", "wrong"])
def test_a_hook_that_makes_something_impossible_of_a_message_costs_an_error(
    protocol: str, late: bool, made: Any, code: str
) -> None:
    async def later(*_: object) -> Any:
        return made

    def at_once(*_: object) -> Any:
        return made

    kit = ChatKit(hooks=Hooks(on_message=later if late else at_once))
    member = kit.member("Mina", protocol=protocol)
    member.received()
    member.send('{"type": "message", "text": "hello", "id": "1"}\n')
    kit.settle()
    for awaitable, decided in kit.asked:
        cast("Any", awaitable).close()
        decided.resolve(made)
    [line] = member.lines()
    if protocol == "json":
        error = json.loads(line)
        assert (error["type"], error["code"], error["id"]) == ("error", code, "1")
    assert len(kit.hub.rooms["dev"]) == 1


def test_an_admission_that_is_no_handshake_is_a_refusal() -> None:
    kit = ChatKit(hooks=Hooks(admit=cast("Any", lambda _: True)))
    assert json.loads(kit.member("Mina").received())["code"] == "server_error"


@pytest.mark.anyio
async def test_a_refusal_that_cannot_be_shown_does_not_end_the_server() -> None:
    async def admit(handshake: chatapi.Handshake) -> None:
        if handshake.name == "Eve":
            raise Refused(RefusalCode.UNAUTHORIZED, cast("str", ValueError("not a str")))

    chat = ChatAPI(admit=admit)
    async with anyio.create_task_group() as tasks:
        [listening] = await tasks.start(chat.serve, "127.0.0.1:0")
        with anyio.fail_after(60):
            async with chatapi.connect(listening.address, name="Mina", room="dev", reconnect=False) as room:
                with pytest.raises(chatapi.ChatError):
                    async with chatapi.connect(listening.address, name="Eve", room="dev"):
                        pass
                assert (await room.send("still here")).seq == 1
        await chat.drain()


@pytest.mark.anyio
async def test_a_hook_whose_work_is_cancelled_does_not_leave_its_member_stuck(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("trio has no futures that somebody cancels")

    async def on_message(_: chatapi.Client, text: str) -> None:
        if text == "one":
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

    chat = ChatAPI(on_message=on_message)
    async with anyio.create_task_group() as tasks:
        [listening] = await tasks.start(chat.serve, "127.0.0.1:0")
        with anyio.fail_after(60):
            async with chatapi.connect(listening.address, name="Mina", room="dev") as room:
                with pytest.raises(Refused, match="server_error"):
                    await room.send("one")
                assert (await room.send("two")).seq == 1
        await chat.drain()


@pytest.mark.anyio
async def test_a_server_that_cannot_decide_for_once_is_asked_again() -> None:
    asked = 0

    def admit(_: chatapi.Handshake) -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise RuntimeError("the database is away")

    chat = ChatAPI(admit=admit)
    async with anyio.create_task_group() as tasks:
        [listening] = await tasks.start(chat.serve, "127.0.0.1:0")
        with anyio.fail_after(60):
            async with (
                Proxy(listening.address).open() as proxy,
                chatapi.connect(proxy.address, name="Mina", room="dev") as room,
            ):
                await room.send("one")
                proxy.cut_all()
                assert (await room.send("two")).seq == 2
        assert asked == 3
        await chat.drain()


@pytest.mark.anyio
async def test_the_presence_hook_hears_of_bots_after_the_server_has_ended_too() -> None:
    told: list[object] = []
    chat = ChatAPI(on_presence=lambda room, event: told.append(event))
    async with anyio.create_task_group() as tasks:
        await tasks.start(chat.serve, "127.0.0.1:0")
        await chat.drain()
    async with chat.join("bot", "dev"):
        assert told == [Joined(0, "bot")]
    assert told == [Joined(0, "bot"), Left(0, "bot", "bye")]


def test_of_two_joins_that_were_interrupted_the_last_one_decides() -> None:
    requests = PendingRequests("key", 10, lambda tries: 0)
    there, back = requests.add("join", {"room": "B"}), requests.add("join", {"room": "A"})
    requests.next_frames(0)
    requests.connection_lost()
    requests.settle_moves("Mina", "A", None)  # it came back to where it was
    assert requests.next_frames(1) == [there.frame]
    requests.settle(there.key)
    assert requests.next_frames(1) == [back.frame]


@pytest.mark.anyio
async def test_no_more_may_be_in_flight_than_the_server_remembers() -> None:
    with pytest.raises(ValueError, match="1,024"):
        async with chatapi.connect("localhost:1", name="Mina", room="dev", max_in_flight=1025):
            pass


def test_a_join_waits_for_the_acks_of_messages_that_got_their_places_after_it_was_asked_for() -> None:
    kit = ChatKit(broker=LateBroker)
    assert isinstance(kit.broker, LateBroker)
    mina = Speaker(kit, "Mina").opened()
    kit.broker.release()
    mina.frames()
    mina.peer.transport.capacity = 0
    mina.send("ping")
    kit.settle()  # the pong fills the send buffer
    mina.send("message", text="hello", id="1")
    mina.send("join", room="other")
    kit.settle()
    for _ in range(3):
        kit.broker.release()
        kit.settle()
    mina.peer.transport.capacity = 1 << 30
    for _ in range(3):
        kit.settle()
        kit.broker.release()
    assert [frame["type"] for frame in mina.frames()] == ["pong", "ack", "welcome"]
