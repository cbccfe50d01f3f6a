"""Any steps leave each broker with the rooms that a model of it has."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from broker_suites import (
    PAGE,
    InProcessSuite,
    Released,
    suite_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import ASYNCIO, EVERY_LOOP

from chatapi.brokers.memory import InProcessBroker
from chatapi.brokers.sqlite import SQLiteBroker
from chatapi.core.broker import Broker
from chatapi.core.entries import AnyKept, Deletion, KeptEntry
from chatapi.testing import BrokerContract, Recorder, VirtualClock
from chatapi.testing.contract.recorder import arrived, departed, message, told

ROOMS = st.sampled_from(["dev", "lab"])
STEPS = st.one_of(
    st.tuples(st.just("say"), ROOMS, st.integers(1, 4)),
    st.tuples(st.just("delete"), ROOMS, st.integers(1, 12)),
    st.tuples(st.just("presence"), ROOMS, st.just(0)),
    st.tuples(st.just("turn"), ROOMS, st.integers(-100, 100)),
    st.tuples(st.just("settle"), ROOMS, st.just(0)),
    st.tuples(st.just("fail"), ROOMS, st.just(0)),
    st.tuples(st.just("heal"), ROOMS, st.just(0)),
    st.tuples(st.just("reopen"), ROOMS, st.integers(0, 12)),
    st.tuples(st.just("read"), ROOMS, st.integers(1, 12)),
    st.tuples(st.just("restart"), ROOMS, st.integers(-100, 100)),
)


class Model:
    """The expected content of rooms: lists of texts, and of the targets of deletions."""

    def __init__(self, suite: BrokerContract) -> None:
        self.suite = suite
        self.clock = VirtualClock(1_000_000)
        self.failing = False
        self.rooms: dict[str, list[object]] = {"dev": [], "lab": []}

    async def play(self, steps: Sequence[tuple[str, str, int]]) -> None:
        at = 0
        while at <= len(steps):
            rooms = Recorder(self.suite.broker(self.clock))
            async with rooms.running():
                for room in self.rooms:
                    await self.opened(rooms, room, 1000)
                while at < len(steps) and steps[at][0] != "restart":
                    await self.step(rooms, *steps[at])
                    at += 1
                await self.settle(rooms)
                if self.failing:
                    await self.step(rooms, "heal", "dev", 0)
            if at < len(steps):
                self.clock.turn(steps[at][2])
                if not self.suite.keeps:
                    self.rooms = {"dev": [], "lab": []}
            at += 1

    async def opened(self, rooms: Recorder, room: str, messages: int) -> None:
        past = await rooms.open(room, messages=messages)
        assert past.seq == len(self.rooms[room])
        tail = [line[-1] for line in told(past.tail)]
        assert tail == self.rooms[room][len(self.rooms[room]) - len(tail) :]
        assert len(tail) >= min(messages, len(self.rooms[room]))

    async def settle(self, rooms: Recorder) -> None:
        """Take over the delivered entries; refused ones are not part of a room."""
        await rooms.settled()
        for room, entries in rooms.delivered.items():
            for entry in entries:
                if isinstance(entry, KeptEntry):
                    for line in told([entry]):
                        self.rooms[room].append(line[-1])
                if isinstance(entry, Deletion) and entry.target < entry.seq:
                    text = self.rooms[room][entry.target - 1]
                    self.rooms[room][entry.target - 1] = "" if isinstance(text, str) else text
        rooms.delivered.clear()

    async def step(self, rooms: Recorder, what: str, room: str, number: int) -> None:
        if what == "say":
            rooms.submit(message(*(f"{room} {self.clock.micros()} {i}" for i in range(number))), room=room)
        elif what == "delete":
            rooms.submit(Deletion("Ann", number), room=room)
        elif what == "presence":
            rooms.submit(arrived(), departed(), room=room)
        elif what == "turn":
            self.clock.turn(number)
            await rooms.turn()
        else:
            await self.settle(rooms)
        if what == "fail" and not self.failing and not isinstance(self.suite, InProcessSuite):
            self.failing = True
            await self.suite.fail(rooms.broker)
        elif what == "heal" and self.failing:
            self.failing = False
            await self.suite.heal(rooms.broker)
        elif what == "reopen":
            rooms.close(room)
            if not self.suite.keeps:
                self.rooms[room] = []
            await self.opened(rooms, room, number)
        elif what == "read" and self.suite.keeps:
            page: Sequence[AnyKept] = await rooms.read(number, room=room)
            found = [line[-1] for line in told(page) if line[1] in range(1, number)]
            assert found == self.rooms[room][: number - 1]


def play(kind: type[Broker], loop: Any, steps: list[Any]) -> None:
    backend, options = loop
    with tempfile.TemporaryDirectory() as folder:
        suite = suite_of(kind, Path(folder) / "chat.db")
        anyio.run(Model(suite).play, steps, backend=backend, backend_options=options)


KINDS = pytest.mark.parametrize("kind", [InProcessBroker, Released, SQLiteBroker, PAGE["Journal"]])


@KINDS
@settings(max_examples=15)
@given(steps=st.lists(STEPS, max_size=30))
def test_any_steps_leave_the_rooms_that_the_model_has(kind: type[Broker], steps: list[Any]) -> None:
    play(kind, ASYNCIO.values[0], steps)


@pytest.mark.long
@pytest.mark.parametrize("loop", EVERY_LOOP)
@KINDS
@settings(max_examples=100)
@given(steps=st.lists(STEPS, max_size=30))
def test_many_steps_leave_the_rooms_that_the_model_has(kind: type[Broker], loop: Any, steps: list[Any]) -> None:
    play(kind, loop, steps)
