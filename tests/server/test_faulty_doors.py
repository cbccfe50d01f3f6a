"""A program's own door whose style or protocol object raises: only its own members end, and everybody else goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from serving import served

from chatapi import ChatAPI, Limits, RefusalCode, Refused
from chatapi.doors import ConnectionProtocol, TextStyle, handshake_of
from chatapi.limits import CHUNK_BYTES
from chatapi.testing import ChatKit, LateBroker, Peer

ERROR = "an error inside the server"


class Commands(ConnectionProtocol):
    """Joins `dev` under the name in the first line; then each line is a command."""

    def next_step(self, most: int) -> str | None:
        line = self.received.take_line(512)
        return None if line is None else line.decode()

    def handle(self, step: str) -> None:
        client = self.connection.client
        if client is None:
            fields = {"name": step, "room": "dev", "echo": True, "history": 10}
            self.connection.admit(handshake_of(fields, self.connection.hub.naming), lambda handshake: self)
        elif step == "bye":
            self.connection.bye()
        elif step == "refused":
            raise Refused(RefusalCode.FORBIDDEN, "not you")
        else:
            client.post(step)


def door_with(method: str, fails: Callable[..., Any] | None = None) -> type[ConnectionProtocol]:
    """Return a door whose style fails in this method, once `armed` is set."""

    class Style(TextStyle):
        armed = False

    intact = getattr(TextStyle, method)

    def fail(self: Any, *given: Any) -> Any:
        if Style.armed:
            if fails is not None:
                return fails()
            raise ZeroDivisionError(method)
        return intact.fget(self) if isinstance(intact, property) else intact(self, *given)

    setattr(Style, method, property(fail) if method == "numbered" else fail)
    return type("Faulty", (Commands,), {"style": Style(notices=True)})


def arm(door: type[ConnectionProtocol]) -> None:
    type(door.style).armed = True  # type: ignore[attr-defined]


def join(kit: ChatKit, door: type[ConnectionProtocol], name: str) -> Peer:
    peer = kit.connect(door=door)
    peer.send(f"{name}\n")
    peer.received()
    return peer


LARGE = ("x" * 8000 + "\n") * (CHUNK_BYTES // 4000)
"""Lines that are more than a chunk, so that a fan-out pass measures them."""


def says(text: str) -> Callable[[ChatKit, Peer, Peer], None]:
    return lambda kit, mina, faulty: mina.send(text)


def sends(text: str) -> Callable[[ChatKit, Peer, Peer], None]:
    return lambda kit, mina, faulty: faulty.send(text)


def is_kicked(kit: ChatKit, mina: Peer, faulty: Peer) -> None:
    assert faulty.connection.client is not None
    faulty.connection.client.disconnect("kicked")


def is_idle(kit: ChatKit, mina: Peer, faulty: Peer) -> None:
    for _ in range(7):
        kit.wait(10)
        mina.send("still here\n")


FAULTS = [
    ("entry", says("hello\n"), 2),
    ("entry", says(LARGE), 2),
    ("entry", sends("hello\n"), 2),
    ("own", sends("hello\n"), 1),
    ("size", says(LARGE), 2),
    ("whisper", says("@Faulty psst\n"), 1),
]


@pytest.mark.parametrize(("method", "event", "ended"), FAULTS)
def test_a_style_that_fails_ends_only_its_own_members(
    method: str, event: Callable[[ChatKit, Peer, Peer], None], ended: int, caplog: pytest.LogCaptureFixture
) -> None:
    kit = ChatKit(Limits(rate=0))
    door = door_with(method)
    mina, zoe = kit.member("Mina"), kit.member("Zoe")
    faulty, second = join(kit, door, "Faulty"), join(kit, door, "Second")
    faulty.received()
    arm(door)
    event(kit, mina, faulty)
    kit.settle()
    mina.send("after it\n")
    assert zoe.lines()[-1] == "Mina:after it"
    assert faulty.lines() == [f"* server_error: {ERROR}"]
    assert kit.hub.disconnects == {"server_error": ended}
    assert len(caplog.records) == ended
    assert all(ERROR in record.getMessage() for record in caplog.records)
    left = ["Mina", "Zoe"] if ended == 2 else ["Mina", "Second", "Zoe"]
    assert sorted(client.name for client in kit.hub.rooms["dev"].members) == left
    assert second.transport.ended is (ended == 2)
    kit.wait(30)
    assert faulty.transport.closed


@pytest.mark.parametrize("wrong", [None, "text"], ids=repr)
@pytest.mark.parametrize(
    ("method", "event"), [("entry", says("hello\n")), ("own", sends("hello\n")), ("size", says(LARGE)),
                          ("whisper", says("@Faulty psst\n"))],
)  # fmt: skip
def test_a_style_that_returns_something_else_than_bytes_ends_only_its_own_members(
    method: str, event: Callable[[ChatKit, Peer, Peer], None], wrong: Any
) -> None:
    kit = ChatKit(Limits(rate=0))
    door = door_with(method, lambda: wrong)
    mina, zoe, faulty = kit.member("Mina"), kit.member("Zoe"), join(kit, door, "Faulty")
    arm(door)
    event(kit, mina, faulty)
    kit.settle()
    mina.send("after it\n")
    assert zoe.lines()[-1] == "Mina:after it"
    if wrong is None and method == "whisper":
        return  # nothing is sent then
    kit.wait(30)
    assert faulty.transport.closed


@pytest.mark.parametrize("event", [sends("bye\n"), is_kicked, is_idle])
def test_a_style_without_last_words_ends_the_connection_without_them(
    event: Callable[[ChatKit, Peer, Peer], None], caplog: pytest.LogCaptureFixture
) -> None:
    kit = ChatKit(Limits(idle=30))
    door = door_with("disconnect")
    mina, zoe, faulty = kit.member("Mina"), kit.member("Zoe"), join(kit, door, "Faulty")
    arm(door)
    event(kit, mina, faulty)
    assert "server_error" not in faulty.received()
    assert faulty.transport.ended
    zoe.received()
    assert len(caplog.records) == 1
    assert ERROR in caplog.text
    assert "server_error" not in kit.hub.disconnects
    assert all(client.name != "Faulty" for client in kit.hub.rooms["dev"].members)


def test_a_style_that_cannot_say_that_the_server_is_unavailable_ends_only_its_own_members() -> None:
    kit = ChatKit(broker=LateBroker)
    assert isinstance(kit.broker, LateBroker)
    door = door_with("notice")
    zoe, faulty = kit.member("Zoe"), join(kit, door, "Faulty")
    arm(door)
    kit.broker.failing = Refused(RefusalCode.UNAVAILABLE, "the disk is full")
    faulty.send("lost\n")
    kit.settle()
    kit.broker.release()
    assert kit.hub.disconnects == {"server_error": 1}
    kit.broker.failing = None
    zoe.received()
    assert faulty.lines() == [f"* server_error: {ERROR}"]


def test_a_client_that_is_refused_by_a_style_that_fails_does_not_hold_its_connection() -> None:
    kit = ChatKit(Limits(handshake_seconds=3))
    door = door_with("notice")
    silent, named = kit.connect(door=door), kit.connect(door=door)
    arm(door)
    named.connection.disconnect("draining")
    kit.wait(4)
    for peer in (silent, named):
        assert peer.lines() == [f"* server_error: {ERROR}"]
    kit.wait(30)
    assert not kit.hub.connections
    assert kit.hub.refusals == {"server_error": 2}
    assert not kit.hub.disconnects, "nobody was a member"


@pytest.mark.parametrize("method", ["numbered", "__hash__"])
def test_a_member_that_cannot_enter_because_of_its_style_leaves_no_name_behind(method: str) -> None:
    kit = ChatKit()
    door = door_with("numbered")
    if method == "__hash__":
        type(door.style).__hash__ = None  # type: ignore[assignment]
    kit.member("Mina").send("hello\n")
    kit.settle()
    arm(door)
    faulty = kit.connect(door=door)
    faulty.send("Faulty\n")
    with pytest.raises((ZeroDivisionError, TypeError)):
        kit.settle()
    faulty.connection.abort()
    assert [client.name for client in kit.hub.rooms["dev"].members] == ["Mina"]


def test_a_door_without_a_time_for_the_opening_leaves_no_connection_behind() -> None:
    class Timeless(Commands):
        style = TextStyle()

        def opening_seconds(self, limits: Limits) -> float:
            raise ZeroDivisionError

    kit = ChatKit()
    with pytest.raises(ZeroDivisionError):
        kit.connect(door=Timeless)
    assert not kit.hub.connections
    assert len(kit.hub.origins) == 0


# Over sockets


async def lines_until(stream: Any, last: bytes) -> bytes:
    told = b""
    while not told.endswith(last):
        told += await stream.receive()
    return told


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("method", "event"),
    [("entry", "says"), ("own", "sends"), ("size", "says much"), ("whisper", "whispers"), ("disconnect", "drains"),
     ("disconnect", "kicks"), ("notice", "refused")],
)  # fmt: skip
async def test_over_sockets_the_others_go_on_and_get_every_line(
    method: str, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    chat, door = ChatAPI(Limits(rate=0, linger=0.1)), door_with(method)
    doors = {"faulty": ("127.0.0.1:0", door)}
    async with (
        served(chat, doors=doors) as at,
        await anyio.connect_tcp(*at["text"]) as mina,
        await anyio.connect_tcp(*at["text"]) as zoe,
        await anyio.connect_tcp(*at["faulty"]) as faulty,
    ):
        await zoe.send(b'{"name": "Zoe", "room": "dev", "echo": true}\nhere\n')
        await lines_until(zoe, b"here\n")
        await faulty.send(b"Faulty\nhello\n")
        await lines_until(zoe, b"Faulty:hello\n")
        await lines_until(faulty, b"Faulty:hello\n")
        arm(door)
        sent = {"says": "hello\n", "says much": LARGE, "whispers": "@Faulty psst\n"}.get(event, "")
        await mina.send(f'{{"name": "Mina", "room": "dev"}}\n{sent}'.encode())
        if event in ("sends", "refused"):
            await faulty.send(b"hi\n" if event == "sends" else b"refused\n")
        elif event == "kicks":
            [member] = [client for client in chat.rooms[0].members if client.name == "Faulty"]
            member.disconnect("kicked")
        if event == "drains":
            await chat.drain()
            await lines_until(zoe, b"shutting down\n")
        else:
            expected = {"says": 1, "says much": LARGE.count("\n")}.get(event, 0)
            last = b"".join([data async for data in faulty])
            if method != "disconnect":
                assert last.endswith(b"* server_error: an error inside the server\n")
            await mina.send(b"after it\n")
            told = await lines_until(zoe, b"Mina:after it\n")
            assert told.count(b"Mina:") == expected + 1
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1
