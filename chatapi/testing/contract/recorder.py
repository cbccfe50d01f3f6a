"""Stands for a chat's rooms in tests of a broker: calls it, records its calls, and checks what must always hold."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from ...core.broker import Broker, Past, Sent
from ...core.entries import AnyEntry, AnyKept, Arrived, Deletion, Departed, KeptEntry, NameChanged, Said
from ...core.names import name_key
from ...errors import Refused
from ...events import Whisper
from ...limits import Limits
from ...pending import Pending
from ..broker_runner import WakeUp, run_broker

_T = TypeVar("_T")

PATIENCE: Final = 30.0
"""Seconds after which a missing answer is a failure; it does not slow down tests that pass."""


def message(*texts: str, name: str = "Mina", ids: Sequence[str | None] | None = None, session: str = "") -> Said:
    """Return what one member says at once: a run of messages, or one message, possibly of several lines."""
    block = "".join(f"{text}\n" for text in texts).encode()
    return Said(1, name, block, len(texts), None if ids is None else tuple(ids), session)


def arrived(name: str = "Zoe") -> Arrived:
    """Return a join."""
    return Arrived(2, name)


def departed(name: str = "Zoe") -> Departed:
    """Return a leave."""
    return Departed(2, name, "bye")


def renamed(name: str = "Zoe", to: str = "Zo") -> NameChanged:
    """Return a rename."""
    return NameChanged(2, name, to, quiet=False)


def shown(entry: AnyEntry) -> tuple[object, ...]:
    """Return an entry in a form to compare: its kind, its number and its content."""
    if isinstance(entry, Said):
        return "said", entry.seq, entry.ts, entry.name, *entry.texts()
    if isinstance(entry, Deletion):
        return "deleted", entry.seq, entry.ts, entry.name, entry.target
    return type(entry).__name__.lower(), entry.seq, entry.name


def told(entries: Sequence[AnyEntry]) -> list[tuple[object, ...]]:
    """Return entries in a form to compare, message by message, without the division into runs."""
    found: list[tuple[object, ...]] = []
    for entry in entries:
        if isinstance(entry, Said):
            found += (("said", entry.seq + i, entry.ts + i, entry.name, text) for i, text in enumerate(entry.texts()))
        else:
            found.append(shown(entry))
    return found


class Recorder:
    """Rooms that only record the calls of a broker.

    It collects violations in `faults`: an entry that comes twice, out of order or unasked, a hole in the numbers, a
    time that does not grow, a call from another thread. `check`, and with it every wait, raises `AssertionError` for
    them.
    """

    def __init__(self, broker: Broker, limits: Limits | None = None) -> None:
        self.limits: Limits = limits or Limits()
        self.broker: Broker = broker
        self.delivered: dict[str, list[AnyEntry]] = {}
        """The delivered entries, by room, in their order."""
        self.refused: dict[str, list[tuple[AnyKept, Refused]]] = {}
        """The refused entries, by room, with the reason."""
        self.duplicates: dict[str, list[tuple[Said, int, int]]] = {}
        """Messages that were sent before, by room, with the number and time of the first one."""
        self.others: dict[str, dict[str, str]] = {}
        """The members of a room on other nodes: the name, by its key."""
        self.renames: list[tuple[str, str, str]] = []
        """Room, key and new name of each renamed member."""
        self.losses: list[tuple[str, str, str]] = []
        """Room, key and code of each lost name."""
        self.whispers: list[tuple[str, str, Whisper]] = []
        """Room and key of the target of each whisper from another node."""
        self.why_not: str = ""
        """The answer to such whispers: empty if they are accepted, otherwise the reason of the refusal."""
        self.cuts: list[str] = []
        """Rooms that the broker could not continue, because messages are missing."""
        self.absences: list[tuple[tuple[str, ...], str]] = []
        """The calls of `availability_changed`: the broker cannot keep messages for some rooms, or can again."""
        self.first: dict[str, int] = {}
        """The oldest number that is kept, by room, if the broker has called `trimmed`."""
        self.then: Callable[[str, Sequence[AnyEntry]], None] | None = None
        """Called with entries during their delivery or refusal."""
        self.faults: list[str] = []
        self._on_their_way: dict[str, list[AnyEntry]] = {}
        self._overtaken: set[int] = set()  # `id` of entries before a delivered one: the broker may only refuse them
        self._pasts: dict[str, tuple[int, int]] = {}  # seq and ts of each room
        self._asked = 0
        self._wake_up: WakeUp | None = None
        self._news = anyio.Event()
        self._thread = threading.get_ident()
        broker.attach(self)

    @property
    def shares(self) -> bool:
        """Whether several chats share the broker's rooms, so that it decides which members may come in."""
        return self.broker.presence is not None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Recorder]:
        """Run the broker for the time of the block; raise `AssertionError` if anything is unanswered then."""
        self._wake_up = WakeUp()
        async with run_broker(self.broker, self._wake_up):
            yield self
        self.check()
        left = sum(map(len, self._on_their_way.values()))
        assert not left, f"the broker has ended, and {left} entries are neither delivered nor refused"
        assert not self._asked, f"the broker has ended, and {self._asked} questions are not answered"

    # Asking

    async def open(
        self, room: str = "dev", *, name: str = "", epoch: str = "e", messages: int = 1000, max_bytes: int = 1 << 22
    ) -> Past:
        """Open a room; raise `Refused`."""

        def found(opened: Pending[Past]) -> None:
            if opened.error is None:  # what others say in it may follow at once
                self._pasts[room] = opened.result().seq, opened.result().ts

        opened = self.broker.open(room, name or room, epoch, messages, max_bytes)
        opened.then(found)
        return await self._answer(opened)

    def close(self, room: str = "dev") -> None:
        """Close a room."""
        self.check()
        assert not self._on_their_way.get(room), "this test closes a room too early"
        del self._pasts[room]
        self.broker.close(room)

    def submit(self, *entries: AnyEntry, room: str = "dev") -> None:
        """Submit entries, without joins and leaves if rooms are shared."""
        entries = self.submitted(entries)
        self._on_their_way.setdefault(room, []).extend(entries)
        self.broker.submit(room, entries)

    def submitted(self, entries: Iterable[AnyEntry]) -> tuple[AnyEntry, ...]:
        """Return the entries that `submit` submits."""
        return tuple(entry for entry in entries if not self.shares or isinstance(entry, KeptEntry))

    async def say(self, *entries: AnyEntry, room: str = "dev") -> None:
        """Submit entries and wait until each is delivered or refused."""
        self.submit(*entries, room=room)
        await self.settled()

    async def turn(self) -> None:
        """Let the event loop take a turn, and check that no unsettled entry has a number."""
        await checkpoint()
        self._check_unplaced()

    async def settled(self) -> None:
        """Wait until all submitted entries are delivered or refused."""
        while any(self._on_their_way.values()):
            self._news = anyio.Event()
            await self._wait(self._news, "a submitted entry is neither delivered nor refused")
        self.check()

    async def read(
        self, before: int, messages: int = 1 << 20, max_bytes: int = 1 << 30, *, room: str = "dev"
    ) -> Sequence[AnyKept]:
        """Read kept entries of a room; raise `Refused`."""
        return await self._answer(self.broker.read(room, before, messages, max_bytes))

    async def sent(self, session: str, room: str = "dev") -> Mapping[str, Sent]:
        """Return the messages that a session has sent, by id; raise `Refused`."""
        return await self._answer(self.broker.sent(room, session))

    def ask(self, answer: Pending[_T]) -> Pending[_T]:
        """Take note of a question, which must be answered before the end."""
        self._asked += 1

        def answered(answer: Pending[_T]) -> None:
            self._check_thread("an answer")
            self._asked -= 1
            self._wake()

        answer.then(answered)
        return answer

    async def answered(self) -> None:
        """Wait until everything that was asked is answered."""
        while self._asked:
            self._news = anyio.Event()
            await self._wait(self._news, "a question is not answered")
        self.check()

    async def _answer(self, answer: Pending[_T]) -> _T:
        self.ask(answer)
        while not answer.done:
            self._news = anyio.Event()
            await self._wait(self._news, "a question is not answered")
        self.check()
        return answer.result()

    async def _wait(self, news: anyio.Event, what: str) -> None:
        with anyio.move_on_after(PATIENCE):
            await news.wait()
            return
        self.check()
        raise AssertionError(f"{what} after {PATIENCE:g} seconds")

    # Results

    def kept(self, room: str = "dev") -> list[AnyKept]:
        """Return the delivered messages and deletions."""
        return [entry for entry in self.delivered.get(room, []) if isinstance(entry, Said | Deletion)]

    def check(self) -> None:
        """Raise `AssertionError` if there are any `faults`."""
        assert not self.faults, "; ".join(self.faults[:5])

    # Called by the broker, as `Rooms` and `SharedRooms`

    def deliver(self, room: str, entries: Sequence[AnyEntry], ours: bool = True) -> None:
        """Record delivered entries, of this node or of others."""
        self._check_thread("deliver")
        taken = [entry for entry in entries if not ours or self._take(room, entry, "delivered")]
        self._check_unplaced()
        for entry in taken:
            self.delivered.setdefault(room, []).append(entry)
            if room not in self._pasts:
                self.faults.append(f"something was delivered to {room!r}, which is not open")
                continue
            seq, ts = self._pasts[room]
            if not isinstance(entry, KeptEntry):
                if entry.seq != seq:
                    self.faults.append(
                        f"a {type(entry).__name__} carries {entry.seq} where {seq} was the newest number"
                    )
                continue
            if entry.seq != seq + 1:
                self.faults.append(f"number {entry.seq} follows {seq} in {room!r}")
            if entry.ts <= ts:
                self.faults.append(f"the time of number {entry.seq} in {room!r} is {ts - entry.ts} µs before the last")
            self._pasts[room] = entry.seq + entry.count - 1, entry.ts + entry.count - 1
        self._wake()
        if self.then is not None:
            self.then(room, entries)

    def refuse(self, room: str, entries: Sequence[Any], reason: Refused) -> None:
        """Record refused entries."""
        self._check_thread("refuse")
        for entry in entries:
            if not self._take(room, entry, "refused"):
                continue
            if not isinstance(entry, Said | Deletion):  # possible if the broker is not type-checked
                self.faults.append(f"a {type(entry).__name__} was refused: only messages and deletions can be")
                continue
            if entry.seq:
                self.faults.append(f"{shown(entry)} was given a number and refused")
            self.refused.setdefault(room, []).append((entry, reason))
        self._wake()
        if self.then is not None:
            self.then(room, entries)

    def already_sent(self, room: str, said: Said, seq: int, ts: int) -> None:
        """Record a message that was sent before."""
        self._check_thread("already_sent")
        if self._take(room, said, "known"):
            self.duplicates.setdefault(room, []).append((said, seq, ts))
        self._wake()

    def remote_member_changed(self, room: str, key: str, name: str | None) -> None:
        """Record a member of another node, or its leave."""
        self._check_thread("remote_member_changed")
        names = self.others.setdefault(room, {})
        if name is not None:
            names[key] = name
        else:
            names.pop(key, None)
        self._wake()

    def member_renamed(self, room: str, key: str, name: str) -> None:
        """Record a rename."""
        self._check_thread("member_renamed")
        names = self.others.setdefault(room, {})
        if key in names:
            del names[key]
            names[name_key(name)] = name
        self.renames.append((room, key, name))
        self._wake()

    def name_lost(self, room: str, key: str, code: str) -> None:
        """Record the loss of a name."""
        self._check_thread("name_lost")
        self.losses.append((room, key, code))
        self._wake()

    def deliver_whisper(self, room: str, key: str, whisper: Whisper) -> str:
        """Record a whisper; return `why_not`."""
        self._check_thread("deliver_whisper")
        self.whispers.append((room, key, whisper))
        self._wake()
        return self.why_not

    def disconnect_room(self, room: str) -> None:
        """Record that a room cannot go on, and close it, as a chat does."""
        self._check_thread("disconnect_room")
        if self._on_their_way.get(room):
            self.faults.append(f"{room!r} was cut before what is on its way there was refused")
        self.cuts.append(room)
        del self._pasts[room]
        self.broker.close(room)
        self._wake()

    def availability_changed(self, rooms: Sequence[str], detail: str) -> None:
        """Record whether the broker can keep messages."""
        self._check_thread("availability_changed")
        self.absences.append((tuple(rooms), detail))
        self._wake()

    def wake_threadsafe(self) -> None:
        """Have `collect` called soon. Any thread may call this."""
        if self._wake_up is not None:
            self._wake_up.set()

    wake = wake_threadsafe

    def trimmed(self, room: str, first: int) -> None:
        """Record the oldest number that is kept."""
        self._check_thread("trimmed")
        self.first[room] = max(first, self.first.get(room, 1))
        self._wake()

    def _take(self, room: str, entry: AnyEntry, what: str) -> bool:
        """Mark an entry as settled; check that it happens once, and in order for delivered entries."""
        waiting = self._on_their_way.get(room, [])
        at = next((i for i, one in enumerate(waiting) if one is entry), None)
        if at is None:
            self.faults.append(f"{shown(entry)} was {what} in {room!r}, but was not, or no longer, on its way there")
            return False
        del waiting[at]
        if what == "delivered":
            self._overtaken.update(id(one) for one in waiting[:at])
            if id(entry) in self._overtaken:
                self.faults.append(f"{shown(entry)} was delivered behind what was submitted after it")
        self._overtaken.discard(id(entry))
        return True

    def _check_unplaced(self) -> None:
        """Check that no unsettled entry has a number: the chat would acknowledge it before it is kept."""
        for entries in self._on_their_way.values():
            for entry in entries:
                if isinstance(entry, KeptEntry) and entry.seq:
                    self.faults.append(f"{shown(entry)} was given a number before it was delivered")

    def _wake(self) -> None:
        if threading.get_ident() == self._thread:  # an event may only be set in its own thread
            self._news.set()

    def _check_thread(self, what: str) -> None:
        if threading.get_ident() != self._thread:
            self.faults.append(f"{what} came in another thread than the event loop's")
