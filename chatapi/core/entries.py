"""The entries of a room's log: runs of messages and deletions, which are kept, and joins, leaves and renames.

A run (`Said`) has messages that one member sent together. Its cleaned lines stay one block of bytes from the receiving
socket to the sending sockets, so that a thousand lines cost about as much as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

from ..events import Deleted, Event, Joined, Left, Message, Renamed
from ..limits import ENTRY_COST
from ..pending import Pending

REFUSED: Final = -1
"""The seq of an entry that was refused."""
_UNPLACED: Final = -2
"""The seq of a `NameChanged` that has no place yet; with a place, its seq may be 0."""


class Entry:
    """One entry of a log. It covers `count` positions, from `position` on."""

    __slots__ = ("name", "offset", "origin", "position", "seq")

    count: int
    weight: int

    def __init__(self, origin: int, name: str) -> None:
        self.origin: int = origin
        """The id of the member that caused it, on this node."""
        self.name: str = name
        self.seq: int = 0
        """Set by the broker, 0 until then: the number of a run's first message, or the last number before an entry that
        is not kept."""
        self.position: int = 0
        """Its position, set by the log."""
        self.offset: int = 0
        """The bytes of all entries before it, set by the log."""

    @property
    def end(self) -> int:
        """The position right behind this entry."""
        return self.position + self.count

    def events(self) -> Iterator[Event]:
        """Yield the events that a member is shown for it."""
        raise NotImplementedError


class KeptEntry(Entry):
    """An entry that has numbers: a broker gives it numbers and a time, and may keep it for ever."""

    __slots__ = ("settled", "ts")

    def __init__(self, origin: int, name: str) -> None:
        super().__init__(origin, name)
        self.ts: int = 0
        """The time of the first message, set by the broker; each further message is one microsecond later."""
        self.settled: Pending[None] | None = None
        """The result of `when_settled`; None if nothing waits for it."""

    @property
    def pending(self) -> bool:
        """Whether it has no position yet."""
        return not self.seq

    def when_settled(self) -> Pending[None]:
        """Return a result that comes when it has its place. It fails with `Refused` if it gets none."""
        if self.settled is None:
            self.settled = Pending()
        return self.settled


class Said(KeptEntry):
    """A run: messages that one member sent together.

    `block` is cleaned UTF-8, every line ended by a line feed. With `count` 1 it is one message, which may have
    several lines; otherwise every line is a message. A message that was deleted is an empty line.
    """

    __slots__ = ("ack_tells", "block", "count", "erased", "ids", "session", "weight")

    def __init__(
        self,
        origin: int,
        name: str,
        block: bytes,
        count: int,
        ids: tuple[str | None, ...] | None = None,
        session: str = "",
    ) -> None:
        self.origin: int = origin  # no call of the base classes, because one is made for every line
        self.name: str = name
        self.seq: int = 0
        self.position: int = 0
        self.offset: int = 0
        self.ts: int = 0
        self.settled: Pending[None] | None = None
        self.ids: tuple[str | None, ...] | None = ids
        """The author's ids of the messages, None for a message without one; None if no message has one."""
        self.session: str = session
        """The key of the session that the ids belong to."""
        self.erased: bool = False
        """Whether any of the messages was deleted."""
        self.ack_tells: tuple[str, ...] = ("name", "text")
        """The fields that an `ack` shows to the author, because they may differ from those that it has sent."""
        self.block: bytes = block
        self.count: int = count
        more_ids = sum(map(str.__sizeof__, filter(None, ids))) if ids is not None and count > 1 else 0
        self.weight: int = len(block) + count * len(name) + ENTRY_COST + more_ids
        """Bytes that it takes in the log."""

    def texts(self) -> list[str]:
        """Return the texts of the messages."""
        text = self.block[:-1].decode()
        return [text] if self.count == 1 else text.split("\n")

    def events(self) -> Iterator[Event]:
        """Yield a `Message` for each."""
        for i, text in enumerate(self.texts()):
            yield Message(self.seq + i, self.ts + i, self.name, text)

    @property
    def shown(self) -> int:
        """The number of messages that have a text."""
        return self.count - (self.texts().count("") if self.erased else 0)

    def id_of(self, index: int) -> str | None:
        """Return the id that its author gave to one of the messages."""
        return self.ids[index] if self.ids else None

    def set_id(self, seq: int, id: str) -> None:  # noqa: A002
        """Set the id that its author gave to one of the messages."""
        if self.id_of(seq - self.seq) != id:
            ids = list(self.ids or [None] * self.count)
            ids[seq - self.seq] = id
            self.ids = tuple(ids)

    def between(self, start: int, stop: int) -> Said:
        """Return the messages of this run from the position `start` on and before `stop`."""
        skip, count = start - self.position, stop - start
        block = b"\n".join(self.block.split(b"\n", skip + count)[skip : skip + count]) + b"\n"
        ids = self.ids[skip : skip + count] if self.ids else None
        part = Said(self.origin, self.name, block, count, ids, self.session)
        part.seq, part.ts, part.position, part.erased = self.seq + skip, self.ts + skip, start, self.erased
        part.ack_tells = self.ack_tells
        return part

    def erase(self, seq: int) -> None:
        """Empty the text of one of the messages."""
        self.block = without(self.block, self.count, seq - self.seq)
        self.erased = True


def without(block: bytes, count: int, index: int) -> bytes:
    """Return the block of a run of `count` messages, with the text of one of them emptied."""
    if count == 1:
        return b"\n"
    lines = block.split(b"\n")
    lines[index] = b""
    return b"\n".join(lines)


class Deletion(KeptEntry):
    """A message was deleted."""

    __slots__ = ("target",)

    count = 1
    shown = 0
    weight = ENTRY_COST

    def __init__(self, name: str, target: int) -> None:
        super().__init__(0, name)
        self.target: int = target
        """The message's seq."""

    def events(self) -> Iterator[Event]:
        """Yield one `Deleted`."""
        yield Deleted(self.seq, self.ts, self.name, self.target)


class Presence(Entry):
    """A join, leave or rename: it has a position between the messages, and no number."""

    __slots__ = ()

    count = 1
    weight = ENTRY_COST


class Arrived(Presence):
    """A member came in."""

    __slots__ = ()

    def events(self) -> Iterator[Event]:
        """Yield one `Joined`."""
        yield Joined(self.seq, self.name)


class Departed(Presence):
    """A member left."""

    __slots__ = ("reason",)

    def __init__(self, origin: int, name: str, reason: str) -> None:
        super().__init__(origin, name)
        self.reason: str = reason

    def events(self) -> Iterator[Event]:
        """Yield one `Left`."""
        yield Left(self.seq, self.name, self.reason)


class NameChanged(Presence):
    """A member has another name. If the change is `quiet`, only that member is told."""

    __slots__ = ("quiet", "ref", "to")

    def __init__(self, origin: int, name: str, to: str, quiet: bool, ref: str | int | None = None) -> None:
        super().__init__(origin, name)
        self.seq = _UNPLACED
        self.ref: str | int | None = ref
        """The `ref` of the member's request; the answer has it too."""
        self.to: str = to
        self.quiet: bool = quiet

    @property
    def pending(self) -> bool:
        """Whether it has no position yet."""
        return self.seq == _UNPLACED

    def events(self) -> Iterator[Event]:
        """Yield one `Renamed`."""
        yield Renamed(self.seq, self.name, self.to)


AnyKept: TypeAlias = Said | Deletion
AnyEntry: TypeAlias = AnyKept | Arrived | Departed | NameChanged
