"""A chat whose history is on disk: its end, reading while messages are deleted or forgotten, and coming back."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from executables import DEADLINE
from speakers import Speaker

from chatapi import ChatAPI, Limits
from chatapi.brokers.sqlite import Keep, SQLiteBroker, store
from chatapi.brokers.sqlite.store import RoomInfo, Store
from chatapi.core.entries import AnyKept, Deletion
from chatapi.pending import Pending
from chatapi.testing import ChatKit, LateBroker, VirtualClock

pytestmark = pytest.mark.anyio


def kit_on(path: Path, limits: Limits | None = None, **options: Any) -> ChatKit:
    return ChatKit(limits, broker=lambda clock: SQLiteBroker(path, clock=clock), **options)


async def told(event: threading.Event) -> None:
    """Wait for another thread."""
    assert await anyio.to_thread.run_sync(event.wait, DEADLINE)


# The end of a chat


async def test_a_block_that_is_cancelled_ends_the_chat_in_good_order(path: Path) -> None:
    chat = ChatAPI(broker=SQLiteBroker(path))
    with anyio.CancelScope() as scope:
        async with chat, chat.join("Mina", "dev", reads=False) as mina:
            await mina.post("hello")
            scope.cancel()
            await anyio.sleep_forever()
    async with chat:  # the file was given back
        assert [message.text for message in (await chat.history("dev")).messages] == ["hello"]


async def test_a_chat_that_runs_is_not_begun_again(path: Path) -> None:
    chat = ChatAPI(broker=SQLiteBroker(path))
    async with chat, chat.join("Mina", "dev", reads=False) as mina:
        with pytest.raises(RuntimeError, match="running already"):
            async with chat:
                pytest.fail("it was begun again")
        await mina.post("hello")
        async with anyio.create_task_group() as tasks:  # but let people in
            await tasks.start(chat.serve, "127.0.0.1:0")
            await chat.drain()


def test_a_disk_that_never_answers_a_reader_does_not_keep_the_program_from_ending(path: Path) -> None:
    program = f"""
import anyio, threading
from chatapi import ChatAPI
from chatapi.brokers.sqlite import broker as sqlite
from chatapi.brokers.sqlite.store import Store

async def main():
    async with ChatAPI(broker=sqlite.SQLiteBroker({str(path)!r})) as chat:
        Store.past = lambda *arguments: threading.Event().wait()
        with anyio.move_on_after(0.1):
            await chat.history("dev")

assert sqlite._CLOSING_SECONDS > 0.1
sqlite._CLOSING_SECONDS = 0.1
anyio.run(main)
print("ended")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.stdout == "ended\n", done.stderr


# Messages that are deleted or forgotten while a member reads


class LateReader(SQLiteBroker):
    """A broker whose pages arrive when the test says, with the content of the time at which they were read."""

    def __init__(self, path: Path, clock: VirtualClock) -> None:
        super().__init__(path, clock=clock)
        self.arrived: list[Callable[[], None]] = []

    def read(self, room: str, before: int, messages: int, max_bytes: int) -> Pending[Sequence[AnyKept]]:
        later: Pending[Sequence[AnyKept]] = Pending()

        def found(page: Pending[Sequence[AnyKept]]) -> None:
            self.arrived.append(lambda: later.resolve(page.result()))

        super().read(room, before, messages, max_bytes).then(found)
        return later


async def said_before(path: Path, texts: int) -> Speaker:
    """Return a member that sent `texts` messages in an earlier life of the server."""
    kit = kit_on(path)
    async with kit.running():
        mina = Speaker(kit)
        await kit.settled()
        mina.opened()
        for number in range(1, texts + 1):
            mina.send("message", text=f"text {number}", id=str(number))
        await kit.settled()
    return mina


@pytest.mark.parametrize("how", ["resume", "history"])
async def test_messages_deleted_while_they_are_read_back_are_not_shown(path: Path, how: str) -> None:
    before = await said_before(path, 5)
    kit = ChatKit(Limits(history=1), broker=lambda clock: LateReader(path, clock), keys="later")
    reader = kit.broker
    assert isinstance(reader, LateReader)
    async with kit.running():
        member = Speaker(kit, "Ann")
        await kit.settled()
        member.opened()
        if how == "resume":
            member = Speaker(kit, echo=True, resume=before.resume(0, 0))
        else:
            member.send("history", before=4, limit=1)
        kit.settle()
        while not reader.arrived:
            await anyio.lowlevel.checkpoint()
        room = kit.hub.room("dev")
        assert room is not None
        room.submit(Deletion("moderator", 3))
        while room.seq < 6:
            await anyio.lowlevel.checkpoint()
            kit.settle()
        for arrive in reader.arrived:
            arrive()
        frames = member.frames()
        if how == "history":
            frames = next(frame["messages"] for frame in frames if frame["type"] == "history")
        assert [frame["text"] for frame in frames if frame["seq"] == 3] == [""]


async def test_messages_forgotten_while_a_room_is_loaded_are_not_shown(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await said_before(path, 5)
    kit = ChatKit(broker=lambda clock: SQLiteBroker(path, clock=clock, keep=Keep(days=1)))
    broker = kit.broker
    assert isinstance(broker, SQLiteBroker)
    trimming, loaded, trimmed, go_on = (threading.Event() for _ in range(4))
    trim, past = Store.trim, Store.past

    def late_trim(self: Store, room: RoomInfo, through: int) -> int:
        trimming.set()
        assert loaded.wait(DEADLINE)
        first = trim(self, room, through)
        trimmed.set()
        return first

    def late_past(self: Store, *arguments: Any) -> Any:
        found = past(self, *arguments)
        loaded.set()
        assert go_on.wait(DEADLINE)
        return found

    async def trim_all() -> None:
        await broker.trim()
        ended.set()

    ended = anyio.Event()
    monkeypatch.setattr(Store, "trim", late_trim)
    monkeypatch.setattr(Store, "past", late_past)
    async with kit.running():
        await broker.trim()
        kit.clock.turn(3 * 24 * 3600)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(trim_all)
            await told(trimming)
            ann = Speaker(kit, "Ann")
            await told(trimmed)
            await broker._write(int)
            for _ in range(10):  # the broker could tell now that they are forgotten
                kit.settle()
                await anyio.lowlevel.checkpoint()
            go_on.set()
            await ended.wait()
            await kit.settled()
            ann.opened().send("history", limit=10)
            await kit.settled()
            assert ann.frame()["messages"] == []


async def test_old_ids_are_forgotten_however_many(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_AT_ONCE", 2)
    await said_before(path, 5)
    kit = kit_on(path)
    async with kit.running():
        assert isinstance(kit.broker, SQLiteBroker)
        kit.clock.turn(1_000)
        await kit.broker.trim()
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("SELECT count(*) FROM sent").fetchone() == (0,)


# Coming back


async def test_a_member_that_resumes_in_a_closed_room_gets_its_own_messages_as_acks(path: Path) -> None:
    kit = kit_on(path, Limits(keep=0, reserve=1))
    async with kit.running():
        mina = Speaker(kit)
        await kit.settled()
        mina.opened()
        mina.send("message", text="hello", id="a")
        await kit.settled()
        mina.cut("reset")
        kit.wait(2)
        assert not kit.hub.rooms
        again = Speaker(kit, resume=mina.resume())
        await kit.settled()
        welcome, own = again.frames()
        assert welcome["recovered"] is True
        assert (own["type"], own.get("id"), own["seq"]) == ("ack", "a", 1)


def test_a_member_that_resumes_under_another_name_finds_its_room() -> None:
    kit = ChatKit(broker=lambda clock: LateBroker(clock, opens_late=True))
    broker = kit.broker
    assert isinstance(broker, LateBroker)
    mina = Speaker(kit)
    broker.release()
    kit.settle()
    mina.opened()
    broker.release()
    mina.cut("reset")
    again = Speaker(kit, "Zoe", resume=mina.resume())
    broker.release()
    assert again.frames()[0]["type"] == "welcome"


def test_a_rename_is_answered_before_a_later_join() -> None:
    kit = ChatKit(broker=LateBroker)
    broker = kit.broker
    assert isinstance(broker, LateBroker)
    mina = Speaker(kit)
    broker.release()
    mina.opened()
    mina.send("rename", to="Minna", ref=1)
    mina.send("join", room="other", ref=2)
    kit.settle()
    broker.release()
    assert [(frame["type"], frame["ref"]) for frame in mina.frames()] == [("renamed", 1), ("welcome", 2)]
