"""A store's file that is only looked at, also while a server writes to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import StoreError
from .store import LAST_SEQ, SEQ_BITS, RoomInfo, Store


class View(Store):
    """The rooms in one file, to read. Every method raises `StoreError`."""

    def look(self) -> None:
        """Open the file. It stays as it is, also with what a killed server has left in its write-ahead log."""
        file = repr(str(self.path))
        with self.errors():
            if not self.path.exists():
                raise StoreError(f"{file}: there is no such file")
            if not self.path.is_file():
                raise StoreError(f"{file}: this is not a file")
            log = self.path.with_name(f"{self.path.name}-wal")
            if log.exists() and log.stat().st_size:
                self._look("ro")  # or closing it would empty the log into the file
                return
            if not self.path.stat().st_size:
                raise StoreError(f"{file} is empty")
            try:
                self._look("rw")  # with "ro" it would leave an empty log behind
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_CANTOPEN:
                    raise
                self._look("ro&immutable=1")  # where there can be no log: nobody writes to it

    def _look(self, mode: str) -> None:
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
        """What is read in the block is of one moment, whatever a server writes meanwhile."""
        with self.errors():
            self.reader.execute("BEGIN")
        try:
            yield
        finally:
            if self.reader.in_transaction:
                self.reader.execute("ROLLBACK")

    def room(self, key: str) -> RoomInfo | None:
        """What is known of a room."""
        try:
            room = super().room(key)
            if room is None or all(type(value) is int for value in (room.trimmed, room.trimmed_ts, room.seq, room.ts)):
                return room
        except TypeError:
            pass
        raise StoreError(f"{str(self.path)!r}: room {key!r} is damaged; `chatserver check` tells more")

    def size(self, room: RoomInfo) -> tuple[int, int]:
        """How many messages are kept of a room, and the bytes of their texts."""
        base = room.id << SEQ_BITS
        with self.errors():
            sql = (
                "SELECT coalesce(sum(count), 0), coalesce(sum(length(block)), 0) FROM log"
                " WHERE place BETWEEN ? AND ? AND block IS NOT NULL"
            )
            messages, size = self.reader.execute(sql, (base, base + LAST_SEQ)).fetchone()
        return messages, size
