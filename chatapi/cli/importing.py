"""Import of a room from lines of JSON: each line is checked, and must be one that a server could have written."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, NamedTuple

from chatapi.brokers.sqlite.store import RoomInfo
from chatapi.core.entries import AnyKept, Deletion, Said
from chatapi.core.names import OURS, Naming
from chatapi.errors import Refused
from chatapi.limits import LINES_AT_ONCE, READ_BYTES, MiB
from chatapi.text import clean

from .records import HEADER, NUMBERED, PLAIN, BadRecord, Header, NumberedDeletion, is_header, parse

_TEXT_BYTES: Final = MiB
"""The longest text that a server can be configured to accept (`Limits.line_bytes`), in bytes."""
_LINE_BYTES: Final = 8 * MiB
"""The longest line, in bytes: such a text with every character escaped, and its other fields."""
_TICK: Final = 1_000
"""Lines between two calls of `progress`."""


class BadLine(Exception):
    """A line that cannot be imported; the text has its number and the reason."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"line {number}: {why}")


class _Message(NamedTuple):
    seq: int
    ts: int
    name: str
    block: bytes


class Import:
    """One room from lines of JSON. `progress` is called with the bytes read so far.

    Raises `BadLine`, and what reading raises.
    """

    def __init__(self, source: BinaryIO, now: int, progress: Callable[[int], None], naming: Naming = OURS) -> None:
        self._naming = naming
        self._source = source
        self._now = now
        self._progress = progress
        self._number = 0  # of the last line read
        self._bytes_read = 0
        self._seq = self._ts = 0  # of the last message
        self._given: int | None = None  # the time in the last line, if the lines have no header
        self._names: dict[str, str] = {}  # as written in the lines, and as shown
        self._empty: dict[int, int] = {}  # seq and line of messages without a text whose deletion has not come yet
        self._deletions: set[int] = set()
        self._header: Header | None = None
        self._ahead = b""
        line = self._next_line()
        if not line:
            raise BadLine(1, "there is nothing to import")
        try:
            if is_header(line):
                self._take_header(parse(HEADER, line))
            else:
                self._ahead = line
        except BadRecord as error:
            raise BadLine(self._number, str(error)) from None

    def room(self, name: str) -> RoomInfo:
        """Return the room to create, under this name."""
        header, key = self._header, self._naming.room_key(name)
        if header is None:
            return RoomInfo(0, key, name, secrets.token_urlsafe(16), 0, 0, 1, 0, 0)
        trimmed = header.first - 1, header.trimmed_ts
        return RoomInfo(0, key, name, header.epoch, *trimmed, header.first, header.seq, header.ts)

    def entries(self) -> Iterator[AnyKept]:
        """Yield the entries of all lines; consecutive messages of a member are combined into runs."""
        run: list[_Message] = []
        size = 0
        while line := self._next_line():
            try:
                entry = self._plain(line) if self._header is None else self._numbered(line)
            except BadRecord as error:
                raise BadLine(self._number, str(error)) from None
            if isinstance(entry, Deletion):
                if run:
                    yield _said(run)
                    run = []
                yield entry
                continue
            if run and (size > READ_BYTES or len(run) == LINES_AT_ONCE or not _follows(run[-1], entry)):
                yield _said(run)
                run = []
            if not run:
                size = 0
            run.append(entry)
            size += len(entry.block)
        if run:
            yield _said(run)
        self._check_end()

    # Lines

    def _next_line(self) -> bytes:
        """Return the next line that is not blank; empty at the end."""
        if self._ahead:
            line, self._ahead = self._ahead, b""
            return line
        while line := self._read_line():
            self._number += 1
            self._bytes_read += len(line)
            if len(line) == _LINE_BYTES:
                raise BadLine(self._number, f"it has more than {_LINE_BYTES:,} bytes")
            if not self._number % _TICK:
                self._progress(self._bytes_read)
            if not line.isspace():
                break
        return line

    def _read_line(self) -> bytes:
        try:
            return self._source.readline(_LINE_BYTES)
        except OSError as error:
            raise BadLine(self._number + 1, f"it cannot be read: {error.strerror}") from None

    def _take_header(self, header: Header) -> None:
        if header.first > header.seq + 1:
            raise BadRecord(
                f"'first' is {header.first}; at most {header.seq + 1} is allowed, because 'seq' is {header.seq}"
            )
        self._header = header
        self._seq, self._ts = header.first - 1, header.trimmed_ts

    def _numbered(self, line: bytes) -> _Message | Deletion:
        """Parse a line that has its number: the lines begin with a header."""
        assert self._header is not None
        record = parse(NUMBERED, line)
        seq, ts = record.seq, record.ts
        if seq != self._seq + 1:
            raise BadRecord(f"seq {self._seq + 1} is expected here, not {seq}")
        if seq > self._header.seq:
            raise BadRecord(f"seq {seq} is above {self._header.seq}, the seq of the header")
        if ts <= self._ts:
            raise BadRecord(f"its ts {ts} is not above {self._ts}, the ts of the message before it")
        self._seq, self._ts = seq, ts
        name = self._name(record.name)
        if not isinstance(record, NumberedDeletion):
            block = self._block(record.text)
            if block == b"\n" and not self._naming.allows_empty:
                self._empty[seq] = self._number
            return _Message(seq, ts, name, block)
        if record.target >= seq or record.target in self._deletions:
            raise BadRecord(f"it deletes seq {record.target}, but no message before it has that seq")
        self._empty.pop(record.target, None)
        self._deletions.add(seq)
        deletion = Deletion(name, record.target)
        deletion.seq, deletion.ts = seq, ts
        return deletion

    def _plain(self, line: bytes) -> _Message:
        """Parse a line that gets its number here: the lines have no header."""
        found = parse(PLAIN, line)
        if self._seq and (found.ts is None) is not (self._given is None):
            raise BadRecord(f"it has {'no' if found.ts is None else 'a'} 'ts', unlike the lines before it")
        if found.ts is None:
            self._ts = max(self._now, self._ts + 1)
        else:
            if found.ts < (self._given or 0):
                raise BadRecord(f"its ts {found.ts} is below {self._given}, the ts of the message before it")
            self._given = found.ts
            self._ts = max(found.ts, self._ts + 1)  # as a server does with two messages in one microsecond
        self._seq += 1
        block = self._block(found.text)
        if block == b"\n" and not self._naming.allows_empty:
            raise BadRecord("its text is empty")
        return _Message(self._seq, self._ts, self._name(found.name), block)

    def _name(self, name: str) -> str:
        shown = self._names.get(name)
        if shown is None:
            naming = self._naming
            check = (
                naming.name if self._header is None else naming.kept_name
            )  # an export may be older than a rule for names
            try:
                shown = self._names[name] = check(name)
            except Refused as refused:
                raise BadRecord(f"'name': {refused.detail}") from None
        return shown

    def _block(self, text: str) -> bytes:
        """Return a text as a server would have cleaned it; a line feed alone if nothing is left of it."""
        block = clean(text.encode().strip(b"\n") + b"\n") or b"\n"
        if len(block) > _TEXT_BYTES + 1:
            raise BadRecord(f"its text has {len(block) - 1:,} bytes; at most {_TEXT_BYTES:,} are allowed")
        return block

    def _check_end(self) -> None:
        """Raise `BadLine` if the lines lack something that they announced."""
        for seq, number in self._empty.items():
            raise BadLine(number, f"the text is empty, but no later line deletes seq {seq}")
        header = self._header
        if header is not None and (self._seq, self._ts) != (header.seq, header.ts):
            raise BadLine(
                self._number,
                f"the lines end with seq {self._seq} and ts {self._ts},"
                f" and not with seq {header.seq} and ts {header.ts} of the header",
            )


def _follows(message: _Message, after: _Message) -> bool:
    """Whether two consecutive messages can be lines of one run."""
    return (
        after.ts == message.ts + 1
        and after.name == message.name
        and message.block.count(b"\n") == after.block.count(b"\n") == 1
    )


def _said(run: list[_Message]) -> Said:
    """Combine messages into a run."""
    said = Said(0, run[0].name, b"".join(message.block for message in run), len(run))
    said.seq, said.ts = run[0].seq, run[0].ts
    return said
