"""A session: the protocol of one connection as a pure state machine. Bytes go in, one step at a time comes out.

::

    HANDSHAKE ── whole JSON object ──▶ LINES          the tcp door
    NICKNAME  ── open() ─────────────▶ LINES          the telnet door: a line is a nickname until one is accepted
    LINES     ── open_frames() ──────▶ FRAMES         the JSON protocol: a line is a frame

A session is asked for one step at a time, never for all that it could parse: whoever asks may stop at any point,
while a name or a room is changing or the member has said enough for now, and the bytes behind it wait unparsed.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final, NamedTuple, TypeAlias, TypeGuard

from ..core.handshake import Handshake
from ..core.names import OURS, Naming
from ..errors import FrameError, RefusalCode, Refused
from ..limits import LINES_AT_ONCE, RUN_SHARE, Limits
from ..text import clean, close_lines, cut_lines, find_fault, too_long, without_controls
from .framing import ObjectScanner
from .handshake import EXAMPLE, parse_handshake
from .json.frames import BadFrame, Frame, Say, parse_frame
from .text.commands import BadCommand, Command, parse_command
from .wrong_protocol import find_stranger, may_become_stranger

_BLANKS: Final = b" \t\r\n"
_MARKS: Final = {
    b"\xef\xbb\xbf": "a byte order mark; leave it out",
    b"\xff\xfe": "the byte order mark of UTF-16",
    b"\xfe\xff": "the byte order mark of UTF-16",
    b"\0": "a NUL byte, as UTF-16 may",
}
_BLANK_LINES: Final = re.compile(rb"(?:[ \t\r]{0,64}\n)+")  # short ones, at C speed: longer ones may be too long


class State(Enum):
    """What the next bytes are."""

    HANDSHAKE = auto()
    NICKNAME = auto()
    LINES = auto()
    FRAMES = auto()


class Lines(NamedTuple):
    """So many messages: cleaned UTF-8, each line ended by a line feed. `cost` lines of input went into it."""

    block: bytes
    messages: int
    cost: int


class Nickname(NamedTuple):
    """A line where a nickname was asked for."""

    text: str


class BadLine(NamedTuple):
    """A line that cannot be taken, with what its sender is told; the following line is intact."""

    why: str


Step: TypeAlias = Handshake | Nickname | Lines | Command | BadCommand | BadLine | Frame | BadFrame


class Session:
    """The protocol of one connection: framing, handshake, commands."""

    __slots__ = (
        "_at",
        "_buffer",
        "_limits",
        "_naming",
        "_scanner",
        "_skipped",
        "_skipping",
        "_swallow",
        "commands",
        "ended",
        "state",
        "wasted",
    )

    def __init__(self, limits: Limits, state: State = State.HANDSHAKE, naming: Naming = OURS) -> None:
        self._limits = limits
        self._naming = naming
        self._buffer = b""
        self._at = 0  # where in the buffer the next step begins
        self._scanner: ObjectScanner | None = None
        self._swallow = False  # a line end right behind the handshake belongs to it
        self._skipping = False  # within a line over the limit, of which so much was dropped so far:
        self._skipped = 0
        self.commands: bool = True
        """Whether lines that start with ``/`` or ``@`` are commands."""
        self.state: State = state
        self.ended: bool = False
        """Whether the other side's end of stream has come."""
        self.wasted: int = 0
        """Bytes that were dropped because they make no line or frame; `Intake` charges them and sets this to 0."""

    def feed(self, data: bytes) -> None:
        """Take bytes from the wire."""
        self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
        self._at = 0

    def end(self) -> None:
        """Take the end of the stream: a last line without a line end is a line too."""
        self.ended = True

    @property
    def waiting(self) -> int:
        """Bytes that were read and not yet turned into steps."""
        return len(self._buffer) - self._at

    def open(self, commands: bool) -> None:
        """The member is in its room: what follows are lines, and commands among them if so wished."""
        self.state = State.LINES
        self.commands = commands

    def open_frames(self) -> None:
        """The member is in its room and speaks the JSON protocol."""
        self.state = State.FRAMES

    def step(self, most: int) -> Step | None:
        """The next step, of at most `most` lines, or None until more bytes come.

        Raises `Refused` where a handshake cannot be taken, and `Stranger` where the client speaks another protocol;
        nothing is to be asked of the session after that.
        """
        step = self._step(most)
        if self._at >= len(self._buffer):
            self._buffer = b""  # the read it is a part of is not kept
            self._at = 0
        return step

    def _step(self, most: int) -> Step | None:
        if self.state is State.HANDSHAKE:
            return self._handshake()
        if self._swallow and not self._swallow_line_end():
            return None
        if self._skipping:
            return self._skip()
        buffer = self._buffer
        if self.state is State.NICKNAME and (stranger := find_stranger(buffer[self._at :])) is not None:
            raise stranger
        end = buffer.rfind(b"\n", self._at) + 1
        if end <= self._at:
            return self._unfinished()
        if self.state is State.NICKNAME:
            return self._nickname()
        if self.state is State.FRAMES:
            return self._frame(most)
        return self._lines(end, most)

    def _handshake(self) -> Handshake | None:
        if self._scanner is None:
            self._buffer = self._buffer.lstrip(_BLANKS)
            if self._buffer:
                if self._buffer[0] != 0x7B:
                    self._refuse_opening()
                    return None
                self._scanner = ObjectScanner()
        end = self._scanner.end(self._buffer) if self._scanner else 0
        if (end or len(self._buffer)) > self._limits.handshake_bytes:
            raise Refused(
                RefusalCode.HANDSHAKE_TOO_LARGE, f"the handshake has more than {self._limits.handshake_bytes:,} bytes"
            )
        if not end:
            if self.ended and self._buffer:
                raise Refused(
                    RefusalCode.BAD_HANDSHAKE, f"the stream ended within the handshake; it looks like {EXAMPLE}"
                )
            return None
        if b"\0" in self._buffer[:end]:
            raise Refused(
                RefusalCode.BAD_HANDSHAKE,
                f"the handshake has NUL bytes, as UTF-16 has; it is JSON in UTF-8 such as {EXAMPLE}",
            )
        handshake = parse_handshake(self._buffer[:end], self._naming)
        self._scanner = None
        self._at = end
        self._swallow = not self._naming.allows_empty or end < len(self._buffer)  # in Go a later one is a blank line
        self.state = State.LINES
        return handshake

    def _refuse_opening(self) -> None:
        """Refuse what does not begin like a handshake, once it is known what it is; until then wait for more."""
        buffer = self._buffer + b"\n" if self.ended else self._buffer
        if (stranger := find_stranger(buffer)) is not None:
            raise stranger
        if may_become_stranger(buffer):
            return
        start = next((name for mark, name in _MARKS.items() if buffer.startswith(mark)), None)
        start = start or ascii(chr(buffer[0]))  # no more of it: this goes into the log
        raise Refused(
            RefusalCode.BAD_HANDSHAKE,
            f"the handshake is a JSON object in UTF-8 such as {EXAMPLE}; this starts with {start}",
        )

    def _swallow_line_end(self) -> bool:
        """Drop the line end behind the handshake; False while it is not known whether there is one."""
        rest = self._buffer[self._at : self._at + 2]
        if not rest or (rest == b"\r" and not self.ended):
            return False
        if rest == b"\r\n":
            self._at += 2
        elif rest[0] == 0x0A:
            self._at += 1
        self._swallow = False
        return True

    def _unfinished(self) -> Step | None:
        """There is no whole line: wait for the rest, or make do without."""
        size = self.waiting
        # a nickname is kept whole, since it may be a request of HTTP; the connection bounds its opening
        limit = size if self.state is State.NICKNAME else self._line_bytes
        if size > limit + 1 or (size > limit and not self._buffer.endswith(b"\r")):
            self._skipping = True
            return self._skip()
        if self.ended and size:
            self._buffer += b"\n"
            return self.step(1)
        return None

    def _skip(self) -> BadLine | BadFrame | None:
        """Drop what is left of a line over the limit, up to its end."""
        end = self._buffer.find(b"\n", self._at)
        rest = self._buffer[self._at : end if end >= 0 else None]
        if end < 0 and not self.ended:
            self._buffer = b"\r" if rest.endswith(b"\r") else b""  # it may belong to the line end
            self._at = 0
            self._skipped += len(rest) - len(self._buffer)
            self.wasted += len(rest) - len(self._buffer)
            return None
        self.wasted += len(rest)
        self._at = end + 1 if end >= 0 else len(self._buffer)
        size = self._skipped + len(rest.removesuffix(b"\r"))
        self._skipping, self._skipped = False, 0
        return self._too_long(size)

    @property
    def _line_bytes(self) -> int:
        return self._limits.frame_bytes if self.state is State.FRAMES else self._limits.line_bytes

    def _too_long(self, size: int) -> BadLine | BadFrame:
        if self.state is State.FRAMES:
            detail = f"a frame of {size:,} bytes; at most {self._limits.frame_bytes:,} are allowed"
            return BadFrame(FrameError.FRAME_TOO_LARGE, detail)
        return BadLine(too_long(size, self._limits.line_bytes))

    def _frame(self, most: int) -> Step | None:
        """The next line that is not blank; the limit counts it as it came, however the bytes were cut."""
        buffer = self._buffer
        while True:
            if blank := _BLANK_LINES.match(buffer, self._at):
                self.wasted += blank.end() - self._at
                self._at = blank.end()
            end = buffer.find(b"\n", self._at)
            if end < 0:
                return self._unfinished()
            line = buffer[self._at : end].removesuffix(b"\r")
            self._at = end + 1
            if len(line) > self._limits.frame_bytes:
                return self._too_long(len(line))
            if stripped := line.strip(_BLANKS):
                frame = parse_frame(stripped)
                return self._run_of_frames(frame.text, most) if most > 1 and self._is_plain(frame) else frame
            self.wasted += len(line) + 1

    def _is_plain(self, frame: Frame | BadFrame) -> TypeGuard[Say]:
        """Whether this is a message in which nothing is to be cleaned, and of which nobody asks what became of it."""
        return (
            isinstance(frame, Say)
            and frame.id is None
            and 0 < len(frame.text) <= self._limits.line_bytes // 4  # bytes of UTF-8 in a character
            and frame.text.isprintable()
        )

    def _run_of_frames(self, text: str, most: int) -> Lines:
        """This message and the plain ones right behind it, handled as one run."""
        buffer, texts = self._buffer, [text]
        most, most_bytes = self._one_run(most)
        stop = self._at + most_bytes
        while len(texts) < most and self._at < stop:
            end = buffer.find(b"\n", self._at)
            if not 0 <= end - self._at <= self._limits.frame_bytes:
                break
            frame = parse_frame(buffer[self._at : end].strip(_BLANKS))
            if not self._is_plain(frame):
                break
            texts.append(frame.text)
            self._at = end + 1
        return Lines("\n".join([*texts, ""]).encode(), len(texts), len(texts))

    def _one_run(self, most: int) -> tuple[int, int]:
        """How many lines and bytes one run may have, where `most` lines may be taken."""
        limits = self._limits
        lines = min(most, LINES_AT_ONCE, max(limits.log_entries // RUN_SHARE, 1))
        return lines, max(limits.log_bytes // RUN_SHARE, 1)

    def _nickname(self) -> Nickname | BadLine:
        newline = self._buffer.index(b"\n", self._at)
        line = self._buffer[self._at : newline + 1]
        self._at = newline + 1
        fault = find_fault(line, self._limits.line_bytes)
        return BadLine(fault.why) if fault else Nickname(clean(line).decode().strip())

    def _lines(self, end: int, most: int) -> Step:
        """A run of plain lines, handled as one; or the one line that is not plain, where that comes first."""
        buffer, at = self._buffer, self._at
        most, most_bytes = self._one_run(most)
        if self.commands:
            if buffer[at] in b"/@":
                return self._command(buffer.index(b"\n", at) + 1)
            for start in (b"/", b"@"):
                if buffer.find(start, at, end) < 0:  # forty times as fast as to look for both
                    continue
                found = buffer.find(b"\n" + start, at, end)
                if found >= 0:
                    end = found + 1
        if end - at > most_bytes:
            end = buffer.rfind(b"\n", at, at + most_bytes) + 1 or buffer.index(b"\n", at) + 1
        block = buffer[at:end]
        cost = block.count(b"\n")
        if cost > most:
            block = cut_lines(block, most)
            cost = most
        fault = find_fault(block, self._limits.line_bytes)
        if fault is not None:
            if fault.start == 0:
                self._at = at + fault.end
                return BadLine(fault.why)
            block = block[: fault.start]
            cost = block.count(b"\n")
        said = self._said(block, cost)
        if self.commands and said.block != block and _has_command(said.block):
            # control characters stood before a command: what members say is cleaned before it is understood
            self._buffer = without_controls(block) + buffer[at + len(block) :]
            self._at = 0
            return self._lines(self._buffer.rindex(b"\n") + 1, most)
        self._at = at + len(block)
        return said

    def _command(self, end: int) -> Step:
        """The line that starts with ``/`` or ``@``: a command, or text where that character is doubled."""
        line = self._buffer[self._at : end]
        self._at = end
        fault = find_fault(line, self._limits.line_bytes)
        if fault is not None:
            return BadLine(fault.why)
        line = without_controls(line)
        if line[1:2] == line[:1]:
            return self._said(line[1:], 1)
        return parse_command(line.decode().rstrip("\n"))

    def _said(self, block: bytes, cost: int) -> Lines:
        """A block of `cost` lines, as messages."""
        if self._naming.allows_empty:
            return Lines(close_lines(without_controls(block)), cost, cost)
        cleaned = clean(block)
        return Lines(cleaned, cost if cleaned == block else cleaned.count(b"\n"), cost)


def _has_command(block: bytes) -> bool:
    return block.startswith((b"/", b"@")) or b"\n/" in block or b"\n@" in block
