"""The thread that reads a store: opening a room goes before pages of history, and neither is put off for ever."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from executables import DEADLINE
from speakers import Speaker

from chatapi import Limits
from chatapi.brokers.sqlite.broker import SQLiteBroker
from chatapi.brokers.sqlite.store import Store
from chatapi.brokers.sqlite.writer import URGENT_IN_A_ROW, Worker
from chatapi.testing import ChatKit


def order_of_work(plan: list[tuple[str, bool]]) -> list[str]:
    """Queue this work while a worker is busy, then stop the worker; return the order in which it did the work."""
    done: list[str] = []
    worker, go_on = Worker("test", deque(), lambda: None), threading.Event()
    worker.execute(lambda: go_on.wait(DEADLINE))
    worker.start()
    for name, urgent in plan:
        worker.execute(lambda name=name: done.append(name), urgent=urgent)  # type: ignore[misc]
    worker.stop()
    go_on.set()
    worker.join(DEADLINE)
    assert not worker.is_alive()
    return done


def test_urgent_work_goes_first_and_all_other_work_keeps_its_order() -> None:
    assert order_of_work([("a", False), ("b", True), ("c", False), ("d", True)]) == ["b", "d", "a", "c"]


def test_urgent_work_does_not_keep_the_rest_waiting_for_ever() -> None:
    done = order_of_work([("page", False), *((f"open {number}", True) for number in range(50))])
    assert done.index("page") == URGENT_IN_A_ROW
    assert len(done) == 51


@pytest.mark.anyio
async def test_a_member_that_joins_a_cold_room_does_not_wait_for_pages_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(rate=0, history=1, keep=0)
    path = tmp_path / "chat.db"
    kit = ChatKit(limits, broker=lambda clock: SQLiteBroker(path, clock=clock))
    async with kit.running():
        for room in ("busy", "cold"):
            talker = kit.member("talker", room)
            await kit.settled()
            for number in range(5):
                talker.send(f"{number}\n")
                await kit.settled()
    asked: list[str] = []
    busy, go_on = threading.Event(), threading.Event()
    read, past, sent = Store.read, Store.past, Store.sent

    def page(self: Store, key: str, before: int, *bounds: int) -> Any:
        if threading.current_thread().name.endswith("reading") and not opening:
            asked.append(f"page before {before}")
            busy.set()
            assert go_on.wait(DEADLINE)
        return read(self, key, before, *bounds)

    opening: list[str] = []

    def open_(self: Store, key: str, *bounds: int) -> Any:
        asked.append(f"open {key}")
        opening.append(key)
        try:
            return past(self, key, *bounds)
        finally:
            opening.clear()

    def sessions(self: Store, session: str, since: int) -> Any:
        asked.append("sent")
        return sent(self, session, since)

    kit = ChatKit(limits, broker=lambda clock: SQLiteBroker(path, clock=clock))
    async with kit.running():
        readers = [Speaker(kit, f"reader{number}", "busy") for number in range(5)]
        await kit.settled()
        for name, function in (("read", page), ("past", open_), ("sent", sessions)):
            monkeypatch.setattr(Store, name, function)
        for number, reader in enumerate(readers):
            reader.send("history", before=number + 1, limit=1)
            kit.settle()
        assert await anyio.to_thread.run_sync(busy.wait, DEADLINE)
        kit.member("Mina", "cold")
        Speaker(kit, "Zoe", "busy", resume={"session": "unknown-to-this-server"})
        kit.settle()
        go_on.set()
        await kit.settled()
    first, *rest = asked
    assert first.startswith("page")
    assert set(rest[:2]) == {"open cold", "sent"}
    assert len(rest) == 5
    assert all(what.startswith("page") for what in rest[2:])
