"""The SQLite database behind a store: opening and locking it, its schema, transactions, and errors in plain words."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from ...errors import StoreError

APPLICATION_ID: Final = 0x4D436861
"""Marks the file as ours ("MCha"), in SQLite's header."""
_MAGIC: Final = b"SQLite format 3\0"
_BUSY_SECONDS: Final = 5.0
"""How long to wait for another program that is writing to the file, such as a person's `sqlite3`."""

_FIRST_SCHEMA: Final = """
CREATE TABLE rooms (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    epoch TEXT NOT NULL,
    trimmed INTEGER NOT NULL,     -- the seq up to which nothing is kept any more
    trimmed_ts INTEGER NOT NULL
);
CREATE TABLE log (
    place INTEGER PRIMARY KEY,    -- room << 40 | seq of the first message
    ts INTEGER NOT NULL,          -- of the first message, in microseconds since 1970
    count INTEGER NOT NULL,
    name TEXT NOT NULL,
    block BLOB,                   -- UTF-8, every line ended by a line feed; NULL for a deletion
    target INTEGER                -- the seq of what a deletion deleted
);
CREATE TABLE sent (               -- what sessions said under which ids, for a few minutes
    number INTEGER PRIMARY KEY,
    session BLOB NOT NULL,        -- a hash of the key
    id TEXT NOT NULL,
    room INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    ts INTEGER NOT NULL
);
CREATE INDEX sent_by_session ON sent (session);
"""

_SIGNING_KEY: Final = """
CREATE TABLE signing_key (
    bytes BLOB NOT NULL           -- what keys of sessions are signed with
);
INSERT INTO signing_key VALUES (randomblob(32))
"""

MIGRATIONS: Final[tuple[str, ...]] = (_FIRST_SCHEMA, _SIGNING_KEY)
"""What makes of schema version n the version n + 1; version 0 is an empty file."""


class Database:
    """One open file. A connection for writing and one for reading; neither may be used by two threads at once.

    Every method raises `StoreError` with a sentence for a person.
    """

    def __init__(
        self, path: str | os.PathLike[str], sync: str = "full", migrations: Sequence[str] = MIGRATIONS
    ) -> None:
        self.path: Path = Path(path)
        self._file = Path(os.path.realpath(path))  # by whatever other name it is opened, it is locked as one
        self._sync = sync
        self._migrations = migrations
        self._lock: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._inode: tuple[int, int] | None = None

    def open(self) -> None:
        """Open the file, or create it; one writer at a time may have it open."""
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
        """Close the file; what was committed is in it."""
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
            if start and start != _MAGIC:  # out of a few bytes SQLite would make an empty database
                raise StoreError(f"{str(self.path)!r}: {_PLAIN['file is not a database']}")
        self._lock = self._taken()
        self._writer = writer = self._connect()
        self._check_kind(writer)
        writer.execute(f"PRAGMA synchronous = {self._sync}")
        writer.execute("PRAGMA secure_delete = ON")  # what was deleted is not to be found in the file
        if writer.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise StoreError(f"{str(self.path)!r}: this file system cannot hold a write-ahead log")
        version = writer.execute("PRAGMA user_version").fetchone()[0]
        if 0 < version < len(self._migrations):
            self._keep_copy(version)
        writer.execute("BEGIN IMMEDIATE")
        for number, step in enumerate(self._migrations[version:], version + 1):
            for statement in step.split(";\n"):
                writer.execute(statement)
            writer.execute(f"PRAGMA user_version = {number}")
        writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")  # at every start: it shows whether one can write
        writer.execute("COMMIT")
        status = os.stat(self.path)
        self._inode = status.st_dev, status.st_ino

    def _keep_copy(self, version: int) -> None:
        """Before the schema changes, keep the file as it was beside it."""
        assert self._writer is not None
        copy = self._file.with_name(f"{self._file.name}-v{version}")
        part = self._file.with_name(f"{copy.name}-part")  # half a copy must not look like one
        if not copy.exists():
            part.unlink(missing_ok=True)
            self._writer.execute("VACUUM INTO ?", (str(part),))
            with part.open("rb+") as written:
                os.fsync(written.fileno())
            part.replace(copy)

    def _taken(self) -> sqlite3.Connection:
        """A lock, on an empty database of its own: it ends with this process at the latest."""
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
                f" (its schema is {version}, the newest known here {len(self._migrations)})"
            )

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Say in plain words what SQLite or the system has to complain about."""
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            raise StoreError(f"{str(self.path)!r}: {_reason(error)}") from error

    @property
    def reader(self) -> sqlite3.Connection:
        """The connection for reading."""
        if self._reader is None:
            raise StoreError(f"{str(self.path)!r} is not open")
        return self._reader

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write all that the block writes or, where it raises, nothing."""
        writer = self._writer
        if writer is None:
            raise StoreError(f"{str(self.path)!r} is not open for writing")
        with self.errors():
            self._check_place()
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
        """Have something harmless written to where a transaction has failed: all of it may stand there.

        Where only the disk's confirmation failed, SQLite would find the whole of it after the end of this process, and
        what was refused would be there after all.
        """
        try:
            (version,) = writer.execute("PRAGMA user_version").fetchone()
            writer.execute(f"PRAGMA user_version = {version}")
        except sqlite3.Error:
            if writer.in_transaction:
                writer.execute("ROLLBACK")

    def empty_wal(self) -> bool:
        """Move everything from the write-ahead log into the file itself; False where a reader is in the way."""
        assert self._writer is not None
        with self.errors():
            self._writer.execute("PRAGMA busy_timeout = 0")  # an export that nobody reads on must not hold up the chat
            try:
                (busy, *_) = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                self._writer.execute(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1000)}")
        return not busy

    def _check_place(self) -> None:
        """Nothing is written to a file that nobody would find again."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            raise StoreError(f"{str(self.path)!r} was moved or deleted while it is open") from None
        if (status.st_dev, status.st_ino) != self._inode:
            raise StoreError(f"{str(self.path)!r} was replaced by another file while it is open")


def _reason(error: sqlite3.Error | OSError | UnicodeDecodeError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, UnicodeDecodeError):  # SQLite quotes what is damaged
        return _PLAIN["database disk image is malformed"]
    text = " ".join(str(error).split())
    return _PLAIN.get(text, text)


_PLAIN: Final = {
    "file is not a database": "this is not a SQLite database",
    "attempt to write a readonly database": "it cannot be written to",
    "unable to open database file": "it cannot be opened",
    "database is locked": "another program is writing to it",
    "database disk image is malformed": "it is damaged; `chatserver check` tells more",
}
