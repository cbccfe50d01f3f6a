"""Errors come out of serving, joining, connecting and of blocks as they are documented, and never as a group."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
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
    Disconnected,
    Limits,
    ProtocolError,
    RefusalCode,
    Refused,
    StoreError,
    Unreachable,
    connect,
    connect_sync,
)
from chatapi.brokers.memory import InProcessBroker
from chatapi.brokers.sqlite.broker import SQLiteBroker
from chatapi.clock import SystemClock
from chatapi.tasks import task_group

HERE = "127.0.0.1:0"


PATIENCE = 30


class Odd(Exception):
    """What a program's own function raises."""


def raises_odd(*_: object) -> Any:
    raise Odd


async def beside_that_raises() -> None:
    raise Odd


class Fails(InProcessBroker):
    """Fails while it starts, or once it has been left alone."""

    def __init__(self, *, later: bool) -> None:
        super().__init__(SystemClock())
        self._later = later

    async def run(self, started: Callable[[], None]) -> None:
        if self._later:
            started()
            await anyio.wait_all_tasks_blocked()
        raise StoreError("the disk is gone")


SERVE = [
    pytest.param(AddressError, {"address": "nonsense"}, id="address"),
    pytest.param(AddressError, {"telnet": "nonsense"}, id="telnet address"),
    pytest.param(OSError, {"address": "taken"}, id="in use"),
    pytest.param(OSError, {"telnet": "taken"}, id="telnet in use"),
    pytest.param(Refused, {"lobby": "no room"}, id="lobby"),
    pytest.param(StoreError, {"broker": "starting"}, id="broker, starting"),
    pytest.param(StoreError, {"broker": "file"}, id="broker, no file"),
    pytest.param(StoreError, {"broker": "later"}, id="broker, later"),
    pytest.param(RuntimeError, {"served": True}, id="served already"),
]


def a_chat(broker: str = "", **_: object) -> ChatAPI:
    if broker == "file":
        return ChatAPI(broker=SQLiteBroker("/nonexistent/folder/chat.db"))
    return ChatAPI(broker=Fails(later=broker == "later") if broker else None)


def options_for(options: dict[str, Any], taken: socket.socket) -> dict[str, Any]:
    """The arguments of serve; ``taken`` stands for an address that is in use."""
    where = f"127.0.0.1:{taken.getsockname()[1]}"
    found = {"address": HERE} | {key: value for key, value in options.items() if key not in ("broker", "served")}
    return {key: where if value == "taken" else value for key, value in found.items()}


@pytest.fixture
def taken() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.mark.anyio
@pytest.mark.parametrize("existing", [False, True], ids=["serve", "run_tcp_with_existing_api"])
@pytest.mark.parametrize(("expected", "options"), SERVE)
async def test_errors_of_serve_come_bare(
    existing: bool, expected: type[Exception], options: dict[str, Any], taken: socket.socket
) -> None:
    chat = a_chat(**options)
    arguments = options_for(options, taken)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            if "served" in options:
                await tasks.start(chat.serve, HERE)
            serve = partial(gotcpchat.run_tcp_with_existing_api, chat=chat) if existing else chat.serve
            with pytest.raises(expected) as error:
                await serve(**arguments)
            tasks.cancel_scope.cancel()
    assert not isinstance(error.value, BaseExceptionGroup)


@pytest.mark.parametrize(
    ("expected", "options"),
    [
        *SERVE,
        pytest.param(Odd, {"started": raises_odd}, id="started"),
        pytest.param(Odd, {"beside": beside_that_raises}, id="beside"),
        pytest.param(Odd, {"beside": raises_odd}, id="beside, not async"),
    ],
)
def test_errors_of_run_tcp_come_bare(expected: type[Exception], options: dict[str, Any], taken: socket.socket) -> None:
    chat = a_chat(**options)
    arguments = options_for(options, taken)
    if "served" in options:

        async def beside() -> None:
            await chat.serve(HERE)

        arguments["beside"] = beside
    with pytest.raises(expected) as error:
        gotcpchat.run_tcp(chat=chat, **arguments)
    assert error.type is not BaseExceptionGroup
    assert not isinstance(error.value, BaseExceptionGroup)


def test_a_chat_that_another_thread_serves_is_a_runtime_error_of_run_tcp() -> None:
    chat, listens, end = ChatAPI(), threading.Event(), threading.Event()

    async def serve() -> None:
        async with anyio.create_task_group() as tasks:
            await tasks.start(chat.serve, HERE)
            listens.set()
            await anyio.to_thread.run_sync(end.wait)
            tasks.cancel_scope.cancel()

    thread = threading.Thread(target=anyio.run, args=(serve,))
    thread.start()
    assert listens.wait(PATIENCE)
    try:
        with pytest.raises(RuntimeError, match="served already"):
            gotcpchat.run_tcp(HERE, chat)
    finally:
        end.set()
        thread.join(PATIENCE)


@pytest.mark.parametrize("error", [Disconnected, Refused], ids=["posting", "joining"])
def test_that_the_server_drains_is_no_error_of_what_runs_beside_it(error: type[Exception]) -> None:
    chat = ChatAPI()
    seen: list[type[Exception]] = []

    async def beside() -> None:
        async with chat.join("bot", "dev") as bot:
            try:
                if error is Disconnected:
                    await chat.drain()
                    await bot.post("too late")
                else:
                    chat._hub.draining = True  # as it is while others are still being told
                    async with chat.join("other", "dev"):
                        pass
            except error:
                seen.append(error)
                chat._hub.draining = False
                await chat.drain()
                raise

    assert gotcpchat.run_tcp(HERE, chat, beside=beside) is True
    assert seen == [error]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("expected", "broker"), [(StoreError, "starting"), (StoreError, "file"), (StoreError, "later"), (RuntimeError, "")]
)
async def test_errors_of_a_chats_block_come_bare(expected: type[Exception], broker: str) -> None:
    chat = a_chat(broker)

    async def run() -> None:
        async with chat:
            if not broker:
                await chat.__aenter__()
            await anyio.sleep_forever()

    with anyio.fail_after(PATIENCE), pytest.raises(expected) as error:
        await run()
    assert not isinstance(error.value, BaseExceptionGroup)


@pytest.mark.anyio
@pytest.mark.parametrize("raised", [Odd(), ExceptionGroup("own", [Odd()]), SystemExit(3), KeyboardInterrupt()])
async def test_what_a_chats_block_raises_comes_out_as_it_is(raised: BaseException) -> None:
    with pytest.raises(type(raised)) as error:
        async with ChatAPI(), ChatAPI().join("bot", "dev"):
            raise raised
    assert repr(error.value) == repr(raised)  # trio copies a group


@pytest.mark.anyio
async def test_errors_after_the_first_one_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail_in_the_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ZeroDivisionError

    async def fail() -> None:
        async with task_group() as tasks:
            tasks.start_soon(fail_in_the_end)
            await anyio.wait_all_tasks_blocked()
            raise Odd

    with pytest.raises(Odd):
        await fail()
    assert "another error occurred after Odd()" in caplog.text
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("bad_name", ("", "dev")),
        ("bad_room", ("Mina", "")),
        ("name_taken", ("MINA", "dev")),
        ("room_full", ("a", "dev")),
    ],
)
async def test_errors_of_join_come_bare(code: str, arguments: tuple[str, str]) -> None:
    chat = ChatAPI(Limits(room_members=1))
    async with chat.join("Mina", "dev"):
        with pytest.raises(Refused) as refused:
            async with chat.join(*arguments):
                pass
        assert refused.value.code is RefusalCode(code)


async def _not_a_chat(stream: anyio.abc.SocketStream) -> None:
    async with stream:
        await stream.send(b"220 mail.example.com ESMTP\r\n")
        await stream.receive()


CONNECT = [
    pytest.param(AddressError, "nonsense", {}, id="address"),
    pytest.param(Unreachable, "closed", {}, id="nobody there"),
    pytest.param(ProtocolError, "mail", {}, id="another server"),
    pytest.param(Refused, "chat", {"name": "bot"}, id="name taken"),
    pytest.param(Refused, "chat", {"room": ""}, id="room"),
    pytest.param(Odd, "chat", {}, id="the block"),
]


@asynccontextmanager
async def somewhere() -> AsyncIterator[dict[str, str]]:
    """Addresses: of a chat, of another server, and of nobody."""
    chat = ChatAPI()
    async with anyio.create_task_group() as tasks, chat.join("bot", "dev"):
        [first, *_] = await tasks.start(chat.serve, HERE)
        mail = await anyio.create_tcp_listener(local_host="127.0.0.1")
        tasks.start_soon(mail.serve, _not_a_chat)
        port = mail.extra(anyio.abc.SocketAttribute.local_port)
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            yield {
                "nonsense": "nonsense",
                "closed": f"127.0.0.1:{closed.getsockname()[1]}",
                "mail": f"127.0.0.1:{port}",
                "chat": str(first.address),
            }
        tasks.cancel_scope.cancel()
    await mail.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("blocking", [False, True], ids=["connect", "connect_sync"])
@pytest.mark.parametrize(("expected", "where", "fields"), CONNECT)
async def test_errors_of_connecting_come_bare(
    blocking: bool, expected: type[Exception], where: str, fields: dict[str, str]
) -> None:
    arguments: Any = {"name": "Mina", "room": "dev", **fields}

    def block(address: str) -> None:
        with connect_sync(address, **arguments):
            raise Odd

    async def be_there(address: str) -> None:
        if blocking:
            await anyio.to_thread.run_sync(block, address)
            return
        async with connect(address, **arguments):
            raise Odd

    with anyio.fail_after(PATIENCE):
        async with somewhere() as addresses:
            with pytest.raises(expected) as error:
                await be_there(addresses[where])
            assert not isinstance(error.value, BaseExceptionGroup)
