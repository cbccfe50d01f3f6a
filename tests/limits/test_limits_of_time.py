"""How long something may take or is remembered, each at its limit and one beyond it, on every path.

Where the program's own event loop counts the time, it is trio's, whose clock a test turns by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.abc
import pytest
import trio.testing
from speakers import Speaker
from ways import enter_by_telnet, frame, frames, kit

from chatapi import ChatAPI, Limits
from chatapi.limits import TICK
from chatapi.testing import ChatKit, LateBroker, Peer, VirtualClock

# grace: how long a room waits for a member that lags, and a leaving member is waited for

LOG = Limits(rate=0, announce=0, log_entries=64, grace=5)


def lagging(protocol: str) -> tuple[ChatKit, Peer, Peer]:
    """Somebody sends until it is not read from any more, since somebody else lags."""
    chat = kit(LOG)
    mina, slow = chat.member("Mina"), chat.member("Slow", protocol=protocol)
    slow.received()
    slow.transport.capacity = 0
    while mina.transport.reading:
        mina.send("hi\n")
        chat.settle()
    return chat, mina, slow


def is_member(chat: ChatKit, name: str) -> bool:
    room = chat.hub.room("dev")
    return room is not None and room.member(name) is not None


PROTOCOLS = pytest.mark.parametrize("protocol", ["text", "json"])


@PROTOCOLS
def test_grace_at_the_limit(protocol: str) -> None:
    chat, mina, slow = lagging(protocol)
    chat.wait(5 - TICK)
    assert not mina.transport.reading
    assert is_member(chat, "Slow")
    slow.transport.capacity = 1 << 30
    chat.settle()
    assert mina.transport.reading
    chat.wait(1)
    assert is_member(chat, "Slow")


@PROTOCOLS
def test_grace_one_beyond(protocol: str) -> None:
    chat, mina, _ = lagging(protocol)
    chat.wait(5 + TICK)
    assert mina.transport.reading
    assert not is_member(chat, "Slow")
    assert chat.hub.disconnects == {"slow_consumer": 1}


@pytest.mark.parametrize("leave", ["/bye\n", ""])
@pytest.mark.parametrize(("seconds", "closed"), [(5 - TICK, False), (5 + TICK, True)])
def test_a_leaving_member_has_the_grace_to_take_what_is_on_its_way(leave: str, seconds: float, closed: bool) -> None:
    chat = kit(Limits(grace=5))
    mina, slow = chat.member("Mina"), chat.member("Slow", capacity=0)
    mina.send("hi\n")
    chat.settle()
    slow.send(leave)
    chat.settle()
    assert not is_member(chat, "Slow")
    chat.wait(seconds)
    assert slow.transport.closed == closed


# slow_penalty_seconds


@pytest.mark.parametrize("mark", ["name", "address"])
@PROTOCOLS
def test_slow_penalty_seconds_at_the_limit(mark: str, protocol: str) -> None:
    assert not is_waited_for_again(mark, protocol, 60 - TICK)


@pytest.mark.parametrize("mark", ["name", "address"])
@PROTOCOLS
def test_slow_penalty_seconds_one_beyond(mark: str, protocol: str) -> None:
    assert is_waited_for_again(mark, protocol, 60 + TICK)


def is_waited_for_again(mark: str, protocol: str, seconds: float) -> bool:
    """Whether a room waits for somebody that comes so long after it was disconnected for being slow."""
    chat = kit(LOG.model_copy(update={"slow_penalty_seconds": 60}))
    mina = chat.member("Mina")

    def lag(name: str, address: str) -> Peer:
        slow = chat.member(name, protocol=protocol, address=address)
        slow.received()
        slow.transport.capacity = 0
        return slow

    lag("Slow", "10.9.9.9:1")
    while is_member(chat, "Slow"):
        mina.send("hi\n")
        chat.settle()
        if not mina.transport.reading:
            chat.wait(TICK)
    chat.wait(seconds)
    name = "Slow" if mark == "name" else "Other"
    lag(name, "10.9.9.9:2" if mark == "address" else "10.8.8.8:1")
    for _ in range(50):  # more than half of the log
        mina.send("hi\n")
        chat.settle()
    return not mina.transport.reading


# hook_seconds, drain: the program's event loop counts these


def with_trio(main: Callable[[trio.testing.MockClock], Coroutine[Any, Any, None]]) -> None:
    """Run it on trio, with a clock that stands still until it is turned."""
    clock = trio.testing.MockClock()

    async def within() -> None:
        await main(clock)

    anyio.run(within, backend="trio", backend_options={"clock": clock})


class Served:
    """A chat that is served, and a way to connect to it."""

    def __init__(self, chat: ChatAPI, tasks: anyio.abc.TaskGroup) -> None:
        self.chat, self.tasks = chat, tasks

    async def begin(self) -> None:
        [(_, self._address)] = await self.tasks.start(self.chat.serve, "127.0.0.1:0")

    async def open(self, *sent: str, **fields: Any) -> anyio.abc.SocketStream:
        link = await anyio.connect_tcp(self._address.host, self._address.port)
        await link.send((json.dumps({"room": "dev", **fields}) + "\n" + "".join(sent)).encode())
        return link


class LoopClock(VirtualClock):
    """The event loop's own time, which is trio's `MockClock` here."""

    def monotonic(self) -> float:
        return anyio.current_time()


async def pass_time(clock: trio.testing.MockClock, seconds: float) -> None:
    """Let time pass while the server runs: one that stands still does not count it."""
    await anyio.wait_all_tasks_blocked()
    for _ in range(round(seconds / TICK)):
        clock.jump(TICK)
        await anyio.wait_all_tasks_blocked()


async def rest(link: anyio.abc.SocketStream) -> str:
    """Everything up to the end."""
    data = b""
    async with link:
        async for received in link:
            data += received
    return data.decode()


async def line(link: anyio.abc.SocketStream) -> str:
    """One line, which comes by itself."""
    data = b""
    while not data.endswith(b"\n"):
        data += await link.receive()
    return data.decode()


def answered_after(hook: str, seconds: float) -> str:
    """What a member is told where a hook of the program takes so much time."""
    told: list[str] = []

    async def main(clock: trio.testing.MockClock) -> None:
        asked, go_on = anyio.Event(), anyio.Event()

        async def decide(*_: object) -> None:
            asked.set()
            await go_on.wait()

        chat = ChatAPI(Limits(hook_seconds=5), clock=LoopClock(), **{hook: decide})  # type: ignore[arg-type]
        async with anyio.create_task_group() as tasks:
            served = Served(chat, tasks)
            await served.begin()
            link = await served.open("hi\n", name="Mina", echo=True)
            await asked.wait()
            await pass_time(clock, seconds)
            go_on.set()
            told.append(await line(link))
            await link.aclose()
            tasks.cancel_scope.cancel()

    with_trio(main)
    return told[0]


HOOKS = pytest.mark.parametrize("hook", ["admit", "on_message"])


@HOOKS
def test_hook_seconds_at_the_limit(hook: str) -> None:
    assert answered_after(hook, 5 - TICK) == "Mina:hi\n"


@HOOKS
def test_hook_seconds_one_beyond(hook: str) -> None:
    told = answered_after(hook, 5 + 2 * TICK)
    assert told != "Mina:hi\n"
    assert told.startswith('{"type":"error","code":"server_error"' if hook == "admit" else "* ")


def drained_after(seconds: float, protocol: str) -> bool:
    """Whether a chat has ended so long after it was told to, although a member does not close its side."""
    found: list[bool] = []

    async def main(clock: trio.testing.MockClock) -> None:
        chat = ChatAPI(Limits(drain=10, linger=3600, grace=3600), clock=LoopClock())
        async with anyio.create_task_group() as tasks:
            served = Served(chat, tasks)
            await served.begin()
            link = await served.open("/list\n", name="Mina", protocol=protocol)
            await line(link)
            tasks.start_soon(chat.drain)
            await line(link)  # it is told
            await anyio.wait_all_tasks_blocked()
            await pass_time(clock, seconds)
            found.append(chat.connections == 0)
            await link.aclose()
            await chat.stopped()

    with_trio(main)
    return found[0]


@PROTOCOLS
def test_drain_at_the_limit(protocol: str) -> None:
    assert not drained_after(10 - TICK, protocol)


@PROTOCOLS
def test_drain_one_beyond(protocol: str) -> None:
    assert drained_after(10 + 2 * TICK, protocol)


@pytest.mark.parametrize("seconds", [0, 5 - TICK, 5 + 2 * TICK])
def test_a_drain_waits_for_what_is_on_its_way_to_the_store_for_half_of_its_time(seconds: float) -> None:
    """Those who said it are told what became of it before they are told `draining`."""
    told: list[str] = []

    async def main(clock: trio.testing.MockClock) -> None:
        broker = LateBroker(VirtualClock())
        chat = ChatAPI(Limits(drain=10), broker=broker, clock=LoopClock())
        async with anyio.create_task_group() as tasks:
            served = Served(chat, tasks)
            await served.begin()
            link = await served.open(name="Mina", protocol="json")
            await line(link)
            broker.release()
            await link.send((frame("message", text="hi", id="1") + frame("ping")).encode())
            assert "pong" in await line(link)  # so the message is with the broker
            tasks.start_soon(chat.drain)
            for _ in range(3):
                await anyio.wait_all_tasks_blocked()
            await pass_time(clock, seconds)
            broker.release()
            told.append(await rest(link))
            await chat.stopped()

    with_trio(main)
    kinds = [json.loads(one)["type"] for one in told[0].splitlines()]
    assert kinds == (["ack", "bye"] if seconds < 5 else ["bye"])


# reserve, remember


@pytest.mark.parametrize("how", ["reset", "end"])
def test_reserve_at_the_limit(how: str) -> None:
    chat = kit(Limits(reserve=5))
    mina = Speaker(chat).opened()
    mina.cut(how)
    chat.wait(5 - TICK)
    (refusal,) = frames(chat.member("Mina"))
    assert (refusal["code"], refusal["after"]) == ("name_taken", TICK)
    back = Speaker(chat, resume=mina.resume())
    assert back.frame()["recovered"] is True


@pytest.mark.parametrize("how", ["reset", "end"])
def test_reserve_one_beyond(how: str) -> None:
    chat = kit(Limits(reserve=5))
    zoe = chat.member("Zoe", notices=True)
    Speaker(chat).opened().cut(how)
    assert zoe.lines() == ["* Mina joined"]
    chat.wait(5 + TICK)
    assert zoe.lines() == ["* Mina left (connection_lost)"]
    assert chat.member("Mina").received() == ""


def is_remembered(kind: str, how: str, seconds: float) -> bool:
    """Whether an id is known so long after something was said under it, or after its member has left."""
    chat = kit(Limits(remember=60, reserve=5))
    chat.member("Zoe")
    mina = Speaker(chat).opened()
    said = {"text": "hi", "id": "1"} | ({"to": "Zoe"} if kind == "whisper" else {})
    mina.send(kind, **said)
    mina.frame()
    if how == "it has left":
        mina.cut("reset")
        chat.wait(seconds)
        mina = Speaker(chat, resume=mina.resume())
        mina.frames()
    else:
        chat.wait(seconds)
    mina.send(kind, **said)
    return "duplicate" in mina.frame()


@pytest.mark.parametrize("kind", ["message", "whisper"])
@pytest.mark.parametrize("how", ["it is there", "it has left"])
def test_remember_at_the_limit(kind: str, how: str) -> None:
    assert is_remembered(kind, how, 60 - TICK)


@pytest.mark.parametrize("kind", ["message", "whisper"])
@pytest.mark.parametrize("how", ["it is there", "it has left"])
def test_remember_one_beyond(kind: str, how: str) -> None:
    assert not is_remembered(kind, how, 60 + TICK)


def test_a_session_is_remembered_from_when_its_member_has_left() -> None:
    for seconds, found in ((5 + 60 - TICK, True), (5 + 60 + 2 * TICK, False)):
        chat = kit(Limits(remember=60, reserve=5))
        mina = Speaker(chat).opened()
        mina.cut("reset")
        chat.wait(seconds)
        assert (len(chat.hub.sessions) == 1) is found


# idle

IDLE = Limits(idle=5, rate=0, announce=0, log_entries=64, grace=3600, room_wait=3600)


def member_by(way: str, chat: ChatKit, name: str = "Mina") -> Peer:
    peer = enter_by_telnet(chat, name) if way == "telnet" else chat.member(name, protocol=way)
    peer.received()
    return peer


WAYS = pytest.mark.parametrize("way", ["text", "json", "telnet"])


@WAYS
def test_idle_at_the_limit(way: str) -> None:
    chat = kit(IDLE)
    mina = member_by(way, chat)
    for _ in range(3):
        chat.wait(5 - TICK)
        assert not mina.transport.ended
        mina.send("\n")  # any byte will do
        chat.settle()


@WAYS
def test_idle_one_beyond(way: str) -> None:
    chat = kit(IDLE)
    mina = member_by(way, chat)
    chat.wait(5 + TICK)
    assert "idle_timeout" in mina.received()
    assert mina.transport.ended


def hi(way: str) -> str:
    return frame("message", text="hi") if way == "json" else "hi\n"


@WAYS
def test_a_member_that_waits_for_a_slow_one_is_not_idle(way: str) -> None:
    """The server does not read from it: it cannot know whether more was sent."""
    chat = kit(IDLE)
    mina, slow = member_by(way, chat), chat.member("Slow", capacity=0)
    while mina.transport.reading:
        mina.send(hi(way))
        chat.settle()
    mina.send(hi(way) * 3)
    for _ in range(20):
        slow.send("\n")
        chat.wait(1)
    assert not mina.transport.ended
    assert mina.connection.client is not None
    slow.transport.capacity = 1 << 30
    chat.wait(TICK)
    assert not mina.transport.ended
    assert mina.transport.reading


@WAYS
def test_a_member_whose_rate_holds_it_back_is_not_idle(way: str) -> None:
    chat = kit(IDLE.model_copy(update={"rate": 1, "burst": 1}))
    mina = member_by(way, chat)
    for _ in range(30):
        mina.send(hi(way))
        chat.settle()
    chat.wait(20)
    assert not mina.transport.ended


# linger


def closing(how: str) -> tuple[ChatKit, Peer]:
    """A connection that the server ends, while the other side says nothing more."""
    chat = kit(Limits(linger=5))
    if how == "a refusal":
        peer = chat.member("a:b")
    elif how == "a refusal by telnet":
        chat.hub.draining = True
        peer = enter_by_telnet(chat, "Mina")
    else:
        peer = chat.member("Mina", protocol="json" if how == "a bye" else "text")
        if how == "/bye":
            peer.send("/bye\n")
        elif how == "a bye":
            peer.send(frame("bye"))
        else:
            assert peer.connection.client is not None
            peer.connection.client.disconnect("kicked")
    chat.settle()
    assert peer.transport.ended
    return chat, peer


ENDS = pytest.mark.parametrize("how", ["a refusal", "a refusal by telnet", "/bye", "a bye", "the program"])


@ENDS
def test_linger_at_the_limit(how: str) -> None:
    chat, peer = closing(how)
    chat.wait(5 - TICK)
    assert not peer.transport.closed
    peer.send("and another thing\n")  # it is read, so that closing makes no reset
    peer.end()
    chat.settle()
    assert peer.transport.closed
    assert not peer.transport.discarded


@ENDS
def test_linger_one_beyond(how: str) -> None:
    chat, peer = closing(how)
    chat.wait(5 + TICK)
    assert peer.transport.closed
    assert not chat.hub.connections
