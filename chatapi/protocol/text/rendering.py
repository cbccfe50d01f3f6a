"""Entries of a log as lines of the text protocol."""

from __future__ import annotations

from typing import Final, NamedTuple

from ...core.entries import AnyEntry, Arrived, Deletion, Departed, NameChanged, Said
from ...core.style import names_size
from ...errors import Disconnect
from ...events import Whisper
from ...text import one_line


class TextStyle(NamedTuple):
    """The text protocol: ``NAME:TEXT``, and ``* `` before what the server itself says."""

    joint: bytes = b":"
    """The characters between the name and the text."""
    end: bytes = b"\n"
    """The bytes at the end of each line."""
    notices: bool = False
    """Whether joins, leaves and renames are told."""

    def __eq__(self, other: object) -> bool:  # a program's subclass with the same fields is another style
        return type(self) is type(other) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    @property
    def numbered(self) -> bool:
        """Lines have no numbers."""
        return False

    def line(self, text: str) -> bytes:
        """One line of the server's own, whatever is in the text: it may quote what somebody else has sent."""
        return b"* " + one_line(text).encode() + self.end

    def entry(self, entry: AnyEntry) -> bytes:
        """An entry as everybody but its author gets it."""
        if isinstance(entry, Said):
            prefix = entry.name.encode() + self.joint
            if entry.erased:
                return b"".join(prefix + line + self.end for line in entry.block.split(b"\n") if line)
            return prefix + entry.block[:-1].replace(b"\n", self.end + prefix) + self.end
        if not self.notices:
            return b""
        if isinstance(entry, Arrived):
            return self.line(f"{entry.name} joined")
        if isinstance(entry, Departed):
            return self.line(f"{entry.name} left" + _BECAUSE.get(entry.reason, f" ({entry.reason})"))
        if isinstance(entry, Deletion):
            return self.line(f"{entry.name} deleted a message")
        return b"" if entry.quiet else self.line(f"{entry.name} is now {entry.to}")

    def own(self, entry: AnyEntry, echo: bool) -> bytes:
        """One's own message where echo is on, and the word that one's rename took place."""
        if isinstance(entry, NameChanged):
            return self.line(f"you are now {entry.to}")
        return self.entry(entry) if echo and isinstance(entry, Said) else b""

    def size(self, entry: AnyEntry) -> int:
        """The text, and what stands before and behind each line; of anything else more than it can have."""
        if not isinstance(entry, Said):
            return names_size(entry)
        lines = entry.count if entry.count > 1 else entry.block.count(b"\n")
        return len(entry.block) + lines * (len(entry.name.encode()) + len(self.joint) + len(self.end) - 1)

    def whisper(self, whisper: Whisper) -> bytes:
        """A line that nobody else can have sent, for each line of the text."""
        return b"".join(self.line(f"{whisper.name} whispers: {line}") for line in whisper.text.split("\n"))

    def notice(self, code: str, detail: str) -> bytes:
        """The code and the detail."""
        return self.line(f"{code}: {detail}")

    def disconnect(self, reason: Disconnect, detail: str) -> bytes:
        """The code and the detail; a goodbye is just that."""
        return self.line("goodbye" if reason.code == "bye" and detail == reason.detail else f"{reason.code}: {detail}")


_BECAUSE: Final = {"bye": "", "moved": " for another room"}


TEXT: Final = TextStyle()


TEXT_WITH_NOTICES: Final = TextStyle(notices=True)


TELNET: Final = TextStyle(b": ", b"\r\n", notices=True)
