"""Check a store's file: SQLite's own check, and the rules of a room's log."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from ...core.names import GO, OURS, Naming, naming_of
from ...errors import StoreError
from .store import LAST_SEQ, SEQ_BITS
from .view import View

_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR)
_TICK: Final = 1_000
"""Rows between two calls of `progress`."""
_LONE: Final = re.compile("[\ud800-\udfff]")  # surrogateescape decodes bytes that are not UTF-8 to these
_ROOMS: Final = "SELECT id, key, name, epoch, trimmed, trimmed_ts FROM rooms ORDER BY id"
_LOG: Final = "SELECT place, ts, count, name, block, target FROM log ORDER BY place"


class Check:
    """One check of a file. Any program may have changed it, so nothing in it is trusted."""

    def __init__(self, store: View, progress: Callable[[int], None]) -> None:
        self._store = store
        self._progress = progress
        self.rooms: int = 0
        self.messages: int = 0
        """Messages checked, deleted ones included."""

    def faults(self) -> Iterator[str]:
        """Yield every fault, a sentence each. Raises `StoreError` if the file cannot be read for another reason."""
        reader = self._store.reader
        reader.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")  # or bad bytes end the query
        with self._store.errors(), self._store.snapshot():
            damage: list[str] = []
            with self._collect_damage(damage):
                for line in self._store.faults():
                    yield f"SQLite: {line}"
            yield from damage
            damage.clear()
            logs: dict[int, _Log] = {}
            with self._collect_damage(damage):
                for number, *row in reader.execute(_ROOMS):
                    logs[number] = log = _Log(number, *row)
                    yield from log.faults_of_room()
                self.rooms = len(logs)
                yield from self._faults_of_messages(logs)
            yield from damage

    @contextmanager
    def _collect_damage(self, found: list[str]) -> Iterator[None]:
        """Add a fault to `found` if damage keeps SQLite from reading on."""
        try:
            with self._store.errors():
                yield
        except StoreError as error:
            cause = error.__cause__
            if getattr(cause, "sqlite_errorcode", 0) & 0xFF not in _DAMAGE:
                raise
            found.append(f"SQLite cannot read everything: {cause}")

    def _faults_of_messages(self, logs: dict[int, _Log]) -> Iterator[str]:
        here: _Log | None = None
        for i, (place, *row) in enumerate(self._store.reader.execute(_LOG)):
            if type(place) is not int:
                yield f"the place of a row of messages is not a number, but {place!r}"
                continue
            number, seq = place >> SEQ_BITS, place & LAST_SEQ
            if here is None or here.number != number:
                if here is not None:
                    yield from here.faults_at_end()
                here = logs.get(number)
                if here is None:
                    here = logs[number] = _Log(number, "", "", "", seq - 1, 0)
                    yield f"{here} does not exist, but has messages"
            yield from here.faults_of_row(seq, *row)
            self.messages += here.messages
            if not i % _TICK:
                self._progress(self.messages)
        if here is not None:
            yield from here.faults_at_end()


class _Log:
    """The checks of one room, row by row: the position that the next row must have, and the deletions so far."""

    def __init__(self, number: int, key: Any, name: Any, epoch: Any, trimmed: Any, trimmed_ts: Any) -> None:
        self.number: int = number
        self.messages: int = 0
        """The number of messages in the last row."""
        self._room = key, name, epoch, trimmed, trimmed_ts
        self._naming: Naming = naming_of(key) if isinstance(key, str) else OURS
        self._first = trimmed + 1 if type(trimmed) is int else 1
        self._next = self._first
        self._ts = trimmed_ts if type(trimmed_ts) is int else 0
        self._empty: dict[int, bool] = {}  # seqs of messages without text, each with whether a deletion was seen

    def __str__(self) -> str:
        return f"room {self._room[1]!r}" if self._room[1] or self._naming is GO else f"room number {self.number}"

    def faults_of_room(self) -> Iterator[str]:
        """Yield the faults of the room itself."""
        key, name, epoch, trimmed, trimmed_ts = self._room
        if not self._is_name(name) or self._naming.room_key(name) != key:
            yield f"{self}: its key {key!r} does not match its name, so nobody can join it"
        if not _is_text(epoch):
            yield f"{self}: its epoch must be a text that is not empty, but is {epoch!r}"
        if type(trimmed) is not int or trimmed < 0 or type(trimmed_ts) is not int:
            yield f"{self}: its trimmed and trimmed_ts must be numbers, but are {trimmed!r} and {trimmed_ts!r}"

    def faults_of_row(self, seq: int, ts: Any, count: Any, name: Any, block: Any, target: Any) -> Iterator[str]:
        """Yield the faults of the next row, by itself and after the rows before it."""
        where = f"{self}, seq {seq}"
        self.messages = 0
        if type(ts) is not int or type(count) is not int or count < 1:
            yield f"{where}: its ts must be a number and its count at least 1, but they are {ts!r} and {count!r}"
            self._next = seq + 1
            return
        if seq > self._next:
            yield f"{self}: seq {self._next} to {seq - 1} are missing"
        elif seq < self._next:
            yield f"{where}: it comes after seq {self._next - 1}"
        if ts <= self._ts:
            yield f"{where}: its ts {ts} is not above {self._ts}, the ts before it"
        self._next, self._ts = seq + count, ts + count - 1
        if not self._is_name(name):
            yield f"{where}: its author's name must be a text that is not empty, but is {name!r}"
        if block is None:
            yield from self._faults_of_deletion(where, seq, count, target)
        elif type(block) is not bytes or target is not None:
            yield f"{where}: it is neither messages nor a deletion"
        else:
            self.messages = count
            yield from self._faults_of_block(where, seq, count, block)

    def _faults_of_block(self, where: str, seq: int, count: int, block: bytes) -> Iterator[str]:
        try:
            block.decode()
        except UnicodeDecodeError:
            yield f"{where}: its text is not UTF-8"
        if not block.endswith(b"\n"):
            yield f"{where}: its text does not end with a line feed"
        elif count > 1 and (lines := block.count(b"\n")) != count:
            yield f"{where}: its count is {count}, but its text has {lines} lines"
        elif count == 1:
            if block == b"\n":
                self._empty[seq] = False
        elif block.startswith(b"\n") or b"\n\n" in block:
            self._empty.update((seq + i, False) for i, line in enumerate(block.split(b"\n")[:-1]) if not line)

    def _faults_of_deletion(self, where: str, seq: int, count: int, target: Any) -> Iterator[str]:
        if count != 1:
            yield f"{where}: it is a deletion, but its count is {count}, not 1"
        if type(target) is not int or not 0 < target < seq:
            yield f"{where}: it deletes seq {target!r}, which is not before it"
        elif target in self._empty:
            self._empty[target] = True
        elif target >= self._first:
            yield f"{where}: it deletes seq {target}, which does not exist or still has its text"

    def faults_at_end(self) -> Iterator[str]:
        """Yield the faults that show after the last row."""
        for seq, deleted in self._empty.items():
            if not (deleted or self._naming.allows_empty):
                yield f"{self}, seq {seq}: it has no text, but no deletion names it"

    def _is_name(self, value: object) -> bool:
        return _is_text(value) or (value == "" and self._naming.allows_empty)


def _is_text(value: object) -> bool:
    """Return whether this is a text, valid UTF-8 and not empty."""
    return isinstance(value, str) and value != "" and (value.isascii() or not _LONE.search(value))
