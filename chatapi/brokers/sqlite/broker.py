"""A durable broker: every message is in a SQLite file before any member sees it and before it is acknowledged.

Group commit: whatever was said in any room while the last commit ran is the next one, so load makes larger commits,
not longer waiting. One worker thread writes, another one reads.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal, TypeVar

import anyio
import anyio.to_thread

from ...clock import Clock, SystemClock
from ...core.broker import Past, Rooms, Sent, unavailable
from ...core.entries import AnyEntry, AnyKept, Deletion, KeptEntry, Said
from ...errors import StoreError
from ...limits import Keep
from ...pending import Pending, wait
from .store import RoomInfo, Store
from .writer import Committed, Done, Log, Part, Place, Worker, Writer

_logger = logging.getLogger("chatapi")
_T = TypeVar("_T")

_TRIM_EVERY: Final = 60.0
"""Seconds between two looks at what is too old or too much."""
_ROOMS_AT_ONCE: Final = 100
"""Rooms looked at for that in one go: more would hold up who wants to come in."""
_PATIENCE: Final = 10.0
"""Seconds that the end waits for a disk that does not answer."""
_ENDED: Final = "the chat does not run"
_DAY: Final = 24 * 3600 * 1_000_000


class SQLiteBroker:
    """Keeps rooms in the file at `path`, which is created if it does not exist; beside it, SQLite's own ``-wal`` and
    ``-shm``, and an empty ``-lock``.

    With ``sync="full"`` what is acknowledged survives a power cut, with ``"normal"`` the end of the process alone, of
    whatever kind: a power cut may then take the last moments, never the file's order. One server at a time can use a
    file. While the file cannot be written to, messages are refused with ``unavailable``, and everything else goes on.
    """

    keeps = True
    presence = None
    secret: bytes = b""

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
        self._reader: Worker | None = None
        self._done: Done = deque()
        self._on_their_way: deque[Part] = deque()
        self._fresh: list[Part] = []  # those of them that the writing thread has not got yet
        self._unanswered: dict[Pending[Any], None] = {}  # what the reading thread is asked
        self._failing = False
        self._rooms: Rooms | None = None

    def attach(self, rooms: Rooms) -> None:
        """Learn whom to speak to."""
        self._rooms = rooms

    async def run(self, started: Callable[[], None]) -> None:
        """Open the file, and commit and read until cancelled. Raises `StoreError` where the file cannot be had.

        What was submitted before it is cancelled is committed and delivered.
        """
        await anyio.to_thread.run_sync(self._open)
        assert self._rooms is not None
        self._writer = Writer(self._store, self._clock, self._done, self._rooms.wake_threadsafe)
        self._reader = Worker("chatapi store, reading", self._done, self._rooms.wake_threadsafe)
        self._writer.start()
        self._reader.start()
        try:
            started()
            await self._look_after()
        finally:
            with anyio.CancelScope(shield=True):
                await self._end(self._writer, self._reader)

    def _open(self) -> None:
        self._store.open()
        try:
            self.secret = self._store.signing_key()
            _logger.info("history is kept in %s; rooms in it: %d", self._store.path, len(self._store.keys()))
        except BaseException:
            self._store.close()
            raise

    async def _end(self, writer: Writer, reader: Worker) -> None:
        self.collect()
        writer.stop()
        reader.stop()

        def close() -> None:
            writer.join()
            reader.join()
            self._store.close()

        closing = threading.Thread(target=close, name="chatapi store, closing", daemon=True)
        closing.start()
        await anyio.to_thread.run_sync(closing.join, _PATIENCE)
        if writer.is_alive():
            _logger.error("the last messages may not be stored: the disk does not answer")
        self.collect()
        self._writer = self._reader = None
        self._done = deque()  # a disk that answers later than that tells nobody
        self._fresh = []
        while self._on_their_way:  # what came last, or is with a disk that does not answer
            part = self._on_their_way.popleft()
            self._settle(part, part.unplaced(), _ENDED)
        unanswered, self._unanswered = self._unanswered, {}
        for answer in unanswered:
            answer.fail(unavailable(_ENDED))

    # What rooms ask

    def open(self, room: str, name: str, epoch: str, messages: int, max_bytes: int) -> Pending[Past]:
        """Read what there is of a room; members wait for that, so pages of history come later."""

        def opened(past: Past | None) -> Past:
            past = past or Past(epoch, name)
            self._logs[room] = Log(room, past)
            return past

        return self._ask(partial(self._store.past, room, messages, max_bytes), urgent=True).map(opened)

    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        """Take entries: what is to be kept waits for the commit, and what follows it in its room waits with it."""
        assert self._rooms is not None
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
                self._fresh.append(part)
                self._rooms.wake()

    def read(self, room: str, before: int, messages: int, max_bytes: int) -> Pending[Sequence[AnyKept]]:
        """Read back."""
        return self._ask(partial(self._store.read, room, before, messages, max_bytes))

    def sent(self, room: str, session: str) -> Pending[Mapping[str, Sent]]:
        """What a session has said under which ids."""
        assert self._rooms is not None
        since = self._clock.micros() - int(self._rooms.limits.remember * 1_000_000)
        return self._ask(partial(self._store.sent, session, since), urgent=True)

    def close(self, room: str) -> None:
        """Forget a room; the file does not."""
        del self._logs[room]

    # What comes back

    def collect(self) -> None:
        """Deliver what was committed, refuse what could not be; hand over what was submitted since.

        All that a round brings goes to the writing thread as one: else it would begin with the first line alone, and
        every member of a room would be sent one line at a time.
        """
        while self._done:
            done = self._done.popleft()
            if not isinstance(done, Committed):
                done()
                continue
            if done.tried and bool(done.reason) is not self._failing:
                self._failing = bool(done.reason)
                if self._failing:
                    _logger.error("messages cannot be stored: %s; senders are told, and each one is tried", done.reason)
                else:
                    _logger.warning("messages are stored again")
            reason = self._told(done.reason)
            for part, places in zip(done.parts, done.places, strict=True):
                self._on_their_way.popleft()
                self._settle(part, places, reason)
        if self._fresh and self._writer is not None:
            self._writer.commit(self._fresh)
            self._fresh = []

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

    def _ask(self, question: Callable[[], _T], *, urgent: bool = False) -> Pending[_T]:
        """Have the reading thread answer a question."""
        if self._reader is None:
            return Pending.failed(unavailable("the chat does not run; use `async with chat`, or serve it"))
        answer: Pending[_T] = Pending()

        def answered(read: Pending[_T]) -> None:
            del self._unanswered[answer]
            if (error := read.error) is None:
                answer.resolve(read.result())
                return
            expected = isinstance(error, StoreError)
            _logger.error("history cannot be read: %s", error, exc_info=None if expected else error)
            answer.fail(unavailable(self._told(str(error) or repr(error))))

        self._unanswered[answer] = None
        self._reader.call(question, urgent=urgent).then(answered)
        return answer

    # Forgetting

    async def trim(self) -> None:
        """Forget what is too old or too much; the running broker does so every minute.

        Raises `StoreError`. Cancelling it leaves some of it for the next time.
        """
        if self._rooms is None or self._writer is None:
            raise StoreError(_ENDED)
        now = self._clock.micros()
        await self._write(self._store.erase_deleted_text)
        forgotten = now - int(self._rooms.limits.remember * 1_000_000)
        while await self._write(self._store.forget_ids, forgotten):
            pass
        if self._keep == Keep():
            return
        before = now - int(self._keep.days * _DAY) if self._keep.days else 0
        too_much = partial(
            self._store.rooms_over_limit, messages=self._keep.messages, max_bytes=self._keep.bytes, before=before
        )
        keys = await self._read(self._store.keys)
        for i in range(0, len(keys), _ROOMS_AT_ONCE):
            for room, through in await self._read(too_much, keys[i : i + _ROOMS_AT_ONCE]):
                await self._trim_room(room, through)

    async def _trim_room(self, room: RoomInfo, through: int) -> None:
        assert self._rooms is not None
        first = room.first
        while first <= through:
            first = await self._write(self._store.trim, room, through)
            await self._read(_nothing)  # a room that was read before that is open by now, and will be told
            self._rooms.trimmed(room.key, first)

    async def _look_after(self) -> None:
        while True:
            try:
                await self.trim()
            except StoreError as error:
                _logger.warning("old messages cannot be removed: %s", error)
            await anyio.sleep(_TRIM_EVERY)

    async def _write(self, call: Callable[..., _T], *arguments: object) -> _T:
        return await _by(self._writer, partial(call, *arguments))

    async def _read(self, call: Callable[..., _T], *arguments: object) -> _T:
        return await _by(self._reader, partial(call, *arguments))


def _nothing() -> None:
    pass


async def _by(worker: Worker | None, call: Callable[[], _T]) -> _T:
    """Have a thread do something. Raises what that raises, and `StoreError` where there is no thread."""
    if worker is None:
        raise StoreError(_ENDED)
    return await wait(worker.call(call))
