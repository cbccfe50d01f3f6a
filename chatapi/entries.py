"""What a room's log holds: runs of messages, and the joins, leaves and renames between them.

A run (`Said`) is what one member said in one go: its cleaned lines stay one block of bytes from the socket it
came from to the sockets it goes to, so that a thousand lines cost about what one does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from .events import Event, Joined, Left, Message, Renamed
from .limits import ENTRY_COST


class Entry:
    """One entry of a log. It covers `count` positions, from `position` on; `kept` ones have a seq of their own."""

    __slots__ = ("name", "offset", "origin", "position", "seq")

    kept = False
    count: int
    weight: int

    def __init__(self, origin: int, name: str) -> None:
        self.origin: int = origin
        """The id of the member that caused it, on this node."""
        self.name: str = name
        self.seq: int = 0
        """Given by the broker: the first message's number in a run, or the last one's before anything else."""
        self.position: int = 0
        """Given by the log: where it stands."""
        self.offset: int = 0
        """Given by the log: the bytes that came before it."""

    @property
    def end(self) -> int:
        """The position right behind it."""
        return self.position + self.count

    def events(self) -> Iterator[Event]:
        """What it means to a member."""
        raise NotImplementedError


class Said(Entry):
    """Messages that one member said in one go.

    `block` is cleaned UTF-8, every line ended by a line feed. With `count` 1 it is one message, which may have
    several lines; otherwise every line is a message.
    """

    __slots__ = ("block", "count", "ids", "ts", "weight")

    kept = True

    def __init__(
        self, origin: int, name: str, block: bytes, count: int, ids: tuple[str | None, ...] | None = None
    ) -> None:
        super().__init__(origin, name)
        self.ids: tuple[str | None, ...] | None = ids
        """What its author calls the messages, one for each, where it calls them anything."""
        self.block: bytes = block
        self.count: int = count
        self.weight: int = len(block) + count * len(name) + ENTRY_COST
        """What it costs the log, and about what it comes to when it is rendered."""
        self.ts: int = 0
        """Given by the broker: the first message's time; the others follow microsecond by microsecond."""

    def texts(self) -> list[str]:
        """The messages' texts."""
        text = self.block[:-1].decode()
        return [text] if self.count == 1 else text.split("\n")

    def events(self) -> Iterator[Event]:
        """One `Message` for each."""
        for i, text in enumerate(self.texts()):
            yield Message(self.seq + i, self.ts + i, self.name, text)

    def id_of(self, index: int) -> str | None:
        """What its author calls one of the messages."""
        return self.ids[index] if self.ids else None

    def after(self, position: int) -> Said:
        """The same run without the messages before `position`, for a cursor that points into it."""
        skip = position - self.position
        ids = self.ids[skip:] if self.ids else None
        rest = Said(self.origin, self.name, self.block.split(b"\n", skip)[skip], self.count - skip, ids)
        rest.seq, rest.ts, rest.position = self.seq + skip, self.ts + skip, position
        return rest


class Presence(Entry):
    """Something about who is there: it has a place between the messages, and no number."""

    __slots__ = ()

    count = 1
    weight = ENTRY_COST


class Arrived(Presence):
    """A member came in."""

    __slots__ = ()

    def events(self) -> Iterator[Event]:
        """One `Joined`."""
        yield Joined(self.seq, self.name)


class Departed(Presence):
    """A member left."""

    __slots__ = ("reason",)

    def __init__(self, origin: int, name: str, reason: str) -> None:
        super().__init__(origin, name)
        self.reason: str = reason

    def events(self) -> Iterator[Event]:
        """One `Left`."""
        yield Left(self.seq, self.name, self.reason)


class NameChanged(Presence):
    """A member has another name; a quiet change is told to nobody but that member."""

    __slots__ = ("quiet", "ref", "to")

    def __init__(self, origin: int, name: str, to: str, quiet: bool, ref: str | int | None = None) -> None:
        super().__init__(origin, name)
        self.ref: str | int | None = ref
        """What its author calls the request."""
        self.to: str = to
        self.quiet: bool = quiet

    def events(self) -> Iterator[Event]:
        """One `Renamed`."""
        yield Renamed(self.seq, self.name, self.to)


AnyEntry: TypeAlias = Said | Arrived | Departed | NameChanged
