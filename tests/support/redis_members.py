"""Members of rooms that servers share, which record everything that they are told, and a check that all agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise, zip_longest

import anyio
from anyio.abc import TaskGroup
from executables import DEADLINE
from witnesses import IN_FLIGHT, Witness, until

import chatapi
from chatapi import Address, Connection, Gap, Joined, Left, Lost, Message, Notice, Recovered, Welcome

PAUSE = 0.04
"""Seconds between two messages of one task of a member: the messages of some minutes must fit into memory."""


class Member(Witness):
    """A lasting member of a room; with `echo` its own words are among its events, so that these have no holes."""

    def __init__(self, name: str, room: str, *, echo: bool = False) -> None:
        super().__init__(name, room)
        self.echo = echo
        self.pause = PAUSE
        self.losses: Counter[str] = Counter()
        """How often its connection broke, by code."""
        self.told: Counter[str] = Counter()
        """The number of notices, by code."""
        self.notice = "available"
        """The last of them."""
        self.left: Counter[str] = Counter()
        """How often others have left."""
        self.others: set[str] = set()
        """The other members, according to its events."""

    @property
    def connection(self) -> Connection:
        """Its connection, once it has come."""
        assert self._connection is not None
        return self._connection

    async def connect(self, address: str, stack: AsyncExitStack) -> None:
        """Come in, for as long as the stack lasts; `listen` follows."""
        room = chatapi.connect(
            address, name=self.name, room=self.room, echo=self.echo, backoff=0.02, backoff_cap=0.1, ping_after=2
        )
        self._connection = await stack.enter_async_context(room)

    def listen(self, tasks: TaskGroup) -> None:
        """Listen, for as long as the task group lasts."""
        self._tasks = tasks
        tasks.start_soon(self._listen)

    async def has(self, seq: int) -> None:
        """Wait until it has received as many messages."""

        def number() -> int:
            return len(self.events) + (0 if self.echo else len(self.acknowledged))

        await until(lambda: number() >= seq, lambda: f"{self.name} has {number()} messages of {seq}")

    async def sees(self, names: set[str]) -> None:
        """Wait until these are in the room, itself included: so its server says, and so its events do."""
        listed: list[str] = []
        with anyio.move_on_after(DEADLINE):
            while (listed := await self.connection.members()) != sorted(names):  # noqa: ASYNC110 - it is asked again
                await anyio.sleep(0.01)
        assert listed == sorted(names), f"what {self.name} sees"
        await until(lambda: {self.name, *self.others} == names, lambda: f"{self.name} was told of {self.others}")

    async def has_a_gap(self, reason: str, seq: int) -> None:
        """It was disconnected once since messages are missing, and is back with a gap behind that one."""
        await until(lambda: self.gaps, lambda: f"{self.name} was told of no gap")
        assert [(gap.reason, gap.seq) for gap in self.gaps] == [(reason, seq)]
        assert self.losses == Counter({"insufficient_state": 1})

    def hears(self, log: Sequence[Message]) -> list[Message]:
        """Return those of a room's messages that must be among its events."""
        return [message for message in log if self.echo or message.name != self.name]

    @property
    def heard(self) -> list[Message]:
        """All messages that it has received or sent, in order."""
        if self.echo:
            return self.events
        return sorted([*self.events, *self.acknowledged.values()], key=lambda message: message.seq)

    async def _talk(self) -> None:
        while not self._stopping:
            self.sent += 1
            await self.say(f"{self.name} {self.sent}")
            await anyio.sleep(self.pause)
        self._senders -= 1

    async def _listen(self) -> None:
        async for event in self.connection:
            match event:
                case Message():
                    self.events.append(event)
                case Lost():
                    self.losses[event.reason.code] += 1
                case Recovered():
                    self.recoveries += 1
                    self._welcome(event.welcome)
                case Welcome():
                    self._welcome(event)
                case Gap():
                    self.gaps.append(event)
                case Notice():
                    self.notice = event.code
                    self.told[event.code] += 1
                case Joined():
                    self.others.add(event.name)
                case Left():
                    self.others.discard(event.name)
                    self.left[event.name] += 1

    def _welcome(self, welcome: Welcome) -> None:
        self.epochs.add(welcome.epoch)
        self.others = {name for name in welcome.members if name != self.name}


@asynccontextmanager
async def present(room: str, **where: Address) -> AsyncIterator[list[Member]]:
    """Members of a room, by name, that join in this order, each at its address, and listen."""
    members = [Member(name, room) for name in where]
    async with AsyncExitStack() as stack:
        for member, address in zip(members, where.values(), strict=True):
            await member.connect(str(address), stack)
        async with anyio.create_task_group() as tasks:
            for member in members:
                member.listen(tasks)
            yield members
            tasks.cancel_scope.cancel()


def agree(members: Sequence[Member], log: Sequence[Message]) -> Counter[str]:
    """Check that each member of a room was told all of the room's messages, once, and in order."""
    texts = Counter(message.text for message in log)
    acknowledged = [message for member in members for message in member.acknowledged.values()]
    found = Counter(
        lost=sum(texts[message.text] == 0 for message in acknowledged),
        doubled=sum(times - 1 for times in texts.values()),
        gaps=sum(len(member.gaps) for member in members),
    )
    assert found.total() == 0, found
    assert [message.seq for message in log] == list(range(1, len(log) + 1))
    assert [(a.seq, b.seq) for a, b in pairwise(log) if a.ts >= b.ts] == []
    for member in members:
        mine = [message for message in log if message.name == member.name]
        own = sorted(member.acknowledged.values(), key=lambda message: message.seq)
        for what, these, those in (("was told", own, mine), ("heard", member.events, member.hears(log))):
            where = next((pair for pair in zip_longest(these, those) if pair[0] != pair[1]), None)
            assert where is None, f"{member.name} {what} {where[0]} where there is {where[1]}"
        numbers = [int(message.text.split()[1]) for message in mine]
        # messages in flight together may be kept in another order, if some were refused and sent again
        assert all(abs(a - b) < IN_FLIGHT for a, b in zip(numbers, sorted(numbers), strict=True)), numbers
    assert len({epoch for member in members for epoch in member.epochs}) == 1
    return found
