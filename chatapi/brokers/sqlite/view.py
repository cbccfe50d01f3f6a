"""A store's file, open for reading only, while a server may write to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import StoreError
from .store import LAST_SEQ, SEQ_BITS, RoomInfo, Store


class View(Store):
    """The rooms in one file, for reading. Every method raises `StoreError`."""

    def open(self) -> None:
        """Open the file. It is not changed, and neither is a write-ahead log that a killed server has left."""
        file = repr(str(self.path))
        with self.errors():
            if not self.path.exists():
                raise StoreError(f"{file}: there is no such file")
            if not self.path.is_file():
                raise StoreError(f"{file}: this is not a file")
            log = self.path.with_name(f"{self.path.name}-wal")
            if log.exists() and log.stat().st_size:
                self._open("ro")  # with "rw", closing it would move the log into the file
                return
            if not self.path.stat().st_size:
                raise StoreError(f"{file} is empty")
            try:
                self._open("rw")  # "ro" would leave an empty log behind
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_CANTOPEN:
                    raise
                self._open("ro&immutable=1")  # the folder can have no log, so nobody writes to the file

    def _open(self, mode: str) -> None:
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        try:
            self._reader = sqlite3.connect(uri, uri=True, isolation_level=None)
            self._reader.execute("PRAGMA query_only = ON")
            self._check_kind(self._reader)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Have every read in the block see the file as of one moment."""
        with self.errors():
            self.reader.execute("BEGIN")
        try:
            yield
        finally:
            if self.reader.in_transaction:
                self.reader.execute("ROLLBACK")

    def room(self, key: str) -> RoomInfo | None:
        """Return the state of a room; None if there is no such room."""
        try:
            room = super().room(key)
            if room is None or all(type(value) is int for value in (room.trimmed, room.trimmed_ts, room.seq, room.ts)):
                return room
        except TypeError:
            pass
        raise StoreError(f"{str(self.path)!r}: room {key!r} is damaged; `chatserver check` lists the faults")

    def size(self, room: RoomInfo) -> tuple[int, int]:
        """Return the number of messages that a room keeps, and the bytes of their texts."""
        base = room.id << SEQ_BITS
        with self.errors():
            sql = (
                "SELECT coalesce(sum(count), 0), coalesce(sum(length(block)), 0) FROM log"
                " WHERE place BETWEEN ? AND ? AND block IS NOT NULL"
            )
            messages, size = self.reader.execute(sql, (base, base + LAST_SEQ)).fetchone()
        return messages, size
