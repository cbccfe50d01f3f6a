"""Entries of a log as bytes: rendered once for each style, and separately only for the members that caused them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pydantic_core import to_json

from ..errors import Disconnect
from ..events import Whisper
from .entries import AnyEntry, NameChanged


class Style(Protocol):
    """How a member's connection is shown its room: the protocol and its options.

    Members with the same protocol and options share one style object, and so the rendered bytes.
    """

    @property
    def numbered(self) -> bool:
        """Whether members are shown the `seq` of messages, so that none may be left out."""
        ...

    def entry(self, entry: AnyEntry) -> bytes:
        """Render an entry for every member except its author."""
        ...

    def own(self, entry: AnyEntry, echo: bool) -> bytes:
        """Render an entry for its author."""
        ...

    def size(self, entry: AnyEntry) -> int:
        """Return an upper bound, not much too large, of the bytes that `entry` and `own` return. This is cheaper."""
        ...

    def whisper(self, whisper: Whisper) -> bytes:
        """Render a whisper."""
        ...

    def notice(self, code: str, detail: str) -> bytes:
        """Render whether messages can be kept: `code` is ``unavailable`` or ``available``."""
        ...

    def disconnect(self, reason: Disconnect, detail: str) -> bytes:
        """Render the reason why the connection ends."""
        ...


def names_size(entry: AnyEntry) -> int:
    """Return an upper bound of the bytes of a join, leave, rename or deletion, in text and in JSON."""
    ref = 0
    names = len(entry.name)
    if isinstance(entry, NameChanged):
        names += len(entry.to)
        ref = 0 if entry.ref is None else len(to_json(entry.ref))
    return 128 + 4 * names + ref


class Batch:
    """Some entries, rendered in a style when first asked for, and shared from then on."""

    __slots__ = ("_entries", "_pieces", "_shared", "end", "origins", "start")

    def __init__(self, entries: Sequence[AnyEntry]) -> None:
        self._entries = entries
        self._shared: dict[Style, bytes] = {}
        self._pieces: dict[Style, list[bytes]] = {}  # the bytes of each entry
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
        """Return the bytes for the member `origin`, with its own entries rendered for their author.

        `shared` must have been called for this style.
        """
        pieces = [*self._pieces[style]]
        for i in self.origins[origin]:
            pieces[i] = style.own(self._entries[i], echo)
        return b"".join(pieces)

    def for_reader(self, style: Style, reader: int, echo: bool) -> bytes:
        """Return the bytes for the member `reader`."""
        shared = self.shared(style)
        return self.own(style, reader, echo) if reader in self.origins else shared
