"""Entries of a log as bytes: rendered once per style for all members, and apart only for who caused them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pydantic_core import to_json

from ..errors import Disconnect
from ..events import Whisper
from .entries import AnyEntry, NameChanged


class Style(Protocol):
    """How the server speaks to a member: everything that makes one member's bytes differ from another's.

    Members who are spoken to in the same way share one style object, and so the bytes of what is rendered in it.
    """

    @property
    def numbered(self) -> bool:
        """Whether members are told numbers, so that none may be left out."""
        ...

    def entry(self, entry: AnyEntry) -> bytes:
        """An entry as everybody but its author gets it."""
        ...

    def own(self, entry: AnyEntry, echo: bool) -> bytes:
        """An entry as its author gets it."""
        ...

    def size(self, entry: AnyEntry) -> int:
        """At least as many bytes as `entry` and `own` have, and not many more. It costs less than to render them."""
        ...

    def whisper(self, whisper: Whisper) -> bytes:
        """What somebody said to this member alone."""
        ...

    def notice(self, code: str, detail: str) -> bytes:
        """How the server is."""
        ...

    def disconnect(self, reason: Disconnect, detail: str) -> bytes:
        """The last words."""
        ...


def names_size(entry: AnyEntry) -> int:
    """At least as many bytes as a join, leave, rename or deletion has, in either protocol."""
    ref = 0
    names = len(entry.name)
    if isinstance(entry, NameChanged):
        names += len(entry.to)
        ref = 0 if entry.ref is None else len(to_json(entry.ref))
    return 128 + 4 * names + ref


class Batch:
    """Some entries, rendered when first asked for in a style and shared from then on."""

    __slots__ = ("_entries", "_pieces", "_shared", "end", "origins", "start")

    def __init__(self, entries: Sequence[AnyEntry]) -> None:
        self._entries = entries
        self._shared: dict[Style, bytes] = {}
        self._pieces: dict[Style, list[bytes]] = {}  # the same, of each entry
        first, last = entries[0], entries[-1]
        self.start: int = first.position
        self.end: int = last.position + last.count
        self.origins: dict[int, list[int]] = {first.origin: [0]}
        """Indexes of the entries that each member caused, by the member's id."""
        for i in range(1, len(entries)):
            self.origins.setdefault(entries[i].origin, []).append(i)

    def shared(self, style: Style) -> bytes:
        """Return the bytes for every member that caused none of the entries."""
        data = self._shared.get(style)
        if data is None:
            pieces = self._pieces[style] = [*map(style.entry, self._entries)]
            data = self._shared[style] = b"".join(pieces)
        return data

    def own(self, style: Style, origin: int, echo: bool) -> bytes:
        """Return the bytes for the member `origin`, its own entries left out or rendered for their author.

        `shared` must have been called for this style.
        """
        pieces = [*self._pieces[style]]
        for i in self.origins[origin]:
            pieces[i] = style.own(self._entries[i], echo)
        return b"".join(pieces)

    def for_reader(self, style: Style, reader: int, echo: bool) -> bytes:
        """What the member `reader` gets."""
        shared = self.shared(style)
        return self.own(style, reader, echo) if reader in self.origins else shared
