"""Members that talk all the time through two servers over one Redis, the faults of these, and the checks afterwards.

Every delay here is part of the load or of the schedule of faults; no test sleeps to wait for an event.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import anyio
import anyio.to_thread
from redis_members import Member, agree
from redis_nodes import Node, stopped
from redis_servers import RedisServer
from witnesses import history, until

ROOMS = ("harbour", "market")


@dataclass
class Chaos:
    """Two servers, their Redis, and members of two rooms at both."""

    redis: RedisServer
    nodes: tuple[Node, Node]
    members: dict[Node, list[Member]] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    """The numbers of lost, doubled and unheard messages, at the end."""

    @property
    def everybody(self) -> list[Member]:
        """The members of both nodes."""
        return [member for members in self.members.values() for member in members]

    @asynccontextmanager
    async def talk(self) -> AsyncIterator[Chaos]:
        """Have members talk, then see that all of it was heard by all of them, once, and in one order."""
        async with AsyncExitStack() as stack:
            for node, letter in zip(self.nodes, "ab", strict=True):
                self.members[node] = [
                    Member(f"{room}-{letter}{i}", room, echo=bool(i)) for room in ROOMS for i in range(2)
                ]
                for member in self.members[node]:
                    await member.connect(str(node.door.address), stack)
            async with anyio.create_task_group() as tasks:
                for member in self.everybody:
                    member.listen(tasks)
                    member.talk()
                yield self
                await self.go_on()
                await self.see_each_other()
                for member in self.everybody:
                    await member.stop()
                logs = {room: await history(str(self.nodes[0].door.address), room) for room in ROOMS}
                for member in self.everybody:
                    await member.has(len(logs[member.room]))
                tasks.cancel_scope.cancel()
        for room in ROOMS:
            self.found.update(agree([member for member in self.everybody if member.room == room], logs[room]))

    async def go_on(self, members: Sequence[Member] = ()) -> None:
        """Wait until these members (default: all) have sent one more message each, and received all of these."""
        members = members or self.everybody
        before = {member: len(member.acknowledged) for member in members}
        await until(
            lambda: all(len(member.acknowledged) > number for member, number in before.items()),
            lambda: f"not everybody goes on: {[m.name for m, n in before.items() if len(m.acknowledged) <= n]}",
        )
        for room in {member.room for member in members}:
            here = [member for member in members if member.room == room]
            newest = max(message.seq for member in here for message in member.acknowledged.values())
            for member in here:
                await member.has(newest)

    def check(self) -> None:
        """See that all have heard the same so far, each all of it, once, and in order."""
        for room in ROOMS:
            here = [member for member in self.everybody if member.room == room]
            log = max((member.events for member in here if member.echo), key=len)
            for member in here:
                both = zip(member.events, member.hears(log), strict=False)  # some have heard more than others
                assert next((pair for pair in both if pair[0] != pair[1]), None) is None, f"what {member.name} heard"
                assert member.gaps == []

    async def are_told(self, code: str, members: Sequence[Member] = ()) -> None:
        """Wait until this is the last notice that these members (default: all) got."""
        members = members or self.everybody
        await until(
            lambda: all(member.notice == code for member in members),
            lambda: f"not everybody is told {code}: {[(member.name, member.notice) for member in members]}",
        )

    async def have_left(self, node: Node) -> None:
        """Wait until the members of the other node have been told that those of this one left."""
        gone = self.members[node]
        here = [member for member in self.everybody if member not in gone]

        def seen() -> list[tuple[str, str]]:
            return [(a.name, b.name) for a in here for b in gone if a.room == b.room and b.name in a.others]

        await until(lambda: not seen(), lambda: f"the first still see the second: {seen()}")

    async def see_each_other(self) -> None:
        """Wait until both nodes list each member once, and no other names."""
        for member in self.everybody:
            await member.sees({one.name for one in self.everybody if one.room == member.room})

    def figures(self) -> dict[str, int]:
        """Return the figures of the run."""
        members = self.everybody
        losses: Counter[str] = sum((member.losses for member in members), Counter())
        return {
            "acknowledged": sum(len(member.acknowledged) for member in members),
            "received": sum(len(member.events) for member in members),
            "resumed": sum(member.recoveries for member in members),
            **self.found,
            "told that Redis is away": sum(member.told["unavailable"] for member in members),
            **{f"disconnected ({code})": number for code, number in losses.items()},
        }

    # Faults

    async def random_faults(self, schedule: random.Random, number: int) -> AsyncIterator[int]:
        """Do so many faults, some while another one lasts; yields how many there were, now and then."""
        while (done := self.faults.total()) < number:
            node = schedule.choice(self.nodes)
            kind, other = schedule.sample(list(KINDS), 2)
            kinds = [kind, other] if schedule.random() < 0.25 and kind.split()[0] != other.split()[0] else [kind]
            async with AsyncExitStack() as stack:
                for kind in sorted(kinds, key=list(KINDS).index):  # a server is started while Redis can be reached
                    make, (least, most) = KINDS[kind]
                    await stack.enter_async_context(make(self, node))
                    self.faults[kind] += 1
                await anyio.sleep(schedule.uniform(least, most))
            if schedule.random() < 0.5:  # after the others the next one comes, whatever is still going on
                await self.go_on()
            if self.faults.total() // 10 > done // 10:
                await self.go_on()
                await self.see_each_other()
                self.check()
                yield self.faults.total()

    @asynccontextmanager
    async def redis_killed(self) -> AsyncIterator[None]:
        """Redis is killed, and started again from what it has on disk."""
        await anyio.to_thread.run_sync(self.redis.kill)
        yield
        await anyio.to_thread.run_sync(self.redis.start)

    @asynccontextmanager
    async def redis_paused(self) -> AsyncIterator[None]:
        """Redis stands still."""
        with stopped(self.redis.pid):
            yield

    @asynccontextmanager
    async def killed(self, node: Node) -> AsyncIterator[None]:
        """A node is killed, and started again."""
        await node.kill()
        yield
        await node.start()

    @asynccontextmanager
    async def upgraded(self, node: Node) -> AsyncIterator[None]:
        """A node is ended in good order, and started again."""
        await node.stop()
        yield
        await node.start()

    @asynccontextmanager
    async def reset(self, node: Node) -> AsyncIterator[None]:
        """The connections between a node and Redis break, and can be made again at once."""
        node.line.cut_all()
        yield

    @asynccontextmanager
    async def paused(self, node: Node) -> AsyncIterator[None]:
        """A node stands still."""
        with stopped(node.server.process.pid):
            yield

    @asynccontextmanager
    async def moved(self, node: Node) -> AsyncIterator[None]:
        """The clients of one node are sent to the other one."""
        [other] = [one for one in self.nodes if one is not node]
        home, node.door.target = node.door.target, other.door.target
        node.door.cut_all()
        yield
        node.door.target = home
        node.door.cut_all()


PATIENCE, LEASE = 1.0, 3.0
"""Of the servers that these faults are for, in seconds."""
_SHORT, _BEYOND_PATIENCE, _BEYOND_LEASE = (0.0, 0.7), (1.2, 2.0), (3.2, 4.5)
_Make: TypeAlias = Callable[[Chaos, Node], AbstractAsyncContextManager[None]]
KINDS: dict[str, tuple[_Make, tuple[float, float]]] = {
    "node killed": (lambda chaos, node: chaos.killed(node), _SHORT),
    "node killed and gone beyond its lease": (lambda chaos, node: chaos.killed(node), _BEYOND_LEASE),
    "node upgraded": (lambda chaos, node: chaos.upgraded(node), _SHORT),
    "node stopped": (lambda chaos, node: chaos.paused(node), _SHORT),
    "node stopped beyond its lease": (lambda chaos, node: chaos.paused(node), _BEYOND_LEASE),
    "members sent to the other node": (lambda chaos, node: chaos.moved(node), _SHORT),
    "network reset": (lambda chaos, node: chaos.reset(node), _SHORT),
    "network cut": (lambda chaos, node: node.line.cut(), _SHORT),
    "network cut beyond patience": (lambda chaos, node: node.line.cut(), _BEYOND_PATIENCE),
    "network cut beyond the lease": (lambda chaos, node: node.line.cut(), _BEYOND_LEASE),
    "network frozen": (lambda chaos, node: node.line.frozen("up", "down"), _SHORT),
    "network frozen beyond patience": (lambda chaos, node: node.line.frozen("up", "down"), _BEYOND_PATIENCE),
    "network frozen beyond the lease": (lambda chaos, node: node.line.frozen("up", "down"), _BEYOND_LEASE),
    "network frozen for requests": (lambda chaos, node: node.line.frozen("up"), _BEYOND_PATIENCE),
    "network frozen for answers": (lambda chaos, node: node.line.frozen("down"), _BEYOND_PATIENCE),
    "network slow": (lambda chaos, node: node.line.slow(0.05), _BEYOND_PATIENCE),
    "Redis stopped": (lambda chaos, node: chaos.redis_paused(), _SHORT),
    "Redis stopped beyond patience": (lambda chaos, node: chaos.redis_paused(), _BEYOND_PATIENCE),
    "Redis stopped beyond the lease": (lambda chaos, node: chaos.redis_paused(), _BEYOND_LEASE),
    "Redis killed": (lambda chaos, node: chaos.redis_killed(), _SHORT),
    "Redis killed and gone beyond patience": (lambda chaos, node: chaos.redis_killed(), _BEYOND_PATIENCE),
}
"""The kinds of faults, and how long each lasts. Of two at once, the lower one begins later and ends earlier."""
