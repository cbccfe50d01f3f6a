"""A durable broker: every message is in a SQLite file before any member sees it and before it is acknowledged.

Group commit: whatever was said in any room while the last commit ran is the next one, so load makes larger commits,
not longer waiting. One worker thread writes, another one reads.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Final, Literal, NamedTuple, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from pydantic import BaseModel, ConfigDict, Field

from ..broker import Opened, Past, Read, Recalled, Rooms, Sequencer, unavailable
from ..clock import Clock, SystemClock
from ..entries import AnyEntry, AnyKept, KeptEntry
from ..errors import Refused, StoreError
from .store import Append, RoomInfo, Store

_logger = logging.getLogger("chatapi")
_T = TypeVar("_T")

_TRIM_EVERY: Final = 60.0
"""Seconds between two looks at what is too old or too much."""
_DAY: Final = 24 * 3600 * 1_000_000


class Keep(BaseModel):
    """How much of a room's history stays in the file: immutable, checked, every field also a flag of `chatserver`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    days: float = Field(default=0, ge=0)
    """Days after which messages in the file are forgotten; 0 for never."""
    messages: int = Field(default=0, ge=0)
    """Messages of one room in the file at most; 0 for no bound."""
    bytes: int = Field(default=0, ge=0)
    """Bytes of one room's texts in the file at most, its newest run of lines aside; 0 for no bound."""


class _Log:
    """An open room."""

    __slots__ = ("name", "on_its_way", "sequencer")

    def __init__(self, name: str, sequencer: Sequencer) -> None:
        self.name = name
        self.sequencer = sequencer
        self.on_its_way = 0  # entries that are neither delivered nor refused


class _Question(NamedTuple):
    """Something to read."""

    question: Callable[[], Any]
    then: Callable[[Any], None]
    failed: Callable[[Refused], None]


class _Batch:
    """One commit: what was said in each room, in order, and where the rooms' counts stood before."""

    def __init__(self) -> None:
        self.rooms: dict[str, list[AnyEntry]] = {}
        self.before: dict[str, tuple[int, int]] = {}


class SQLiteBroker:
    """Keeps rooms in the file at `path`, which is created if it does not exist; beside it, SQLite's own ``-wal`` and
    ``-shm``, and an empty ``-lock``.

    With ``sync="full"`` what is acknowledged survives a power cut, with ``"normal"`` the end of the process alone, of
    whatever kind: a power cut may then take the last moments, never the file's order. One server at a time can use a
    file. While the file cannot be written to, messages are refused with ``unavailable``, and everything else goes on.
    """

    keeps = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sync: Literal["full", "normal"] = "full",
        keep: Keep = Keep(),  # noqa: B008
        clock: Clock | None = None,
    ) -> None:
        self._store = Store(path, sync)
        self._keep = keep
        self._clock: Clock = clock or SystemClock()
        self._logs: dict[str, _Log] = {}
        self._queue: list[tuple[str, Sequence[AnyEntry]]] = []
        self._in_flight: _Batch | None = None
        self._questions: list[_Question] = []
        self._news = anyio.Event()  # something is in the queue
        self._asked = anyio.Event()  # something is among the questions
        self._running = False
        self._failing = False
        self._rooms: Rooms | None = None

    def attach(self, rooms: Rooms) -> None:
        """Learn whom to speak to."""
        self._rooms = rooms

    async def run(self, started: Callable[[], None]) -> None:
        """Open the file, and commit and read until cancelled. Raises `StoreError` where the file cannot be had."""
        self._writing, self._reading = anyio.CapacityLimiter(1), anyio.CapacityLimiter(1)
        self._news, self._asked = anyio.Event(), anyio.Event()
        try:
            await self._write(self._store.open)
            self._running = True
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._answer)
                tasks.start_soon(self._look_after)
                started()
                await self._commit()
        finally:
            self._running = False
            self._give_up()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._store.close)

    # What rooms ask

    def open(self, room: str, name: str, epoch: str, messages: int, max_bytes: int, then: Opened) -> None:
        """Read what there is of a room."""

        def opened(past: Past | None) -> None:
            past = past or Past(epoch, name)
            self._logs[room] = _Log(past.name, Sequencer(past.epoch, self._clock, past.seq, past.ts))
            then(past)

        self._ask(partial(self._store.past, room, messages, max_bytes), opened, then)

    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        """Take entries: what is to be kept waits for the commit, and what follows it in its room waits with it."""
        log = self._logs[room]
        kept = [entry for entry in entries if isinstance(entry, KeptEntry)]
        if (kept and self._running) or log.on_its_way:
            log.on_its_way += len(entries)
            self._queue.append((room, entries))
            self._news.set()
            return
        assert self._rooms is not None
        passing = [entry for entry in entries if not isinstance(entry, KeptEntry)]
        for entry in passing:
            log.sequencer.stamp(entry)
        if passing:
            self._rooms.deliver(room, passing)
        if kept:
            self._rooms.refuse(room, kept, unavailable("the chat does not run"))

    def read(self, room: str, before: int, messages: int, max_bytes: int, then: Read) -> None:
        """Read back."""
        self._ask(partial(self._store.read, room, before, messages, max_bytes), then, then)

    def sent(self, session: str, then: Recalled) -> None:
        """What a session has said under which ids."""
        assert self._rooms is not None
        since = self._clock.micros() - int(self._rooms.limits.remember * 1_000_000)
        self._ask(partial(self._store.sent, session, since), then, then)

    def close(self, room: str) -> None:
        """Forget a room; the file does not."""
        del self._logs[room]

    # Committing

    async def _commit(self) -> None:
        while True:
            if not self._queue:
                self._news = anyio.Event()
                await self._news.wait()
            batch = self._in_flight = self._cut()
            appends = [
                Append(room, log.name, log.sequencer.epoch, kept)
                for room, entries in batch.rooms.items()
                if (kept := [entry for entry in entries if isinstance(entry, KeptEntry)]) and (log := self._logs[room])
            ]
            try:
                if appends:
                    await self._write(self._store.append, appends)
            except StoreError as error:
                self._refuse(batch, str(error))
            else:
                self._deliver(batch)
            self._in_flight = None

    def _cut(self) -> _Batch:
        """Everything that waits, each entry with its place."""
        queue, self._queue = self._queue, []
        batch = _Batch()
        for room, entries in queue:
            sequencer = self._logs[room].sequencer
            batch.before.setdefault(room, (sequencer.seq, sequencer.ts))
            batch.rooms.setdefault(room, []).extend(entries)
            for entry in entries:
                sequencer.stamp(entry)
        return batch

    def _deliver(self, batch: _Batch) -> None:
        assert self._rooms is not None
        if self._failing:
            self._failing = False
            _logger.warning("messages are stored again")
        for room, entries in batch.rooms.items():
            self._logs[room].on_its_way -= len(entries)
            self._rooms.deliver(room, entries)

    def _refuse(self, batch: _Batch, reason: str) -> None:
        """The commit failed: nothing of it has its place, and what is not to be kept goes on without it."""
        assert self._rooms is not None
        if not self._failing:
            self._failing = True
            _logger.error("messages cannot be stored: %s; their senders are told, and each is tried", reason)
        for room, entries in batch.rooms.items():
            log = self._logs[room]
            log.sequencer.seq, log.sequencer.ts = batch.before[room]
            log.on_its_way -= len(entries)
            kept: list[AnyKept] = [entry for entry in entries if isinstance(entry, KeptEntry)]
            passing = [entry for entry in entries if not isinstance(entry, KeptEntry)]
            for entry in passing:
                log.sequencer.stamp(entry)
            if passing:
                self._rooms.deliver(room, passing)
            if kept:
                self._rooms.refuse(room, kept, unavailable(reason))

    def _give_up(self) -> None:
        """The chat ends: nothing more is committed."""
        for batch in (self._in_flight, self._cut()):
            if batch is not None and batch.rooms:
                self._refuse(batch, "the chat has ended")
        self._in_flight = None
        for asked in self._questions:
            asked.failed(unavailable("the chat has ended"))
        self._questions.clear()

    # Reading

    def _ask(self, question: Callable[[], _T], then: Callable[[_T], None], failed: Callable[[Refused], None]) -> None:
        """Have the reading thread answer a question."""
        if not self._running:
            failed(unavailable("the chat does not run; use `async with chat`, or serve it"))
            return
        self._questions.append(_Question(question, then, failed))
        self._asked.set()

    async def _answer(self) -> None:
        questions = self._questions
        while True:
            if not questions:
                self._asked = anyio.Event()
                await self._asked.wait()
            while questions:
                asked = questions[0]
                try:
                    answer = await self._read(asked.question)
                except StoreError as error:
                    _logger.error("history cannot be read: %s", error)
                    del questions[0]
                    asked.failed(unavailable(str(error)))
                else:
                    del questions[0]
                    asked.then(answer)

    # Forgetting

    async def trim(self) -> None:
        """Forget what is too old or too much; the running broker does so every minute.

        Raises `StoreError`. Cancelling it leaves some of it for the next time.
        """
        assert self._rooms is not None
        now = self._clock.micros()
        await self._write(self._store.forget_ids, now - int(self._rooms.limits.remember * 1_000_000))
        if self._keep == Keep():
            return
        before = now - int(self._keep.days * _DAY) if self._keep.days else 0
        for room in await self._read(self._store.rooms):
            await self._trim_room(room, before)

    async def _trim_room(self, room: RoomInfo, before: int) -> None:
        assert self._rooms is not None
        excess = partial(self._store.excess, messages=self._keep.messages, max_bytes=self._keep.bytes, before=before)
        through = await self._read(excess, room)
        first = room.first
        while first <= through:
            first = await self._write(self._store.trim, room._replace(first=first), through)
            self._rooms.trimmed(room.key, first)

    async def _look_after(self) -> None:
        while True:
            try:
                await self.trim()
            except StoreError as error:
                _logger.warning("old messages cannot be removed: %s", error)
            await anyio.sleep(_TRIM_EVERY)

    async def _write(self, call: Callable[..., _T], *arguments: object) -> _T:
        return await anyio.to_thread.run_sync(partial(call, *arguments), limiter=self._writing)

    async def _read(self, call: Callable[..., _T], *arguments: object) -> _T:
        return await anyio.to_thread.run_sync(partial(call, *arguments), limiter=self._reading)
