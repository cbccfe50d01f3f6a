"""The SQLite database of a store: open and lock the file, migrate its schema, run transactions, translate errors."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from ...errors import StoreError

APPLICATION_ID: Final = 0x4D436861
"""Identifies the files of this program ("MCha") in SQLite's header."""
_MAGIC: Final = b"SQLite format 3\0"
_BUSY_SECONDS: Final = 5.0
"""Seconds to wait for another program that writes to the file, such as a person's `sqlite3`."""

_FIRST_SCHEMA: Final = """
CREATE TABLE rooms (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    epoch TEXT NOT NULL,
    trimmed INTEGER NOT NULL,     -- the seq up to which messages were removed
    trimmed_ts INTEGER NOT NULL
);
CREATE TABLE log (
    place INTEGER PRIMARY KEY,    -- room << 40 | seq of the first message
    ts INTEGER NOT NULL,          -- of the first message, in microseconds since 1970
    count INTEGER NOT NULL,
    name TEXT NOT NULL,
    block BLOB,                   -- UTF-8, every line ended by a line feed; NULL for a deletion
    target INTEGER                -- the seq of the message that a deletion deletes
);
CREATE TABLE sent (               -- the ids that sessions have used, for a few minutes
    number INTEGER PRIMARY KEY,
    session BLOB NOT NULL,        -- the hash of the session key
    id TEXT NOT NULL,
    room INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    ts INTEGER NOT NULL
);
CREATE INDEX sent_by_session ON sent (session);
"""

_SIGNING_KEY: Final = """
CREATE TABLE signing_key (
    bytes BLOB NOT NULL           -- the key that signs session keys
);
INSERT INTO signing_key VALUES (randomblob(32))
"""

MIGRATIONS: Final[tuple[str, ...]] = (_FIRST_SCHEMA, _SIGNING_KEY)
"""Step n migrates schema version n to version n + 1; version 0 is an empty file."""


class Database:
    """One file, with a connection for writing and one for reading. Two threads may not use one of them at once.

    Every method raises `StoreError`, with a text for a person.
    """

    def __init__(
        self, path: str | os.PathLike[str], sync: str = "full", migrations: Sequence[str] = MIGRATIONS
    ) -> None:
        self.path: Path = Path(path)
        self._file = Path(os.path.realpath(path))  # a file is locked once, however many names it has
        self._sync = sync
        self._migrations = migrations
        self._lock: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None

    def open(self) -> None:
        """Open the file, or create it, and lock it against other servers."""
        try:
            with self.errors():
                self._open_to_write()
                self._reader = self._connect()
                self._reader.execute("PRAGMA query_only = ON")
                self._check_kind(self._reader)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file, which has everything that was committed."""
        for connection in (self._reader, self._writer, self._lock):
            if connection is not None:
                with closing(connection):
                    pass
        self._reader = self._writer = self._lock = None

    def _open_to_write(self) -> None:
        if not self.path.parent.is_dir():
            raise StoreError(f"{str(self.path)!r}: there is no folder {str(self.path.parent)!r}")
        if self.path.is_dir():
            raise StoreError(f"{str(self.path)!r} is a folder")
        if self.path.exists():
            with self.path.open("rb") as file:
                start = file.read(len(_MAGIC))
            if start and start != _MAGIC:  # SQLite would turn a file of a few bytes into an empty database
                raise StoreError(f"{str(self.path)!r}: {_PLAIN['file is not a database']}")
        self._lock = self._lock_file()
        self._writer = writer = self._connect()
        self._check_kind(writer)
        writer.execute(f"PRAGMA synchronous = {self._sync}")
        writer.execute("PRAGMA secure_delete = ON")  # overwrite deleted data with zeros
        if writer.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise StoreError(f"{str(self.path)!r}: this file system does not support SQLite's write-ahead log")
        version = writer.execute("PRAGMA user_version").fetchone()[0]
        if 0 < version < len(self._migrations):
            self._back_up(version)
        writer.execute("BEGIN IMMEDIATE")
        for number, step in enumerate(self._migrations[version:], version + 1):
            for statement in step.split(";\n"):
                writer.execute(statement)
            writer.execute(f"PRAGMA user_version = {number}")
        writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")  # always: fails if the file is read-only
        writer.execute("COMMIT")
        status = os.stat(self.path)
        self._inode = status.st_dev, status.st_ino

    def _back_up(self, version: int) -> None:
        """Copy the file, which has this schema version, before it is migrated."""
        assert self._writer is not None
        copy = self._file.with_name(f"{self._file.name}-v{version}")
        part = self._file.with_name(f"{copy.name}-part")  # a partial copy must not look complete
        if not copy.exists():
            part.unlink(missing_ok=True)
            self._writer.execute("VACUUM INTO ?", (str(part),))
            with part.open("rb+") as written:
                os.fsync(written.fileno())
            part.replace(copy)

    def _lock_file(self) -> sqlite3.Connection:
        """Lock an empty database beside the file. The lock ends with this process, however it ends."""
        lock = sqlite3.connect(f"{self._file}-lock", timeout=0, isolation_level=None, check_same_thread=False)
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            lock.close()
            if "locked" in str(error):
                raise StoreError(f"{str(self.path)!r} is in use by another server") from None
            raise
        return lock

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._file, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)

    def _check_kind(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        ours = connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        if not ours and (tables or version or connection is self._reader):
            raise StoreError(f"{str(self.path)!r} is not a file of this chat server, but of another program")
        if version > len(self._migrations):
            raise StoreError(
                f"{str(self.path)!r} was written by a newer version of this program"
                f" (its schema is {version}; this version reads schemas up to {len(self._migrations)})"
            )

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn errors of SQLite and the system into a `StoreError` in plain words."""
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{str(self.path)!r}: {_reason(error)}") from error

    @property
    def reader(self) -> sqlite3.Connection:
        """Return the connection for reading."""
        if self._reader is None:
            raise StoreError(f"{str(self.path)!r} is not open")
        return self._reader

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit everything that the block writes, or nothing if it raises."""
        writer = self._writer
        if writer is None:
            raise StoreError(f"{str(self.path)!r} is not open for writing")
        with self.errors():
            self._check_path()
            written = False
            try:
                writer.execute("BEGIN IMMEDIATE")
                yield writer
                written = True
                writer.execute("COMMIT")
            except BaseException:
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
                if written:
                    self._overwrite(writer)
                raise

    def _overwrite(self, writer: sqlite3.Connection) -> None:
        """Overwrite a failed transaction in the write-ahead log with a harmless one.

        If only the disk's confirmation failed, the log may hold the whole transaction. After the end of this process
        SQLite would apply it, although its messages were refused.
        """
        try:
            (version,) = writer.execute("PRAGMA user_version").fetchone()
            writer.execute(f"PRAGMA user_version = {version}")
        except sqlite3.Error:
            if writer.in_transaction:
                writer.execute("ROLLBACK")

    def empty_wal(self) -> bool:
        """Move the write-ahead log into the file and empty it. Return False if a reader prevents that."""
        assert self._writer is not None
        with self.errors():
            self._writer.execute("PRAGMA busy_timeout = 0")  # do not wait for an export that has stopped reading
            try:
                (busy, *_) = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                self._writer.execute(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1000)}")
        return not busy

    def _check_path(self) -> None:
        """Raise if the path does not lead to the open file any more."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            raise StoreError(f"{str(self.path)!r} was moved or deleted while it was open") from None
        if (status.st_dev, status.st_ino) != self._inode:
            raise StoreError(f"{str(self.path)!r} was replaced by another file while it was open")


def _reason(error: sqlite3.Error | OSError | UnicodeDecodeError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, UnicodeDecodeError):  # SQLite quotes damaged text in its error
        return _PLAIN["database disk image is malformed"]
    text = " ".join(str(error).split())
    return _PLAIN.get(text, text)


_PLAIN: Final = {
    "file is not a database": "this is not a SQLite database",
    "attempt to write a readonly database": "it cannot be written to",
    "unable to open database file": "it cannot be opened",
    "database is locked": "another program is writing to it",
    "database disk image is malformed": "it is damaged; `chatserver check` lists the faults",
}
