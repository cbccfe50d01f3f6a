"""A durable broker: every message is in a SQLite file before a member sees it and before it is acknowledged.

Group commit: everything that was submitted during one commit is the next one, in all rooms. So load makes commits
larger, and nobody waits longer. One worker thread writes, another one reads.
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
from ...pending import Pending
from ...tasks import wait
from .store import RoomInfo, Store
from .writer import Committed, Done, Log, Position, Submission, Worker, Writer

_logger = logging.getLogger("chatapi")
_T = TypeVar("_T")

_TRIM_EVERY: Final = 60.0
"""Seconds between two checks for messages that are too old or too many."""
_ROOMS_AT_ONCE: Final = 100
"""Rooms in one such check, because rooms that are opened wait for its end."""
_CLOSING_SECONDS: Final = 10.0
"""Seconds that the end waits for the disk."""
_ENDED: Final = "the chat is not running"
_DAY: Final = 24 * 3600 * 1_000_000


class SQLiteBroker:
    """Keeps rooms in the file at `path`, which is created if it does not exist.

    Beside it are SQLite's own files ``-wal`` and ``-shm``, and an empty ``-lock``. Only one server at a time can use a
    file. With ``sync="full"`` acknowledged messages survive a power cut. With ``"normal"`` they survive any end of the
    process, but a power cut may take the newest ones. While the file cannot be written, messages are refused with
    ``unavailable``, and everything else goes on.
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
            raise ValueError(f"sync must be 'full' or 'normal', not {sync!r}")
        if not isinstance(keep, Keep):
            raise ValueError(f"keep must be a Keep, such as Keep(days=30), not {keep!r}")
        self._store = Store(path, sync)
        self._keep = keep
        self._clock: Clock = clock or SystemClock()
        self._logs: dict[str, Log] = {}
        self._writer: Writer | None = None
        self._reader: Worker | None = None
        self._done: Done = deque()
        self._unsettled: deque[Submission] = deque()
        self._uncommitted: list[Submission] = []  # the part of `_unsettled` that the writing thread does not have yet
        self._reads: dict[Pending[Any], None] = {}  # the reads that have no result so far
        self._failing = False
        self._rooms: Rooms | None = None

    def attach(self, rooms: Rooms) -> None:
        self._rooms = rooms

    async def run(self, started: Callable[[], None]) -> None:
        """Open the file, and commit and read until cancelled. Raises `StoreError` if the file cannot be opened.

        At the end, everything that was submitted is committed and delivered.
        """
        await anyio.to_thread.run_sync(self._open)
        assert self._rooms is not None
        self._writer = Writer(self._store, self._clock, self._done, self._rooms.wake_threadsafe, self._committed)
        self._reader = Worker("chatapi store, reading", self._done, self._rooms.wake_threadsafe)
        self._writer.start()
        self._reader.start()
        try:
            started()
            await self._trim_regularly()
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
        await anyio.to_thread.run_sync(closing.join, _CLOSING_SECONDS)
        if writer.is_alive():
            _logger.error("the disk does not answer, so the last messages may not be stored")
        self.collect()
        self._writer = self._reader = None
        self._done = deque()  # results that come later are dropped
        self._uncommitted = []
        while self._unsettled:  # submitted at the end, or the disk does not answer
            submission = self._unsettled.popleft()
            self._settle(submission, submission.without_numbers(), _ENDED)
        reads, self._reads = self._reads, {}
        for read in reads:
            read.fail(unavailable(_ENDED))

    # Rooms

    def open(self, room: str, name: str, epoch: str, messages: int, max_bytes: int) -> Pending[Past]:
        def opened(past: Past | None) -> Past:
            past = past or Past(epoch, name)
            self._logs[room] = Log(room, past)
            return past

        return self._read_soon(partial(self._store.past, room, messages, max_bytes), urgent=True).map(opened)

    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        assert self._rooms is not None
        submission = Submission(self._logs[room], entries)
        is_first = not submission.log.unsettled
        submission.log.unsettled += len(entries)
        if is_first and not any(isinstance(entry, KeptEntry) for entry in entries):
            self._settle(submission, submission.without_numbers())
        elif is_first and self._writer is None:
            self._settle(submission, submission.without_numbers(), _ENDED)
        else:
            self._unsettled.append(submission)
            if self._writer is not None:
                self._uncommitted.append(submission)
                self._rooms.wake()

    def read(self, room: str, before: int, messages: int, max_bytes: int) -> Pending[Sequence[AnyKept]]:
        return self._read_soon(partial(self._store.read, room, before, messages, max_bytes))

    def sent(self, room: str, session: str) -> Pending[Mapping[str, Sent]]:
        assert self._rooms is not None
        since = self._clock.micros() - int(self._rooms.limits.remember * 1_000_000)
        return self._read_soon(partial(self._store.sent, session, since), urgent=True)

    def close(self, room: str) -> None:
        del self._logs[room]

    # Results

    def collect(self) -> None:
        while self._done:
            self._done.popleft()()
        # Everything of a round goes to the writing thread together. Otherwise the first line would be a commit of its
        # own, and each member would be sent one line at a time.
        if self._uncommitted and self._writer is not None:
            self._writer.commit(self._uncommitted)
            self._uncommitted = []

    def _committed(self, result: Committed) -> None:
        if result.stored and bool(result.reason) is not self._failing:
            self._failing = bool(result.reason)
            if self._failing:
                _logger.error(
                    "messages cannot be stored: %s; messages are refused until the server can store one", result.reason
                )
            else:
                _logger.warning("messages can be stored again")
        reason = self._without_path(result.reason)
        for submission, positions in zip(result.submissions, result.positions, strict=True):
            self._unsettled.popleft()
            self._settle(submission, positions, reason)

    def _without_path(self, reason: str) -> str:
        """Return a reason that may be shown to members, who should not learn where the file is."""
        return reason.replace(repr(str(self._store.path)), "the server's file")

    def _settle(self, submission: Submission, positions: Sequence[Position], reason: str = "") -> None:
        """Deliver entries to their room; if there is a reason, refuse those that are kept."""
        assert self._rooms is not None
        submission.log.unsettled -= len(submission.entries)
        delivered: list[AnyEntry] = []
        refused: list[AnyKept] = []
        for entry, (seq, ts) in zip(submission.entries, positions, strict=True):
            if isinstance(entry, Said | Deletion):
                if reason:
                    refused.append(entry)
                    continue
                entry.ts = ts
            entry.seq = seq
            delivered.append(entry)
        if delivered:
            self._rooms.deliver(submission.log.key, delivered)
        if refused:
            self._rooms.refuse(submission.log.key, refused, unavailable(reason))

    # Reading

    def _read_soon(self, read: Callable[[], _T], *, urgent: bool = False) -> Pending[_T]:
        """Return what the reading thread reads."""
        if self._reader is None:
            return Pending.failed(unavailable("the chat is not running; use `async with chat`, or serve it"))
        result: Pending[_T] = Pending()

        def done(executed: Pending[_T]) -> None:
            del self._reads[result]
            if (error := executed.error) is None:
                result.resolve(executed.result())
                return
            expected = isinstance(error, StoreError)
            _logger.error("history cannot be read: %s", error, exc_info=None if expected else error)
            result.fail(unavailable(self._without_path(str(error) or repr(error))))

        self._reads[result] = None
        self._reader.execute(read, urgent=urgent).then(done)
        return result

    # Trimming

    async def trim(self) -> None:
        """Remove messages that are too old or too many, and old ids. The running broker does this every minute.

        Raises `StoreError`. If it is cancelled, the next call does the rest.
        """
        if self._rooms is None or self._writer is None:
            raise StoreError(_ENDED)
        now = self._clock.micros()
        await self._write(self._store.erase_deleted_text)
        forget_before = now - int(self._rooms.limits.remember * 1_000_000)
        while await self._write(self._store.forget_ids, forget_before):
            pass
        if self._keep == Keep():
            return
        before = now - int(self._keep.days * _DAY) if self._keep.days else 0
        over_limit = partial(
            self._store.rooms_over_limit, messages=self._keep.messages, max_bytes=self._keep.bytes, before=before
        )
        keys = await self._read(self._store.keys)
        for i in range(0, len(keys), _ROOMS_AT_ONCE):
            for room, through in await self._read(over_limit, keys[i : i + _ROOMS_AT_ONCE]):
                await self._trim_room(room, through)

    async def _trim_room(self, room: RoomInfo, through: int) -> None:
        assert self._rooms is not None
        first = room.first
        while first <= through:
            first = await self._write(self._store.trim, room, through)
            await self._read(_nothing)  # after this, rooms that were being read are open, and take note
            self._rooms.trimmed(room.key, first)

    async def _trim_regularly(self) -> None:
        while True:
            try:
                await self.trim()
            except StoreError as error:
                _logger.warning("old messages cannot be removed: %s", error)
            await anyio.sleep(_TRIM_EVERY)

    async def _write(self, function: Callable[..., _T], *arguments: object) -> _T:
        return await _execute(self._writer, partial(function, *arguments))

    async def _read(self, function: Callable[..., _T], *arguments: object) -> _T:
        return await _execute(self._reader, partial(function, *arguments))


def _nothing() -> None:
    pass


async def _execute(worker: Worker | None, function: Callable[[], _T]) -> _T:
    """Execute a function in a thread. Raises its errors, and `StoreError` if there is no thread."""
    if worker is None:
        raise StoreError(_ENDED)
    return await wait(worker.execute(function))
