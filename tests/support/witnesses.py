"""Members that talk all the time over a server that dies, and remember everything that they were told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path

import anyio
from anyio.abc import TaskGroup
from executables import DEADLINE

import chatapi
from chatapi import Connection, Gap, Message
from chatapi.brokers.sqlite.view import View
from chatapi.core.entries import Said
from chatapi.core.names import name_key

IN_FLIGHT = 4
"""Messages that one member has on their way at once."""


class Witness:
    """A lasting member of a room."""

    def __init__(self, name: str, room: str) -> None:
        self.name, self.room = name, room
        self.sent = 0
        """How many texts it has begun to send: their numbers are 1 to that."""
        self.acknowledged: dict[str, Message] = {}
        """What `send` returned, by text."""
        self.events: list[Message] = []
        """What others said, as it came."""
        self.gaps: list[Gap] = []
        self.epochs: set[str] = set()
        self.recoveries = 0
        self._connection: Connection | None = None
        self._stopping = False
        self._senders = 0

    async def come(self, address: str, tasks: TaskGroup, stack: AsyncExitStack) -> None:
        """Come in and listen, for as long as the task group and the stack last."""
        room = chatapi.connect(address, name=self.name, room=self.room, backoff=0.02, backoff_cap=0.1)
        self._connection = await stack.enter_async_context(room)
        self._tasks = tasks
        tasks.start_soon(self._listen)

    def talk(self) -> None:
        """Begin to talk, without a pause."""
        self._senders = IN_FLIGHT
        for _ in range(IN_FLIGHT):
            self._tasks.start_soon(self._talk)

    async def stop(self) -> None:
        """Stop talking; returns when all that was sent is acknowledged."""
        self._stopping = True
        await until(lambda: not self._senders, lambda: f"{self.name} waits for {self.sent - len(self.acknowledged)}")

    async def has(self, seq: int) -> None:
        """Wait until it knows so many messages, by an event or as its own."""
        await until(lambda: len(self.events) + len(self.acknowledged) >= seq, lambda: f"{self.name} is behind {seq}")

    async def say(self, text: str) -> None:
        """Say something, and wait until that is acknowledged."""
        assert self._connection is not None
        self.acknowledged[text] = await self._connection.send(text)

    async def _talk(self) -> None:
        assert self._connection is not None
        while not self._stopping:
            self.sent += 1
            await self.say(f"{self.name} {self.sent}")
        self._senders -= 1

    async def _listen(self) -> None:
        assert self._connection is not None
        async for event in self._connection:
            if isinstance(event, Message):
                self.events.append(event)
            elif isinstance(event, Gap):
                self.gaps.append(event)
            elif isinstance(event, chatapi.Recovered):
                self.recoveries += 1
                self.epochs.add(event.welcome.epoch)
            elif isinstance(event, chatapi.Welcome):
                self.epochs.add(event.epoch)


async def until(condition: Callable[[], object], what: Callable[[], str]) -> None:
    """Wait until something holds that another task or process brings about."""
    with anyio.move_on_after(DEADLINE):
        while not condition():  # noqa: ASYNC110 - what another process does sets no event
            await anyio.sleep(0.002)
        return
    raise AssertionError(what())


async def history(address: str, room: str) -> list[Message]:
    """Everything that was ever said in a room, as somebody who comes now can page back to it."""
    found: list[Message] = []
    before: int | None = None
    async with chatapi.connect(address, name="Late", room=room) as member:
        while True:
            page = await member.history(before=before)
            found[:0] = page.messages
            if not page.more:
                return found
            before = page.messages[0].seq


def kept(path: Path, room: str) -> list[Message]:
    """Everything that a file has of a room."""
    store = View(path)
    store.open()
    try:
        assert list(store.faults()) == []
        info = store.room(name_key(room))
        entries = [] if info is None else list(store.entries(info))
        return [event for entry in entries if isinstance(entry, Said) for event in entry.events()]
    finally:
        store.close()


def check(witnesses: Sequence[Witness], log: Sequence[Message]) -> dict[str, int]:
    """All that must hold for the members of one room and what is kept of it; returns how much there was."""
    assert [message.seq for message in log] == list(range(1, len(log) + 1))
    assert all(a.ts < b.ts for a, b in pairwise(log))
    texts = Counter(message.text for message in log)
    acknowledged = [message for witness in witnesses for message in witness.acknowledged.values()]
    lost = [message for message in acknowledged if message.seq > len(log) or log[message.seq - 1] != message]
    doubled = [text for text, times in texts.items() if times > 1]
    assert lost == []
    assert doubled == []
    received = 0
    for witness in witnesses:
        own = list(witness.acknowledged.values())
        assert witness.gaps == []
        assert len(witness.epochs) == 1
        assert len(own) >= witness.sent
        assert witness.events == [message for message in log if message.name != witness.name]
        assert sorted(own, key=lambda message: message.seq) == [
            message for message in log if message.name == witness.name
        ]
        numbers = [int(message.text.split()[1]) for message in log if message.name == witness.name]
        assert numbers == sorted(numbers)
        received += len(witness.events)
    return {"acknowledged": len(acknowledged), "received": received, "lost": len(lost), "doubled": len(doubled)}
