"""Framing: bytes that were received and are not parsed yet, whole lines, and the end of a JSON object.

Everything here works on whole blocks at C speed and keeps no more than it must.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final, NamedTuple

from ..errors import TextTooLong
from ..limits import LINES_AT_ONCE, RUN_SHARE, Limits
from ..text import too_long

_STRUCTURE: Final = re.compile(rb'["\\{}\[\]]')


class LineTooLong(TextTooLong):
    """The line that ends here had more bytes than are allowed; the following line is intact."""

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(too_long(size, limit))
        self.size: int = size
        """Its bytes, its line end not counted."""


class Lines(NamedTuple):
    """Messages that one member says in one go: cleaned UTF-8, each line ended by a line feed."""

    block: bytes
    messages: int
    cost: int
    """Lines of input that went into it."""


class _Dropping(Enum):
    """What the buffer drops before the next line begins."""

    NOTHING = auto()
    LINE_END = auto()
    LONG_LINE = auto()


class ReceiveBuffer:
    """The bytes that a connection has received and its protocol object has not parsed yet.

    A connection has one. If its protocol object is replaced, the next one goes on with the same buffer.
    """

    __slots__ = ("_dropping", "_skipped", "at", "data", "ended", "lines", "wasted")

    def __init__(self) -> None:
        self.data: bytes = b""
        """The bytes; empty once all of them were taken out."""
        self.at: int = 0
        """The index in `data` at which the next step begins."""
        self.ended: bool = False
        """Whether the other side has ended its stream."""
        self.lines: int = 0
        """Lines that were taken out; the connection charges the member for them and sets this to 0."""
        self.wasted: int = 0
        """Bytes that were dropped because they make no line or frame; charged in the same way."""
        self._dropping = _Dropping.NOTHING
        self._skipped = 0  # bytes of a line over the limit that were dropped so far

    def feed(self, data: bytes) -> None:
        """Add bytes that were received."""
        self.data = self.data[self.at :] + data if self.at < len(self.data) else data
        self.at = 0

    def end(self) -> None:
        """Note the end of the stream: a last line without a line end is a line too."""
        self.ended = True

    @property
    def waiting(self) -> int:
        """Bytes that were received and not yet taken out."""
        return len(self.data) - self.at

    def advance(self, to: int) -> None:
        """Take out everything before this index."""
        if to >= len(self.data):
            self.data = b""  # do not keep the read that it is a part of
            self.at = 0
        else:
            self.at = to

    def take_line(self, limit: int) -> bytes | None:
        """Take out the next line, without its line end; None until there is a whole one. Raises `LineTooLong`."""
        if not self.lines_end(limit):
            return None
        end = self.data.index(b"\n", self.at)
        line = self.data[self.at : end].removesuffix(b"\r")
        self.lines += 1
        self.advance(end + 1)
        if len(line) > limit:
            raise LineTooLong(len(line), limit)
        return line

    def lines_end(self, limit: int | None) -> int:
        """Return the index behind the last whole line; 0 if there is none.

        A line that has more than `limit` bytes before its line end has come is dropped as it comes. Raises
        `LineTooLong` at its end. Whole lines are not measured.
        """
        if self._dropping is not _Dropping.NOTHING and not self._drop(limit):
            return 0
        end = self.data.rfind(b"\n", self.at) + 1
        if end > self.at:
            return end
        size = len(self.data) - self.at
        if limit is not None and size > limit and (size > limit + 1 or not self.data.endswith(b"\r")):
            self._dropping = _Dropping.LONG_LINE
            self._drop(limit)
        elif self.ended and size:
            self.data += b"\n"
            return len(self.data)
        return 0

    def drop_line_end(self) -> None:
        """Drop the line end that comes next, if one does."""
        self._dropping = _Dropping.LINE_END
        self._drop(None)

    def _drop(self, limit: int | None) -> bool:
        """Drop what is to be dropped; return whether all of it has come. Raises `LineTooLong`."""
        data, at = self.data, self.at
        if self._dropping is _Dropping.LINE_END:
            rest = data[at : at + 2]
            if not rest or (rest == b"\r" and not self.ended):
                return False
            self._dropping = _Dropping.NOTHING
            self.advance(at + (2 if rest == b"\r\n" else rest[0] == 0x0A))
            return True
        end = data.find(b"\n", at)
        rest = data[at : end if end >= 0 else None]
        if end < 0 and not self.ended:
            self.data = b"\r" if rest.endswith(b"\r") else b""  # it may belong to the line end
            self.at = 0
            self._skipped += len(rest) - len(self.data)
            self.wasted += len(rest) - len(self.data)
            return False
        self.wasted += len(rest)
        self.lines += 1
        self.advance(end + 1 if end >= 0 else len(data))
        size = self._skipped + len(rest.removesuffix(b"\r"))
        self._dropping, self._skipped = _Dropping.NOTHING, 0
        raise LineTooLong(size, limit or 0)


def largest_run(limits: Limits, most: int) -> tuple[int, int]:
    """Return how many lines and bytes one run of messages may have if the member may say `most` lines."""
    lines = min(most, LINES_AT_ONCE, max(limits.log_entries // RUN_SHARE, 1))
    return lines, max(limits.log_bytes // RUN_SHARE, 1)


class ObjectScanner:
    """Finds the end of a JSON object that arrives in any number of pieces, looking at every byte once."""

    __slots__ = ("_at", "_depth", "_in_string")

    def __init__(self) -> None:
        self._at = 0
        self._depth = 0
        self._in_string = False

    def end(self, data: bytes) -> int:
        """The index behind the object's closing brace, or 0 while it is not there.

        `data` is everything so far, from the opening brace on. What the object says is not checked here.
        """
        at = self._at
        while found := _STRUCTURE.search(data, at):
            at = found.end()
            char = data[at - 1]
            if self._in_string:
                if char == 0x5C:  # a backslash takes the next byte with it
                    at += 1
                elif char == 0x22:
                    self._in_string = False
            elif char == 0x22:
                self._in_string = True
            elif char in b"{[":
                self._depth += 1
            elif char in b"}]":
                self._depth -= 1
                if self._depth <= 0:
                    return at
        self._at = max(at, len(data))
        return 0
