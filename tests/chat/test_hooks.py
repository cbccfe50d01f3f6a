"""The program's hooks: who comes in, what is said, who is told; sync and async, and what a bad one costs."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from serving import served

import chatapi
from chatapi import ChatAPI, Client, Handshake, Joined, Left, Limits, Message, RefusalCode, Refused, Renamed
from chatapi.core.hooks import Hooks
from chatapi.testing import ChatKit, Proxy


def frames(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def only_members(handshake: Handshake) -> Handshake | None:
    if handshake.token != "secret":
        raise Refused(RefusalCode.UNAUTHORIZED, "who are you?")
    return handshake.model_copy(update={"name": f"{handshake.name}.", "room": "hall"})


@pytest.mark.parametrize("protocol", ["text", "json"])
def test_a_handshake_is_admitted_under_another_name_or_refused(protocol: str) -> None:
    kit = ChatKit(hooks=Hooks(admit=only_members))
    stranger = kit.member("Eve", protocol=protocol)
    assert frames(stranger.received()) == [{"type": "error", "code": "unauthorized", "detail": "who are you?"}]
    assert stranger.transport.ended
    kit.member("Mina", "dev", protocol=protocol, token="secret")
    assert [client.name for client in kit.hub.rooms["hall"].members] == ["Mina."]
    assert kit.hub.refusals == {"unauthorized": 1}


def test_the_telnet_door_asks_too() -> None:
    kit = ChatKit(hooks=Hooks(admit=only_members))
    peer = kit.connect(telnet=True)
    peer.send("Mina\r\n")
    assert "* unauthorized: who are you?" in peer.received()
    assert peer.transport.ended


def shout(client: Client, text: str) -> str | None:
    if "bad" in text:
        raise Refused(RefusalCode.FORBIDDEN, f"not here, {client.name}")
    return text.upper() if text.startswith("!") else None


def test_messages_are_passed_changed_or_refused() -> None:
    kit = ChatKit(Limits(rate=0), hooks=Hooks(on_message=shout))
    a, b, c = kit.member("a"), kit.member("b"), kit.member("c", protocol="json")
    c.received()
    a.send("one\n!two\nbad\n/list\nthree\n")
    assert b.lines() == ["a:one", "a:!TWO", "a:three"]
    assert a.lines() == ["* not here, a", "* in dev (3): a, b, c"]
    assert [frame["text"] for frame in frames(c.received())] == ["one", "!TWO", "three"]
    c.send('{"type":"message","text":"!hi","id":"1"}\n{"type":"message","text":"bad","id":"2"}\n')
    ack, error = frames(c.received())
    assert (ack["type"], ack["id"], ack["seq"]) == ("ack", "1", 4)
    assert error == {"type": "error", "code": "forbidden", "detail": "not here, c", "id": "2"}
    assert b.lines() == ["c:!HI"]


@pytest.mark.parametrize("left", ["", "\n", "\x1b"])
def test_a_member_is_told_if_a_hook_leaves_nothing_of_its_text(left: str) -> None:
    kit = ChatKit(hooks=Hooks(on_message=lambda client, text: left))
    text, telnet, json_ = kit.member("text"), kit.connect(telnet=True), kit.member("json", protocol="json")
    telnet.send("telnet\r\n/join dev\r\n")
    for peer in (text, telnet, json_):
        peer.received()
    text.send("hi\n")
    telnet.send("hi\r\n")
    json_.send('{"type":"message","text":"hi","id":"1"}\n')
    detail = "the server removed the whole text"
    assert text.lines() == [f"* {detail}"]
    assert telnet.lines() == [f"* {detail}"]
    assert frames(json_.received()) == [{"type": "error", "code": "forbidden", "detail": detail, "id": "1"}]


def test_hooks_are_told_of_members_that_join_and_leave() -> None:
    told: list[tuple[str, object]] = []
    kit = ChatKit(Limits(announce=0), hooks=Hooks(on_presence=lambda room, event: told.append((room, event))))
    a = kit.member("a")
    a.send("hi\n/nick b\n/join other\n/bye\n")
    a.received()
    assert told == [
        ("dev", Joined(0, "a")),
        ("dev", Renamed(1, "a", "b")),
        ("dev", Left(1, "b", "moved")),
        ("other", Joined(0, "b")),
        ("other", Left(0, "b", "bye")),
    ]


def test_a_hook_that_fails_costs_one_member_an_error(caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: object) -> Any:
        raise ZeroDivisionError

    kit = ChatKit(hooks=Hooks(on_message=broken, on_presence=broken))
    a, b = kit.member("a"), kit.member("b")
    a.send("hello\n/list\n")
    assert a.lines() == ["* the server failed to check this; try again later", "* in dev (2): a, b"]
    assert b.received() == ""
    assert "the hook on_message failed" in caplog.text
    assert "the hook on_presence failed" in caplog.text
    kit = ChatKit(hooks=Hooks(admit=broken))
    assert frames(kit.member("a").received())[0]["code"] == "server_error"


@pytest.mark.parametrize("end", ["lives", "leaves", "breaks"])
def test_while_a_hook_takes_its_time_one_session_waits_and_everybody_else_goes_on(end: str) -> None:
    async def ask(client: Client, text: str) -> str | None:
        return None

    kit = ChatKit(hooks=Hooks(on_message=lambda client, text: ask(client, text) if client.name == "slow" else None))
    slow, other, reader = kit.member("slow"), kit.member("other"), kit.member("reader")
    slow.send("one\n/list\ntwo\n")
    other.send("hello\n")
    assert reader.lines() == ["other:hello"]
    assert slow.lines() == ["other:hello"]
    assert not slow.transport.reading
    [(coroutine, decided)] = kit.asked
    kit.asked.clear()
    coroutine.close()  # type: ignore[attr-defined]
    if end == "leaves":
        client = slow.connection.client
        assert client is not None
        client.disconnect("kicked")
        decided.resolve(None)
        assert reader.received() == ""
        return
    if end == "breaks":
        slow.transport.reset()
    decided.resolve(None)
    assert reader.lines() == ["slow:one"]
    if end == "lives":
        assert slow.lines() == ["* in dev (3): other, reader, slow"]
    for coroutine, _ in kit.asked:
        coroutine.close()  # type: ignore[attr-defined]


@asynccontextmanager
async def talking(chat: ChatAPI, *names: str) -> AsyncIterator[list[Callable[..., Any]]]:
    async with served(chat) as doors:
        streams = []
        for name in names:
            stream = await anyio.connect_tcp(*doors["text"])
            await stream.send(json.dumps({"name": name, "room": "dev"}).encode() + b"\n/list\n")
            streams.append(stream)
        yield [*streams, *map(BufferedByteReceiveStream, streams)]
        for stream in streams:
            await stream.aclose()


@pytest.mark.anyio
async def test_async_hooks_run_beside_everything_else() -> None:
    go_on = anyio.Event()

    async def admit(handshake: Handshake) -> None:
        if handshake.name == "slow":
            await go_on.wait()

    async def on_message(client: Client, text: str) -> str:
        await anyio.lowlevel.checkpoint()
        return text + "!"

    chat = ChatAPI(admit=admit, on_message=on_message)
    async with talking(chat, "slow", "a", "b") as (slow, a, _, slow_lines, a_lines, b_lines):
        for lines in (a_lines, b_lines):
            assert (await lines.receive_until(b"\n", 100)).startswith(b"* in dev")
        await a.send(b"one\ntwo\n")
        assert [await b_lines.receive_until(b"\n", 100) for _ in range(2)] == [b"a:one!", b"a:two!"]
        go_on.set()
        assert await slow_lines.receive_until(b"\n", 100) == b"* in dev (3): a, b, slow"
        await slow.send(b"here\n")
        assert await b_lines.receive_until(b"\n", 100) == b"slow:here!"


@pytest.mark.anyio
async def test_a_hook_that_hangs_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)

    async def on_message(client: Client, text: str) -> None:
        await anyio.sleep_forever()

    chat = ChatAPI(Limits(hook_seconds=0.05), on_message=on_message)
    async with talking(chat, "a") as (a, lines):
        await lines.receive_until(b"\n", 100)
        await a.send(b"one\n/list\n")
        assert await lines.receive_until(b"\n", 100) == b"* the server failed to check this; try again later"
        assert await lines.receive_until(b"\n", 100) == b"* in dev (1): a"


@pytest.mark.anyio
async def test_bots_are_told_of_and_not_asked() -> None:
    told: list[str] = []

    def refuse(*_: object) -> Any:
        raise Refused(RefusalCode.FORBIDDEN, "no")

    chat = ChatAPI(admit=refuse, on_message=refuse, on_presence=lambda room, event: told.append(event.name))
    async with chat.join("bot", "dev") as bot, chat.join("other", "dev") as other:
        await bot.post("hello")
        event = await anext(other)
        assert isinstance(event, Message)
    assert told == ["bot", "other", "other", "bot"]


def test_a_name_that_a_hook_makes_up_is_checked(caplog: pytest.LogCaptureFixture) -> None:
    kit = ChatKit(hooks=Hooks(admit=lambda handshake: handshake.model_copy(update={"name": "no name\n"})))
    assert frames(kit.member("Mina").received())[0]["code"] == "server_error"
    assert "the hook admit failed" in caplog.text


def test_no_message_of_the_json_protocol_gets_past_the_hook() -> None:
    kit = ChatKit(hooks=Hooks(on_message=shout))
    a, b = kit.member("a", protocol="json"), kit.member("b")
    a.received()
    a.send("".join(f'{{"type":"message","text":"{text}"}}\n' for text in ("one", "bad", "!two", "three")))
    assert b.lines() == ["a:one", "a:!TWO", "a:three"]
    assert [frame.get("code") for frame in frames(a.received())] == [None, "forbidden", None, None]


@pytest.mark.parametrize("fields", [{}, {"protocol": "json"}], ids=["text", "json"])
def test_while_the_server_drains_the_hook_is_asked_about_each_message_too(fields: dict[str, str]) -> None:
    kit = ChatKit(hooks=Hooks(on_message=shout))
    a, b = kit.member("a", **fields), kit.member("b")
    kit.hub.draining = True
    texts = ("one", "bad", "!two", "three")
    a.send("".join(f'{{"type":"message","text":"{text}"}}\n' if fields else f"{text}\n" for text in texts))
    assert b.lines() == ["a:one", "a:!TWO", "a:three"]


@pytest.mark.anyio
async def test_draining_waits_for_what_a_hook_decides() -> None:
    asked, go_on = anyio.Event(), {"one": anyio.Event(), "two": anyio.Event()}

    async def on_message(client: Client, text: str) -> None:
        asked.set()
        await go_on[text].wait()

    chat = ChatAPI(on_message=on_message)
    async with talking(chat, "a", "b") as (a, _, a_lines, b_lines):
        for lines in (a_lines, b_lines):
            assert (await lines.receive_until(b"\n", 100)).startswith(b"* in dev")
        await a.send(b"one\ntwo\n")
        await asked.wait()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(chat.drain)
            while chat.listening:
                await anyio.lowlevel.checkpoint()
            for text in go_on:
                for _ in range(20):  # rounds in which it could say that it is draining
                    await anyio.lowlevel.checkpoint()
                go_on[text].set()
                assert await b_lines.receive_until(b"\n", 100) == f"a:{text}".encode()
            assert (await b_lines.receive_until(b"\n", 100)).startswith(b"* draining: ")
            tasks.cancel_scope.cancel()


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
    async with (
        served(chat) as doors,
        chatapi.connect(doors["text"], name="Mina", room="dev", reconnect=False) as room,
    ):
        with pytest.raises(chatapi.ChatError):
            async with chatapi.connect(doors["text"], name="Eve", room="dev"):
                pass
        assert (await room.send("still here")).seq == 1


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # trio has no futures that somebody cancels
async def test_a_hook_whose_work_is_cancelled_does_not_leave_its_member_stuck() -> None:
    async def on_message(_: chatapi.Client, text: str) -> None:
        if text == "one":
            future = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

    chat = ChatAPI(on_message=on_message)
    async with served(chat) as doors, chatapi.connect(doors["text"], name="Mina", room="dev") as room:
        with pytest.raises(Refused, match="server_error"):
            await room.send("one")
        assert (await room.send("two")).seq == 1


@pytest.mark.anyio
async def test_a_server_that_cannot_decide_for_once_is_asked_again() -> None:
    asked = 0

    def admit(_: chatapi.Handshake) -> None:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise RuntimeError("the database is away")

    chat = ChatAPI(admit=admit)
    async with served(chat) as doors:
        with anyio.fail_after(60):
            async with (
                Proxy(doors["text"]).open() as proxy,
                chatapi.connect(proxy.address, name="Mina", room="dev") as room,
            ):
                await room.send("one")
                proxy.cut_all()
                assert (await room.send("two")).seq == 2
        assert asked == 3


@pytest.mark.anyio
async def test_the_presence_hook_hears_of_bots_after_the_server_has_ended_too() -> None:
    told: list[object] = []
    chat = ChatAPI(on_presence=lambda room, event: told.append(event))
    async with served(chat):
        await chat.drain()
    async with chat.join("bot", "dev"):
        assert told == [Joined(0, "bot")]
    assert told == [Joined(0, "bot"), Left(0, "bot", "bye")]
