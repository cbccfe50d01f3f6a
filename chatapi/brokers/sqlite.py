"""A durable broker: every message is in a SQLite file before any member sees it and before it is acknowledged.

Group commit: whatever was said in any room while the last commit ran is the next one, so load makes larger commits,
not longer waiting. One worker thread writes, another one reads.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Final, Literal, NamedTuple, TypeVar, cast

import anyio
import anyio.to_thread
from pydantic import BaseModel, ConfigDict, Field

from ..broker import Opened, Past, Read, Recalled, Rooms, unavailable
from ..clock import Clock, SystemClock
from ..entries import AnyEntry, AnyKept, Deletion, KeptEntry, Said
from ..errors import Refused, StoreError
from .store import RoomInfo, Store
from .writer import Committed, Log, Part, Place, Writer

_logger = logging.getLogger("chatapi")
_T = TypeVar("_T")

_TRIM_EVERY: Final = 60.0
"""Seconds between two looks at what is too old or too much."""
_PATIENCE: Final = 10.0
"""Seconds that the end waits for a disk that does not answer."""
_ENDED: Final = "the chat does not run"
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


class _Question(NamedTuple):
    """Something to read."""

    question: Callable[[], Any]
    then: Callable[[Any], None]
    failed: Callable[[Refused], None]


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
        if sync not in ("full", "normal"):
            raise ValueError(f"sync is 'full' or 'normal', not {sync!r}")
        if not isinstance(keep, Keep):
            raise ValueError(f"keep is a Keep, such as Keep(days=30), not {keep!r}")
        self._store = Store(path, sync)
        self._keep = keep
        self._clock: Clock = clock or SystemClock()
        self._logs: dict[str, Log] = {}
        self._writer: Writer | None = None  # while it runs
        self._on_their_way: deque[Part] = deque()
        self._questions: list[_Question] = []
        self._asked = anyio.Event()  # something is among the questions
        self._failing = False
        self._rooms: Rooms | None = None

    def attach(self, rooms: Rooms) -> None:
        """Learn whom to speak to."""
        self._rooms = rooms

    async def run(self, started: Callable[[], None]) -> None:
        """Open the file, and commit and read until cancelled. Raises `StoreError` where the file cannot be had.

        What was submitted before it is cancelled is committed and delivered.
        """
        self._reading = anyio.CapacityLimiter(1)
        self._asked = anyio.Event()
        await anyio.to_thread.run_sync(self._store.open)
        rooms = await self._read(self._store.rooms)
        _logger.info("history is kept in %s: %d rooms", self._store.path, len(rooms))
        assert self._rooms is not None
        self._writer = writer = Writer(self._store, self._clock, self._rooms.ring)
        writer.start()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._answer)
                tasks.start_soon(self._look_after)
                started()
                await anyio.sleep_forever()
        finally:
            writer.stop()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(writer.join, _PATIENCE)
                if writer.is_alive():
                    _logger.error("the last messages may not be stored: the disk does not answer")
                else:
                    await anyio.to_thread.run_sync(self._store.close)
            self.collect()
            self._writer = None
            while self._on_their_way:  # what came last, or is with a disk that does not answer
                part = self._on_their_way.popleft()
                self._settle(part, part.unplaced(), _ENDED)
            for asked in self._questions:
                asked.failed(unavailable(_ENDED))
            self._questions.clear()

    # What rooms ask

    def open(self, room: str, name: str, epoch: str, messages: int, max_bytes: int, then: Opened) -> None:
        """Read what there is of a room."""

        def opened(past: Past | None) -> None:
            past = past or Past(epoch, name)
            self._logs[room] = Log(room, past)
            then(past)

        self._ask(partial(self._store.past, room, messages, max_bytes), opened, then)

    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        """Take entries: what is to be kept waits for the commit, and what follows it in its room waits with it."""
        part = Part(self._logs[room], entries)
        is_first = not part.log.on_its_way
        part.log.on_its_way += len(entries)
        if is_first and not any(isinstance(entry, KeptEntry) for entry in entries):
            self._settle(part, part.unplaced())
        elif is_first and self._writer is None:
            self._settle(part, part.unplaced(), _ENDED)
        else:
            self._on_their_way.append(part)
            if self._writer is not None:
                self._writer.commit(part)

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

    # What comes back

    def collect(self) -> None:
        """Deliver what was committed, refuse what could not be."""
        while self._writer is not None and self._writer.done:
            done = self._writer.done.popleft()
            if not isinstance(done, Committed):
                done()
                continue
            if done.tried and bool(done.reason) is not self._failing:
                self._failing = bool(done.reason)
                if self._failing:
                    _logger.error("messages cannot be stored: %s; senders are told, and each one is tried", done.reason)
                else:
                    _logger.warning("messages are stored again")
            for part, places in zip(done.parts, done.places, strict=True):
                self._on_their_way.popleft()
                self._settle(part, places, self._told(done.reason))

    def _told(self, reason: str) -> str:
        """A reason as members are told it: where the file is is nobody's business."""
        return reason.replace(repr(str(self._store.path)), "the server's file")

    def _settle(self, part: Part, places: Sequence[Place], reason: str = "") -> None:
        """Deliver entries to their room; where there is a reason against it, only those that are not to be kept."""
        assert self._rooms is not None
        part.log.on_its_way -= len(part.entries)
        passing: list[AnyEntry] = []
        refused: list[AnyKept] = []
        for entry, (seq, ts) in zip(part.entries, places, strict=True):
            if isinstance(entry, Said | Deletion):
                if reason:
                    refused.append(entry)
                    continue
                entry.ts = ts
            entry.seq = seq
            passing.append(entry)
        if passing:
            self._rooms.deliver(part.log.key, passing)
        if refused:
            self._rooms.refuse(part.log.key, refused, unavailable(reason))

    # Reading

    def _ask(self, question: Callable[[], _T], then: Callable[[_T], None], failed: Callable[[Refused], None]) -> None:
        """Have the reading thread answer a question."""
        if self._writer is None:
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
                    asked.failed(unavailable(self._told(str(error))))
                else:
                    del questions[0]
                    asked.then(answer)

    # Forgetting

    async def trim(self) -> None:
        """Forget what is too old or too much; the running broker does so every minute.

        Raises `StoreError`. Cancelling it leaves some of it for the next time.
        """
        if self._rooms is None or self._writer is None:
            raise StoreError(_ENDED)
        now = self._clock.micros()
        await self._write(self._store.wipe)
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
        """Have the writing thread do something."""
        answers: list[Any] = []
        answered = anyio.Event()

        def then(answer: object) -> None:
            answers.append(answer)
            answered.set()

        if self._writer is None:
            raise StoreError(_ENDED)
        self._writer.call(partial(call, *arguments), then)
        await answered.wait()
        if isinstance(answers[0], Exception):
            raise answers[0]
        return cast("_T", answers[0])

    async def _read(self, call: Callable[..., _T], *arguments: object) -> _T:
        return await anyio.to_thread.run_sync(partial(call, *arguments), limiter=self._reading)
