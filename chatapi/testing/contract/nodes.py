"""Several brokers at once over one storage, each a node of one chat, with its own members."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.abc

from ...core.broker import Broker, Presence
from ...core.entries import NameChanged
from ...core.names import name_key
from ...events import Whisper
from ...limits import Limits
from ...pending import Pending
from ...tasks import task_group
from . import recorder
from .recorder import Recorder, told


class Node(Recorder):
    """A recorder with members, for a broker that shares its rooms with other nodes."""

    def __init__(self, broker: Broker, limits: Limits | None = None) -> None:
        super().__init__(broker, limits)
        self.ours: dict[str, dict[str, str]] = {}
        """The members of a room on this node: the name, by its key."""

    @property
    def presence(self) -> Presence:
        """The broker's `presence`."""
        presence = self.broker.presence
        assert presence is not None, "this broker's rooms are not shared"
        return presence

    async def come(self, name: str, room: str = "dev", *, session: str = "", quiet: bool = False) -> None:
        """Let a member come in; raise `Refused`."""

        def claimed(claim: Pending[None]) -> None:
            if claim.error is None:  # the name may be lost at once
                self.ours.setdefault(room, {})[name_key(name)] = name
                self.others.get(room, {}).pop(name_key(name), None)

        claim = self.presence.claim(room, name, session, quiet)
        claim.then(claimed)
        await self._answer(claim)

    def go(self, name: str, room: str = "dev", *, reason: str = "bye", quiet: bool = False) -> None:
        """Let a member leave."""
        del self.ours[room][name_key(name)]
        self.presence.release(room, name_key(name), reason, quiet)

    async def rename(
        self, name: str, to: str, room: str = "dev", *, session: str = "", quiet: bool = False
    ) -> NameChanged:
        """Rename a member; raise `Refused`."""
        entry = NameChanged(1, name, to, quiet)
        await self._answer(self.presence.rename(room, name_key(name), entry, session))
        return entry

    async def whisper(self, to: str, whisper: Whisper, room: str = "dev", *, about: str = "") -> None:
        """Whisper to a member of another node; raise `NotDelivered`."""
        await self._answer(self.presence.whisper(room, name_key(to), whisper, about))

    async def count_rooms(self) -> dict[str, int]:
        """Return the rooms with members, and the number of members of each; raise `Refused`."""
        return {room.name: room.members for room in await self._answer(self.presence.rooms())}

    async def counts(self, expected: dict[str, int]) -> None:
        """Wait until `count_rooms` returns this."""
        found = {}
        with anyio.move_on_after(recorder.PATIENCE):
            while (found := await self.count_rooms()) != expected:  # noqa: ASYNC110
                await anyio.sleep(0.01)  # other nodes publish theirs at intervals
            return
        raise AssertionError(f"the rooms are not {expected!r} but {found!r} after {recorder.PATIENCE:g} seconds")

    def roster(self, room: str = "dev") -> list[str]:
        """Return the members of a room, as far as this node has been told."""
        return sorted([*self.ours.get(room, {}).values(), *self.others.get(room, {}).values()])

    def seen(self, room: str = "dev") -> list[tuple[object, ...]]:
        """Return the entries delivered to members of this node since the room was opened, in a form to compare."""
        return told(self.delivered.get(room, []))

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until a condition is true that a call of the broker changes."""
        while not condition():
            self._news = anyio.Event()
            await self._wait(self._news, what)
        self.check()

    async def knows(self, roster: Sequence[str], room: str = "dev") -> None:
        """Wait until this is the roster."""
        await self.until(lambda: self.roster(room) == roster, f"the roster is not {roster!r}")

    async def sees(self, other: Node, room: str = "dev") -> None:
        """Wait until everything that was delivered on another node is delivered here."""
        newest = max((entry.seq for entry in other.kept(room)), default=0)
        await self.until(
            lambda: max((entry.seq for entry in self.kept(room)), default=0) >= newest,
            f"message {newest} of {room!r} was delivered on one node, and not on another",
        )

    # Called by the broker, as `SharedRooms`

    def member_renamed(self, room: str, key: str, name: str) -> None:
        """Record a rename."""
        if not any(key in names.get(room, {}) for names in (self.ours, self.others)):
            self.faults.append(f"{key!r}, not a member of {room!r}, is called {name!r} now")
        if self.ours.get(room, {}).pop(key, None):
            self.ours[room][name_key(name)] = name
        super().member_renamed(room, key, name)

    def name_lost(self, room: str, key: str, code: str) -> None:
        """Record the loss of a name."""
        if self.ours.get(room, {}).pop(key, None) is None:
            self.faults.append(f"{key!r}, not a member of {room!r}, has lost the name")
        super().name_lost(room, key, code)


async def together(*what: Callable[[], Awaitable[object]]) -> None:
    """Await several calls concurrently; raise the first error."""
    errors: list[Exception] = []

    async def one(do: Callable[[], Awaitable[object]]) -> None:
        try:
            await do()
        except Exception as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for each in what:
            tasks.start_soon(one, each)
    if errors:
        raise errors[0]


async def all_see_all(nodes: Sequence[Node], room: str = "dev") -> None:
    """Wait until every message delivered on any of the nodes is delivered on all."""
    for node in nodes:
        for other in nodes:
            await node.sees(other, room)


async def all_know(nodes: Sequence[Node], roster: Sequence[str], room: str = "dev") -> None:
    """Wait until all the nodes have this roster."""
    for node in nodes:
        await node.knows(roster, room)


class Nodes:
    """The nodes of one chat; a test starts and ends each of them."""

    def __init__(self, tasks: anyio.abc.TaskGroup, broker: Callable[[], Broker]) -> None:
        self._tasks, self._broker = tasks, broker
        self._ends: dict[Node, tuple[anyio.Event, anyio.Event]] = {}
        self._failed: dict[Node, Exception] = {}

    async def start(self, *rooms: str, limits: Limits | None = None) -> Node:
        """Start a node, which opens some rooms."""
        node = Node(self._broker(), limits)
        await self._tasks.start(self._live, node)
        for room in rooms:
            await node.open(room)
        return node

    @property
    def all(self) -> list[Node]:
        """All nodes that were started."""
        return list(self._ends)

    async def start_several(self, number: int, room: str = "dev") -> list[Node]:
        """Start several nodes, which open a room."""
        return [await self.start(room) for _ in range(number)]

    async def _live(self, node: Node, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        end, ended = self._ends[node] = anyio.Event(), anyio.Event()
        started = False
        try:
            async with node.running():
                started = True
                task_status.started()
                await end.wait()
        except Exception as error:
            if not started:
                raise
            self._failed[node] = error
        finally:
            ended.set()

    async def end(self, node: Node) -> None:
        """End a node in good order."""
        end, ended = self._ends[node]
        end.set()
        await ended.wait()
        if node in self._failed:
            raise self._failed.pop(node)


@asynccontextmanager
async def nodes(broker: Callable[[], Broker]) -> AsyncIterator[Nodes]:
    """Provide nodes for the time of the block."""
    async with task_group() as tasks:
        some = Nodes(tasks, broker)
        yield some
        for node in some.all:
            await some.end(node)
        tasks.cancel_scope.cancel()
