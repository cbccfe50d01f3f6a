"""The rooms and their logs in one SQLite file. Synchronous: it runs in worker threads.

A row of `log` is a run of messages or a deletion. The upper bits of its key `place` are the room's number, the lower 40
bits the seq of its first message. So a room is one range of the table: reading a page needs no index, and appending
only touches the end of the range.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Final, NamedTuple

from ...core.broker import Past, Sent
from ...core.entries import AnyKept, Deletion, Said, without
from ...core.session_keys import hash_key
from ...errors import StoreError
from .database import MIGRATIONS, Database

SEQ_BITS: Final = 40
LAST_SEQ: Final = (1 << SEQ_BITS) - 1
_AT_ONCE: Final = 1_000
"""Rows deleted in one transaction, because messages wait for its end."""

_ROWS: Final = "SELECT place - ?, ts, count, name, block, target FROM log WHERE place BETWEEN ? AND ? ORDER BY place "
_INSERT: Final = "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?)"


class RoomInfo(NamedTuple):
    """The state of a room in the store."""

    id: int
    key: str
    name: str
    epoch: str
    trimmed: int
    """The seq up to which messages were removed."""
    trimmed_ts: int
    first: int
    """The oldest seq that is kept; `seq` + 1 if none is."""
    seq: int
    ts: int


class Placed(NamedTuple):
    """An entry and its position. The entry itself has none before the commit."""

    entry: AnyKept
    seq: int
    ts: int


class Append(NamedTuple):
    """The entries that one commit adds to a room."""

    key: str
    name: str
    epoch: str
    entries: list[Placed]


class Store(Database):
    """The rooms in one file. One thread may write while another one reads.

    Every method raises `StoreError`.
    """

    def __init__(
        self, path: str | os.PathLike[str], sync: str = "full", migrations: Sequence[str] = MIGRATIONS
    ) -> None:
        super().__init__(path, sync, migrations)
        self._erasure_due = True  # a server that was killed may have left deleted text

    # Writing

    def append(self, batch: Sequence[Append]) -> None:
        """Commit entries of some rooms: all of them, or none if this raises."""
        deleted = 0
        with self.transaction() as writer:
            for part in batch:
                deleted += _write(writer, _room_id(writer, part), part.entries)
        if deleted:
            self._erasure_due = True  # the write-ahead log has the deleted text too
            self.erase_deleted_text()

    def restore(self, info: RoomInfo, entries: Iterable[AnyKept]) -> int:
        """Create a room with these entries: all of them, or none if this raises. Return their number."""
        count = 0
        with self.transaction() as writer:
            sql = "INSERT INTO rooms (key, name, epoch, trimmed, trimmed_ts) VALUES (?, ?, ?, ?, ?)"
            values = (info.key, info.name, info.epoch, info.trimmed, info.trimmed_ts)
            room = int(writer.execute(sql, values).lastrowid or 0)
            rows: list[Placed] = []
            for entry in entries:
                rows.append(Placed(entry, entry.seq, entry.ts))
                count += entry.count
                if len(rows) >= _AT_ONCE:
                    _write(writer, room, rows)
                    rows.clear()
            _write(writer, room, rows)
        return count

    # Removing

    def erase_deleted_text(self) -> None:
        """Remove the text of deleted messages from the write-ahead log too. If that fails, the next call does it."""
        if self._erasure_due:
            with contextlib.suppress(StoreError):
                self._erasure_due = not self.empty_wal()

    def rooms_over_limit(self, keys: Sequence[str], **bounds: int) -> list[tuple[RoomInfo, int]]:
        """Return the rooms among these that exceed the bounds of `excess`, each with its `excess`."""
        rooms = [room for key in keys if (room := self.room(key)) is not None]
        return [(room, through) for room in rooms if (through := self.excess(room, **bounds)) >= room.first]

    def excess(self, room: RoomInfo, *, before: int, messages: int, max_bytes: int) -> int:
        """Return the seq up to which messages are older than `before` or exceed a bound; a bound of 0 is none."""
        base = room.id << SEQ_BITS
        place = base, base, base + LAST_SEQ
        through = room.seq - messages if messages else 0
        with self.errors():
            if before:
                for seq, ts, count, *_ in self.reader.execute(_ROWS.replace("block", "NULL"), place):
                    if ts + count - 1 >= before:
                        break
                    through = max(through, seq + count - 1)
            if max_bytes:
                size = 0
                for seq, _, count, _, length, _ in self.reader.execute(
                    _ROWS.replace("block", "length(block)") + "DESC", place
                ):
                    size += length or 0
                    if size > max_bytes and seq + count - 1 < room.seq:
                        return int(max(through, seq + count - 1))
        return through

    def trim(self, room: RoomInfo, through: int) -> int:
        """Remove some of a room's oldest messages, at most up to the seq `through`; return the oldest seq kept."""
        base = room.id << SEQ_BITS
        with self.transaction() as writer:
            sql = "SELECT max(place) FROM (SELECT place FROM log WHERE place BETWEEN ? AND ? ORDER BY place LIMIT ?)"
            (last_place,) = writer.execute(sql, (base, base + through, _AT_ONCE)).fetchone()
            if last_place is None:
                return through + 1
            seq, ts, count, name, block, target = writer.execute(_ROWS, (base, last_place, last_place)).fetchone()
            last = int(min(through, seq + count - 1))
            writer.execute("DELETE FROM log WHERE place BETWEEN ? AND ?", (base, last_place))
            if last < seq + count - 1:  # the rest of a run stays
                skip = last + 1 - seq
                rest = block.split(b"\n", skip)[skip]
                writer.execute(_INSERT, (base + last + 1, ts + skip, count - skip, name, rest, target))
            sql = "UPDATE rooms SET trimmed = ?, trimmed_ts = ? WHERE id = ?"
            writer.execute(sql, (last, ts + last - seq, room.id))
        return last + 1

    def forget_ids(self, before: int) -> bool:
        """Remove some of the ids that sessions used before that time (microseconds since 1970).

        Return whether there are more.
        """
        with self.transaction() as writer:
            sql = "SELECT number, ts FROM sent ORDER BY number LIMIT ?"
            oldest = writer.execute(sql, (_AT_ONCE,)).fetchall()
            past = [number for number, _ in takewhile(lambda row: row[1] < before, oldest)]
            if past:
                writer.execute("DELETE FROM sent WHERE number <= ?", (past[-1],))
        return len(past) == _AT_ONCE

    # Reading

    def keys(self) -> list[str]:
        """Return the key of every room, sorted."""
        with self.errors():
            return [key for (key,) in self.reader.execute("SELECT key FROM rooms ORDER BY key")]

    def rooms(self) -> list[RoomInfo]:
        """Return every room, sorted by name."""
        return [room for key in self.keys() if (room := self.room(key)) is not None]

    def room(self, key: str) -> RoomInfo | None:
        """Return the state of a room; None if there is no such room."""
        with self.errors():
            sql = "SELECT id, key, name, epoch, trimmed, trimmed_ts FROM rooms WHERE key = ?"
            found = self.reader.execute(sql, (key,)).fetchone()
            if found is None:
                return None
            base = found[0] << SEQ_BITS
            place = base, base, base + LAST_SEQ
            sql = _ROWS.replace("block", "NULL")
            oldest = self.reader.execute(sql + "LIMIT 1", place).fetchone()
            newest = self.reader.execute(sql + "DESC LIMIT 1", place).fetchone()
        if oldest is None:
            return RoomInfo._make((*found, found[4] + 1, found[4], found[5]))
        seq, ts, count, *_ = newest
        return RoomInfo._make((*found, oldest[0], seq + count - 1, ts + count - 1))

    def past(self, key: str, messages: int, max_bytes: int) -> Past | None:
        """Return the state of a room with its newest entries, in order to open it; None if there is no such room."""
        room = self.room(key)
        if room is None:
            return None
        tail = self.read(key, room.seq + 1, messages, max_bytes)
        return Past(room.epoch, room.name, room.seq, room.ts, room.first, tail)

    def read(self, key: str, before: int, messages: int, max_bytes: int) -> list[AnyKept]:
        """Return the newest entries of a room that begin below `before`, oldest first, as `Broker.read` does."""
        found: list[AnyKept] = []
        size = 0
        with self.errors():
            room = self.reader.execute("SELECT id FROM rooms WHERE key = ?", (key,)).fetchone()
            if room is None or messages <= 0:
                return []
            base = room[0] << SEQ_BITS
            for row in self.reader.execute(_ROWS + "DESC", (base, base, base + before - 1)):
                entry = _entry(*row)
                size += entry.weight
                if found and size > max_bytes:
                    break
                found.append(entry)
                if isinstance(entry, Said):
                    messages -= min(before - entry.seq, entry.count)
                    if messages <= 0:
                        break
        return found[::-1]

    def entries(self, room: RoomInfo) -> Iterator[AnyKept]:
        """Yield every entry of a room, oldest first."""
        base = room.id << SEQ_BITS
        with self.errors():
            for row in self.reader.execute(_ROWS, (base, base, base + room.seq)):
                yield _entry(*row)

    def sent(self, session: str, since: int) -> Mapping[str, Sent]:
        """Return the ids that a session has used since that time (microseconds since 1970), with their positions."""
        with self.errors():
            sql = (
                "SELECT sent.id, rooms.key, sent.seq, sent.ts FROM sent JOIN rooms ON rooms.id = sent.room"
                " WHERE session = ? AND ts >= ? ORDER BY number"
            )
            rows = self.reader.execute(sql, (_hash(session), since))
            return {id_: Sent(key, seq, ts) for id_, key, seq, ts in rows}

    def signing_key(self) -> bytes:
        """Return the secret that signs session keys."""
        with self.errors():
            return bytes(self.reader.execute("SELECT bytes FROM signing_key").fetchone()[0])

    def faults(self) -> Iterator[str]:
        """Yield the faults that SQLite itself finds in the file, a sentence each."""
        with self.errors():
            for (found,) in self.reader.execute("PRAGMA integrity_check"):
                yield from (line for line in found.splitlines() if line != "ok" and not line.startswith("***"))


def _room_id(writer: sqlite3.Connection, part: Append) -> int:
    """Return a room's number, which it gets with its first message."""
    found = writer.execute("SELECT id FROM rooms WHERE key = ?", (part.key,)).fetchone()
    if found is not None:
        return int(found[0])
    sql = "INSERT INTO rooms (key, name, epoch, trimmed, trimmed_ts) VALUES (?, ?, ?, 0, 0)"
    return int(writer.execute(sql, (part.key, part.name, part.epoch)).lastrowid or 0)


def _write(writer: sqlite3.Connection, room: int, entries: Iterable[Placed]) -> int:
    """Write entries of a room; return the number of messages that they delete."""
    base = room << SEQ_BITS
    rows: list[tuple[object, ...]] = []
    sent: list[tuple[object, ...]] = []
    deleted: list[int] = []
    for entry, seq, ts in entries:
        if isinstance(entry, Deletion):
            rows.append((base + seq, ts, 1, entry.name, None, entry.target))
            if entry.target < seq:  # not a message that follows it in this commit
                deleted.append(entry.target)
            continue
        rows.append((base + seq, ts, entry.count, entry.name, entry.block, None))
        if entry.session and entry.ids:
            session = _hash(entry.session)
            for i, id_ in enumerate(entry.ids):
                if id_ is not None:
                    sent.append((session, id_, room, seq + i, ts + i))
    writer.executemany(_INSERT, rows)
    if sent:
        writer.executemany("INSERT INTO sent (session, id, room, seq, ts) VALUES (?, ?, ?, ?, ?)", sent)
    for target in deleted:
        _erase(writer, base, target)
    return len(deleted)


def _erase(writer: sqlite3.Connection, base: int, seq: int) -> None:
    """Erase the text of a message."""
    found = writer.execute(_ROWS + "DESC LIMIT 1", (base, base, base + seq)).fetchone()
    if found is None:
        return
    first, _, count, _, block, _ = found
    if block is not None and seq < first + count:
        writer.execute("UPDATE log SET block = ? WHERE place = ?", (without(block, count, seq - first), base + first))


def _entry(seq: int, ts: int, count: int, name: str, block: bytes | None, target: int | None) -> AnyKept:
    entry: AnyKept
    if block is None:
        entry = Deletion(name, target or 0)
    else:
        entry = Said(0, name, block, count)
        entry.erased = block[:1] == b"\n" or b"\n\n" in block
    entry.seq, entry.ts = seq, ts
    return entry


def _hash(session: str) -> bytes:
    """Return the hash of a session key. The key is a secret, which a reader of the file must not get."""
    return bytes.fromhex(hash_key(session))
