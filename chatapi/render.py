"""Entries of a log as bytes: rendered once per style for all members, and apart only for who caused them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from .entries import AnyEntry, Arrived, Departed, NameChanged, Said


class Style(NamedTuple):
    """How an outlet wants text: everything that makes one member's bytes differ from another's."""

    joint: bytes = b":"
    """What stands between the name and the text."""
    end: bytes = b"\n"
    """What ends a line."""
    notices: bool = False
    """Whether joins, leaves and renames are told."""

    def line(self, text: str) -> bytes:
        """One line of the server's own, which always starts with ``* ``."""
        return b"* " + text.encode(errors="replace") + self.end


TEXT: Final = Style()
TEXT_WITH_NOTICES: Final = Style(notices=True)
TELNET: Final = Style(b": ", b"\r\n", notices=True)


def render(entry: AnyEntry, style: Style) -> bytes:
    """An entry as everybody but its author gets it."""
    if isinstance(entry, Said):
        prefix = entry.name.encode() + style.joint
        return prefix + entry.block[:-1].replace(b"\n", style.end + prefix) + style.end
    if not style.notices:
        return b""
    if isinstance(entry, Arrived):
        return style.line(f"{entry.name} joined")
    if isinstance(entry, Departed):
        return style.line(f"{entry.name} left" + _BECAUSE.get(entry.reason, f" ({entry.reason})"))
    return b"" if entry.quiet else style.line(f"{entry.name} is now {entry.to}")


_BECAUSE: Final = {"bye": "", "moved": " for another room"}


def render_own(entry: AnyEntry, style: Style, echo: bool) -> bytes:
    """An entry as its author gets it: the message where echo is on, and the word that a rename took place."""
    if isinstance(entry, NameChanged):
        return style.line(f"you are now {entry.to}")
    return render(entry, style) if echo and isinstance(entry, Said) else b""


class Batch:
    """Some entries, rendered when first asked for in a style and shared from then on."""

    __slots__ = ("_entries", "_pieces", "_shared", "end", "origins", "start")

    def __init__(self, entries: Sequence[AnyEntry]) -> None:
        self._entries = entries
        self._pieces: dict[Style, list[bytes]] = {}
        self._shared: dict[Style, bytes] = {}
        self.start: int = entries[0].position
        self.end: int = entries[-1].end
        self.origins: dict[int, list[int]] = {}
        """Whose entries these are, by the index of each."""
        for i, entry in enumerate(entries):
            self.origins.setdefault(entry.origin, []).append(i)

    def shared(self, style: Style) -> bytes:
        """What everybody gets who caused none of it."""
        data = self._shared.get(style)
        if data is None:
            pieces = self._pieces[style] = [render(entry, style) for entry in self._entries]
            data = self._shared[style] = b"".join(pieces)
        return data

    def own(self, style: Style, origin: int, echo: bool) -> bytes:
        """What the member `origin` gets, its own entries filtered or put in its own words."""
        self.shared(style)
        pieces = self._pieces[style].copy()
        for i in self.origins[origin]:
            pieces[i] = render_own(self._entries[i], style, echo)
        return b"".join(pieces)

    def for_reader(self, style: Style, reader: int, echo: bool) -> bytes:
        """What the member `reader` gets."""
        return self.own(style, reader, echo) if reader in self.origins else self.shared(style)
