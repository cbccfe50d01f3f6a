"""The client library for programs without an event loop, against our own server in a thread."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

from chatapi import ChatAPI
from chatapi.client.blocking import BlockingConnection, connect_sync
from chatapi.client.connection import Connection
from chatapi.client.events import State, Welcome
from chatapi.errors import Disconnected, NotDelivered, Refused
from chatapi.events import History, Message


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def address() -> Iterator[str]:
    async def serve(*, task_status: anyio.abc.TaskStatus[str]) -> None:
        async with anyio.create_task_group() as tasks:
            listening = await tasks.start(ChatAPI().serve, "127.0.0.1:0")
            task_status.started(str(listening[0].address))

    with start_blocking_portal() as portal:
        future, address = portal.start_task(serve)
        yield address
        future.cancel()


def test_it_has_every_call_of_the_connection() -> None:
    calls = {name: call for name, call in vars(Connection).items() if not name.startswith("_")}
    for name, call in calls.items():
        other = vars(BlockingConnection)[name]
        assert inspect.getdoc(other)
        if callable(call):
            assert inspect.signature(other) == inspect.signature(call)


def test_a_plain_script_talks(address: str, backend: Any) -> None:
    with connect_sync(address, backend=backend, name="Mina", room="dev") as mina:
        assert (mina.name, mina.room, mina.state) == ("Mina", "dev", State.CONNECTED)
        assert repr(mina) == "<BlockingConnection 'Mina' in 'dev', connected>"
        with connect_sync(address, backend=backend, name="Zoe", room="dev", events=False) as zoe:
            said = zoe.send("deployed")
            with pytest.raises(NotDelivered):
                zoe.whisper("Ada", "psst")
            zoe.whisper("Mina", "psst")
            zoe.rename("Zo")
            assert zoe.members() == ["Mina", "Zo"]
            assert zoe.rooms() == {"dev": 2}
            assert zoe.history() == History((said,), more=False)
            assert zoe.history(before=1, limit=3).messages == ()
            assert zoe.join("ops").room == zoe.room == "ops"
            assert zoe.ping() >= 0
        events = []
        for event in mina:
            events.append(event)
            if len(events) == 6:
                break
        assert isinstance(events[0], Welcome)
        assert said in events
        with pytest.raises(TimeoutError):
            mina.receive(timeout=0.01)
        mina.close()
        assert list(mina) == []
        with pytest.raises(EOFError):
            mina.receive()
        with pytest.raises(Disconnected):
            mina.send("late")


def test_errors_come_out_as_they_are(address: str, backend: Any) -> None:
    with (
        connect_sync(address, backend=backend, name="Mina", room="dev"),
        pytest.raises(Refused, match="name_taken"),
        connect_sync(address, backend=backend, name="Mina", room="dev"),
    ):
        raise AssertionError
    with pytest.raises(KeyboardInterrupt), connect_sync(address, backend=backend, name="Mina", room="dev"):
        raise KeyboardInterrupt
    with connect_sync(address, backend=backend, name="Mina", room="dev"):  # a goodbye was said: the name is free
        pass


def test_threads_may_share_it(address: str, backend: Any) -> None:
    with (
        connect_sync(address, backend=backend, name="Mina", room="dev", echo=True) as room,
        ThreadPoolExecutor(8) as threads,
    ):
        sent = list(threads.map(room.send, map(str, range(40))))
        heard = [event for event in islice(room, 41) if isinstance(event, Message)]
        assert sorted(sent, key=lambda message: message.seq) == heard
        assert sorted(int(message.text) for message in heard) == list(range(40))


def test_an_interrupted_wait_loses_no_event(address: str, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect_sync(address, backend=backend, name="Mina", room="dev", echo=True) as room:
        room.receive()
        start = room._portal.start_task_soon

        class Interrupted:
            def __init__(self, future: Any) -> None:
                self._future = future

            def result(self) -> None:
                raise KeyboardInterrupt

            def cancel(self) -> None:
                self._future.cancel()
                cancelled.set()

        cancelled = threading.Event()
        monkeypatch.setattr(room._portal, "start_task_soon", lambda function: Interrupted(start(function)))
        with pytest.raises(KeyboardInterrupt):
            room.receive()
        assert cancelled.is_set()
        monkeypatch.undo()
        sent = room.send("x")
        assert room.receive() == sent
