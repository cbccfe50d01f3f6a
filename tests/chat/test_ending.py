"""How a chat ends: drained at any moment, cancelled or failed, and what the program and its hooks are told."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

import gotcpchat
from chatapi import (
    AddressError,
    ChatAPI,
    Joined,
    Left,
    Limits,
    Listening,
    StoreError,
)
from chatapi.addresses import Address
from chatapi.bots import Bot
from chatapi.brokers.memory import InProcessBroker
from chatapi.clock import SystemClock

HERE = "127.0.0.1:0"


PATIENCE = 30


class Breakable(InProcessBroker):
    """A broker that starts when the test says, and fails when the test says."""

    def __init__(self, *, starts: bool = True) -> None:
        super().__init__(SystemClock())
        self.begun, self.go_on, self.fail = anyio.Event(), anyio.Event(), anyio.Event()
        if starts:
            self.go_on.set()

    async def run(self, started: Callable[[], None]) -> None:
        self.begun.set()
        await self.go_on.wait()
        started()
        await self.fail.wait()
        raise StoreError("the disk is gone")


class Presence:
    """What the hook was told; an async one has a checkpoint before it notes anything."""

    def __init__(self, *, is_async: bool) -> None:
        self.told: list[Joined | Left | Any] = []
        self.hook: Callable[[str, Any], Awaitable[None] | None] = self._note_later if is_async else self._note

    def _note(self, room: str, event: Any) -> None:
        self.told.append(event)

    async def _note_later(self, room: str, event: Any) -> None:
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        self._note(room, event)

    @property
    def left(self) -> dict[str, str]:
        return {event.name: event.reason for event in self.told if isinstance(event, Left)}


CONNECTED = ("text", "telnet", "json", "away")


async def everybody(stack: AsyncExitStack, chat: ChatAPI, bot: Bot) -> None:
    """A member of each kind, in the room of the bot."""
    where = {listening.door: listening.address for listening in chat.listening}
    handshake = json.dumps
    for name, door, first in (
        ("text", "text", handshake({"name": "text", "room": "dev"})),
        ("telnet", "telnet", "telnet"),
        ("json", "text", handshake({"name": "json", "room": "dev", "protocol": "json"})),
        ("away", "text", handshake({"name": "away", "room": "dev", "protocol": "json"})),
    ):
        stream = await anyio.connect_tcp(*where[door])
        stack.push_async_callback(anyio.aclose_forcefully, stream)
        await stream.send(f"{first}\r\n".encode())
        while True:
            event = await anext(bot)
            if isinstance(event, Joined):
                assert event.name == name
                break
    await stream.aclose()
    away = chat._hub.rooms["dev"].member("away")
    assert away is not None
    while not away.away:
        await anyio.lowlevel.checkpoint()


# What on_presence is told


@pytest.mark.anyio
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("ending", "code", "bot_code"),
    [
        ("cancelled", "draining", None),
        ("cancelled in a running chat", "draining", None),
        ("drained", "draining", "draining"),
        ("drained too late", "draining", "draining"),
        ("drain cancelled", "draining", "draining"),
        ("broker failed", "server_error", None),
    ],
)
async def test_every_member_that_the_end_cuts_reaches_on_presence(
    ending: str, code: str, bot_code: str | None, is_async: bool
) -> None:
    presence, broker = Presence(is_async=is_async), Breakable()
    limits = Limits(drain=0) if ending == "drained too late" else Limits(linger=0.1)
    chat = ChatAPI(limits, broker=broker, on_presence=presence.hook)
    scope = anyio.CancelScope()
    failed: Exception | None = None

    async def serve(*, task_status: anyio.abc.TaskStatus[list[Listening]]) -> None:
        nonlocal failed
        try:
            with scope:
                await chat.serve(HERE, telnet=HERE, lobby="dev", task_status=task_status)
        except StoreError as error:
            failed = error
        if not (is_async and ending == "cancelled in a running chat"):  # there the block that runs it waits for them
            assert {name: presence.left.get(name) for name in CONNECTED} == dict.fromkeys(CONNECTED, code)

    with anyio.fail_after(PATIENCE):
        async with AsyncExitStack() as stack:
            if ending == "cancelled in a running chat":
                await stack.enter_async_context(chat)
            async with chat.join("bot", "dev") as bot, anyio.create_task_group() as tasks:
                await tasks.start(serve)
                await everybody(stack, chat, bot)
                if ending in ("drained", "drained too late"):
                    await chat.drain()
                elif ending == "drain cancelled":
                    with anyio.CancelScope() as drain:
                        drain.cancel()
                        await chat.drain()
                elif ending == "broker failed":
                    broker.fail.set()
                else:
                    scope.cancel()
                await chat.stopped()
                assert presence.left.get("bot") == bot_code
                assert (bot.room is None) is (bot_code is not None)
    assert {name: presence.left.get(name) for name in CONNECTED} == dict.fromkeys(CONNECTED, code)
    assert [event.name for event in presence.told if isinstance(event, Left)].count("json") == 1
    assert isinstance(failed, StoreError) is (ending == "broker failed")
    ended = {code: 4} | ({"bye": 1} if bot_code is None else {code: 5})
    assert chat.disconnects == ended


@pytest.mark.anyio
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("cancelled", [False, True], ids=["ended", "cancelled"])
async def test_bots_of_a_chat_that_is_not_served_reach_on_presence(is_async: bool, cancelled: bool) -> None:
    presence = Presence(is_async=is_async)
    chat = ChatAPI(on_presence=presence.hook)
    with anyio.fail_after(PATIENCE), anyio.CancelScope() as scope:
        async with chat, chat.join("bot", "dev"):
            if cancelled:
                scope.cancel()
                await anyio.lowlevel.checkpoint()
    assert {*map(type, presence.told)} == {Joined, Left}  # async hooks run side by side
    assert presence.left == {"bot": "bye"}


@pytest.mark.anyio
async def test_the_end_waits_for_a_hook_that_hangs_no_longer_than_its_limit(caplog: pytest.LogCaptureFixture) -> None:
    async def hang(room: str, event: object) -> None:
        await anyio.sleep_forever()

    chat = ChatAPI(Limits(hook_seconds=0.01), on_presence=hang)
    with anyio.fail_after(PATIENCE):
        async with chat, chat.join("bot", "dev"):
            pass
    assert caplog.text.count("the hook on_presence failed") == 2


@pytest.mark.anyio
async def test_a_member_that_a_hook_removes_at_the_end_reaches_the_hook_too() -> None:
    told: list[str] = []

    def on_presence(room: str, event: object) -> None:
        if isinstance(event, Left):
            told.append(f"{event.name} {event.reason}")
            if event.name == "text":
                other.client.disconnect("kicked")

    chat = ChatAPI(on_presence=on_presence)
    with anyio.fail_after(PATIENCE):
        async with chat.join("other", "lab") as other, chat.join("bot", "dev") as bot, AsyncExitStack() as stack:
            async with anyio.create_task_group() as tasks:
                await tasks.start(partial(chat.serve, HERE, telnet=HERE, lobby="dev"))
                await everybody(stack, chat, bot)
                tasks.cancel_scope.cancel()
            assert "other kicked" in told


# Draining at any moment


@asynccontextmanager
async def served(chat: ChatAPI, **options: Any) -> AsyncIterator[anyio.abc.TaskGroup]:
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            await tasks.start(partial(chat.serve, HERE, **options))
            yield tasks


@pytest.mark.anyio
async def test_a_drain_before_serve_has_no_effect() -> None:
    chat = ChatAPI()
    await chat.drain()
    async with served(chat):
        assert chat.listening
        await chat.drain()
    assert chat.listening == []


@pytest.mark.anyio
@pytest.mark.parametrize("times", [1, 2])
async def test_a_drain_while_the_broker_starts_ends_serve_before_it_listens(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatapi.chat.bind", lambda *_: pytest.fail("it listens"))
    broker = Breakable(starts=False)
    chat = ChatAPI(broker=broker)
    with anyio.fail_after(PATIENCE):
        async with chat.join("bot", "dev") as bot, anyio.create_task_group() as tasks:

            async def drain() -> None:
                await broker.begun.wait()
                for _ in range(times):
                    await chat.drain()

            tasks.start_soon(drain)
            assert await tasks.start(chat.serve, HERE) == []
            await chat.stopped()
            assert [event async for event in bot] == []  # it was told, and its task can end
    assert chat.disconnects == {"draining": 1}
    broker.go_on.set()
    monkeypatch.undo()
    async with served(chat):  # it can be served again
        await chat.drain()


@pytest.mark.anyio
async def test_a_drain_when_the_broker_has_just_started_ends_serve_before_it_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class JustStarted(InProcessBroker):
        async def run(self, started: Callable[[], None]) -> None:
            started()
            await chat.drain()

    monkeypatch.setattr("chatapi.chat.bind", lambda *_: pytest.fail("it listens"))
    chat = ChatAPI(broker=JustStarted(SystemClock()))
    with anyio.fail_after(PATIENCE):
        await chat.serve(HERE)


@pytest.mark.anyio
async def test_a_drain_while_it_binds_ends_serve_in_good_order(monkeypatch: pytest.MonkeyPatch) -> None:
    from chatapi.chat import bind

    chat = ChatAPI()
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:

            def bind_and_drain(address: Address, limits: Limits) -> list[socket.socket]:
                tasks.start_soon(chat.drain)
                return bind(address, limits)

            monkeypatch.setattr("chatapi.chat.bind", bind_and_drain)
            await tasks.start(chat.serve, HERE)
            await chat.stopped()
            assert chat.listening == []


@pytest.mark.anyio
async def test_a_second_drain_waits_for_the_first_and_a_later_one_has_no_effect() -> None:
    chat = ChatAPI()
    async with served(chat) as tasks, chat.join("bot", "dev") as bot:
        ended: list[str] = []

        async def drain(name: str) -> None:
            await chat.drain()
            assert bot.room is None
            ended.append(name)

        tasks.start_soon(drain, "one")
        tasks.start_soon(drain, "other")
        await chat.stopped()
    assert sorted(ended) == ["one", "other"]
    assert chat.disconnects == {"draining": 1}
    with anyio.fail_after(PATIENCE):
        await chat.drain()


@pytest.mark.anyio
async def test_a_drain_while_serve_ends_has_no_effect() -> None:
    class Slow(InProcessBroker):
        async def run(self, started: Callable[[], None]) -> None:
            started()
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await chat.drain()

    chat = ChatAPI(broker=Slow(SystemClock()))
    async with served(chat) as tasks:
        tasks.cancel_scope.cancel()
    async with served(chat):
        await chat.drain()


def test_a_signal_while_the_broker_starts_ends_run_tcp_before_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import signal

    class Signalled(InProcessBroker):
        async def run(self, started: Callable[[], None]) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            with anyio.fail_after(PATIENCE):
                await anyio.sleep_forever()

    monkeypatch.setattr("chatapi.chat.bind", lambda *_: pytest.fail("it listens"))
    chat = ChatAPI(broker=Signalled(SystemClock()))
    assert gotcpchat.run_tcp(HERE, chat, started=lambda _: pytest.fail("it listens"), beside=lambda: pytest.fail("no"))


# Waiting for the end


@pytest.mark.anyio
@pytest.mark.parametrize("ending", ["drained", "cancelled", "broker failed", "address in use", "no address"])
@pytest.mark.parametrize("before", [False, True], ids=["waiting since then", "waiting since before"])
async def test_stopped_returns_when_serving_has_ended_in_whatever_way(ending: str, before: bool) -> None:
    broker = Breakable()
    chat = ChatAPI(broker=broker)
    scope = anyio.CancelScope()
    address = HERE
    returned = False

    async def wait() -> None:
        nonlocal returned
        await chat.stopped()
        assert (chat.listening, chat.connections) == ([], 0)
        returned = True

    async def serve(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        with scope:
            try:
                async with anyio.create_task_group() as inner:
                    await inner.start(chat.serve, address)
                    task_status.started()
            except* (StoreError, OSError, AddressError):
                pass
        if ending in ("address in use", "no address"):
            task_status.started()

    with socket.create_server(("127.0.0.1", 0)) as taken, anyio.fail_after(PATIENCE):
        if ending == "address in use":
            address = f"127.0.0.1:{taken.getsockname()[1]}"
        elif ending == "no address":
            address = "nonsense"
        async with anyio.create_task_group() as tasks:
            if before:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
            await tasks.start(serve)
            if not before:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
            if ending == "drained":
                await chat.drain()
            elif ending == "broker failed":
                broker.fail.set()
            elif ending == "cancelled":
                scope.cancel()
    assert returned


@pytest.mark.anyio
async def test_a_chat_can_be_served_again_once_it_has_stopped() -> None:
    chat = ChatAPI()
    async with served(chat) as tasks:
        for _ in range(3):
            await chat.drain()
            await chat.stopped()
            await tasks.start(chat.serve, HERE)
            with anyio.move_on_after(0) as scope:
                await chat.stopped()
            assert scope.cancelled_caught
        await chat.drain()
