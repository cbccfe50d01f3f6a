"""Entries of a log as bytes: rendered once per style for all members, and apart only for who caused them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
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

    __slots__ = ("_ends", "_entries", "_shared", "end", "origins", "start")

    def __init__(self, entries: Sequence[AnyEntry]) -> None:
        self._entries = entries
        self._shared: dict[Style, bytes] = {}
        self._ends: dict[Style, list[int]] = {}  # 0, and where in that each entry ends
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
            pieces = [style.entry(entry) for entry in self._entries]
            data = self._shared[style] = b"".join(pieces)
            self._ends[style] = [0, *accumulate(map(len, pieces))]
        return data

    def own(self, style: Style, origin: int, echo: bool) -> bytes:
        """What the member `origin` gets, its own entries filtered or put in its own words."""
        shared = memoryview(self.shared(style))
        ends = self._ends[style]
        pieces: list[bytes | memoryview] = []
        done = 0
        for i in self.origins[origin]:
            pieces += shared[done : ends[i]], style.own(self._entries[i], echo)
            done = ends[i + 1]
        pieces.append(shared[done:])
        return b"".join(pieces)

    def for_reader(self, style: Style, reader: int, echo: bool) -> bytes:
        """What the member `reader` gets."""
        return self.own(style, reader, echo) if reader in self.origins else self.shared(style)
