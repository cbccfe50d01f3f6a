"""`Log`: the entries of a room, in order and bounded. A member is a cursor into it."""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import TypeAlias

from ..events import Message
from .entries import AnyEntry, AnyKept, Arrived, Deletion, KeptEntry, Said

Page: TypeAlias = tuple[list[Message], bool]
"""Messages, oldest first, and whether there are older ones."""

Size: TypeAlias = Callable[[AnyEntry], int]
"""Returns how many bytes an entry has at most when it is rendered."""

_position = attrgetter("position")
_seq = attrgetter("seq")
_offset = attrgetter("offset")
_GONE = Arrived(0, "")
_NO_MESSAGE = Deletion("", 0)


class Log:
    """An append-only list of entries that forgets its oldest ones.

    Positions count messages, deletions, joins, leaves and renames; they are internal and never reused. `prepend` may
    give negative ones. `tail` is the oldest position that is held, and the next entry gets the position `head`. A
    cursor lags by ``head - cursor``; entries that it should read are gone if it is before `tail`.
    """

    __slots__ = ("_entries", "_gone", "_kept", "_kept_gone", "head", "held", "max_bytes", "max_entries", "written")

    def __init__(self, max_bytes: int, max_entries: int) -> None:
        self.max_bytes: int = max_bytes
        self.max_entries: int = max_entries
        self._entries: list[AnyEntry] = []
        self._gone = 0  # entries at the front that are forgotten, but still in the list: removing them is O(n)
        self._kept: list[AnyKept] = []  # the entries that have a seq
        self._kept_gone = 0
        self.head: int = 0
        self.written: int = 0
        """The bytes of all entries that were ever appended."""
        self.held: int = 0
        """The bytes of the entries that are held."""

    @property
    def tail(self) -> int:
        """The oldest position that can still be read."""
        return self._entries[self._gone].position if self._gone < len(self._entries) else self.head

    @property
    def newest(self) -> AnyEntry | None:
        """The entry at the end."""
        return self._entries[-1] if self._entries else None

    def append(self, entry: AnyEntry) -> None:
        """Give the entry its position and hold it; forget the oldest entries if there are too many."""
        entry.position = self.head
        entry.offset = self.written
        self._entries.append(entry)
        if isinstance(entry, KeptEntry):
            self._kept.append(entry)
        self.head += entry.count
        self.written += entry.weight
        self.held += entry.weight
        if self.held > self.max_bytes or self.head - self._entries[self._gone].position > self.max_entries:
            self.shrink(self.max_bytes)

    def prepend(self, entries: Sequence[AnyKept]) -> None:
        """Hold again entries that come right before the oldest one that is held."""
        position, offset = self.tail, self.written - self.held
        for entry in reversed(entries):
            position -= entry.count
            offset -= entry.weight
            entry.position, entry.offset = position, offset
        self._entries[self._gone : self._gone] = entries
        self._kept[self._kept_gone : self._kept_gone] = entries
        self.shrink(self.max_bytes)

    def shrink(self, max_bytes: int) -> None:
        """Forget the oldest entries, except the newest one, while more than `max_bytes` or `max_entries` are held."""
        entries, gone = self._entries, self._gone
        kept, kept_gone = self._kept, self._kept_gone
        oldest_offset = self.written - max_bytes
        oldest_position = self.head - self.max_entries
        newest = len(entries) - 1  # held however large it is
        while gone < newest and (entries[gone].offset < oldest_offset or entries[gone].position < oldest_position):
            if isinstance(entries[gone], KeptEntry):
                kept[kept_gone] = _NO_MESSAGE
                kept_gone += 1
            entries[gone] = _GONE
            gone += 1
        if gone > 64 and gone * 2 > len(entries):
            del entries[:gone]
            gone = 0
            del kept[:kept_gone]
            kept_gone = 0
        self._gone, self._kept_gone = gone, kept_gone
        self.held = self.written - entries[gone].offset if entries else 0

    def read(self, position: int, stop: int, most: int, size: Size) -> tuple[list[AnyEntry], int]:
        """Return a `chunk` of the entries from `position` on, before `stop`, and the position to go on from.

        The position must be held; `stop` lies between entries.
        """
        if position >= stop:
            return [], position
        found = chunk(self._between(position, stop), most, size)
        return found, found[-1].end

    def _between(self, position: int, stop: int) -> Iterator[AnyEntry]:
        entries = self._entries
        i = bisect_right(entries, position, lo=self._gone, key=_position) - 1
        first = entries[i]
        if first.position < position and isinstance(first, Said):
            yield first.between(position, first.end)
            i += 1
        while i < len(entries) and entries[i].position < stop:
            yield entries[i]
            i += 1

    def weight(self, position: int) -> int:
        """Return the bytes that are held from the entry at `position` on."""
        i = bisect_right(self._entries, position, lo=self._gone, key=_position) - 1
        return self.written - self._entries[max(i, self._gone)].offset if position < self.head else 0

    def back(self, messages: int, *, shown: bool = False) -> int:
        """Return the position from which so many messages and deletions follow, or the tail if fewer are held.

        With `shown`, only messages that have a text count, and a run with deleted ones is not cut.
        """
        i = len(self._kept)
        position = self.head
        while messages > 0 and i > self._kept_gone:
            i -= 1
            entry = self._kept[i]
            count = entry.shown if shown else entry.count
            position = entry.position + (max(0, count - messages) if count == entry.count else 0)
            messages -= count
        return position

    def entry_of(self, seq: int) -> AnyKept | None:
        """Return the entry with the message or deletion of this number, if it is still held."""
        i = bisect_right(self._kept, seq, lo=self._kept_gone, key=_seq) - 1
        if i < self._kept_gone:
            return None
        entry = self._kept[i]
        return entry if seq < entry.seq + entry.count else None

    def message(self, seq: int, ts: int) -> Message | None:
        """Return the message with this number and time, if it is still held."""
        said = self.entry_of(seq)
        if not isinstance(said, Said) or said.ts + seq - said.seq != ts:
            return None
        return Message(seq, ts, said.name, said.texts()[seq - said.seq])

    def oldest_seq(self) -> int:
        """Return the number of the oldest message that is held; 0 if none is."""
        return self._kept[self._kept_gone].seq if self._kept_gone < len(self._kept) else 0

    def before(self, seq: int) -> Iterator[AnyKept]:
        """Yield the kept entries that begin before `seq`, newest first."""
        i = bisect_left(self._kept, seq, lo=self._kept_gone, key=_seq)
        while i > self._kept_gone:
            i -= 1
            yield self._kept[i]

    def deletes(self, target: int, after: int, before: int) -> bool:
        """Return whether it holds a deletion of the message `target` with a number between `after` and `before`."""
        for entry in self.before(before):
            if entry.seq <= after:
                return False
            if isinstance(entry, Deletion) and entry.target == target:
                return True
        return False

    def erase_in(self, entries: Sequence[AnyKept], since: int) -> None:
        """Empty the messages in these entries that were deleted after the seq `since`."""
        for deletion in self.before(sys.maxsize):
            if deletion.seq <= since:
                return
            if isinstance(deletion, Deletion):
                for said in entries:
                    if isinstance(said, Said) and said.seq <= deletion.target < said.seq + said.count:
                        said.erase(deletion.target)

    def behind_by(self, fraction: float) -> int:
        """Return the position before which a cursor lags by more than this part of the log, in bytes or in entries."""
        i = bisect_left(self._entries, self.written - fraction * self.max_bytes, lo=self._gone, key=_offset)
        by_bytes = self._entries[i].position if i < len(self._entries) else self.head
        return max(by_bytes, self.head - int(fraction * self.max_entries))


def chunk(entries: Iterable[AnyEntry], most: int, size: Size) -> list[AnyEntry]:
    """Return the first entries that have at most `most` bytes when they are rendered, but at least one message.

    A run that is longer by itself is cut if it is longer by more than a quarter. So the lines of
    text that come with one read of a socket are usually not cut.
    """
    found: list[AnyEntry] = []
    left = most
    for entry in entries:
        measured = size(entry)
        if measured > left:
            if not found:
                found.append(_beginning(entry, measured, most, size) if measured > most + most // 4 else entry)
            break
        left -= measured
        found.append(entry)
    return found


def _beginning(entry: AnyEntry, measured: int, most: int, size: Size) -> AnyEntry:
    while measured > most and isinstance(entry, Said) and entry.count > 1:
        entry = entry.between(entry.position, entry.position + max(1, entry.count * most // measured))
        measured = size(entry)
    return entry


def newest_of(entries: Iterable[AnyKept], first: int, before: int, most: int, max_bytes: int) -> Page:
    """Return the newest `most` messages from `first` on and before `before`, and whether there are older ones.

    `entries` come newest first, the messages oldest first. There are fewer, but at least one, if
    their texts have more than about `max_bytes`.
    """
    found: list[Message] = []
    size = 0
    for entry in entries if most > 0 else ():
        if not isinstance(entry, Said):
            continue
        texts = entry.texts()
        for i in range(min(entry.count, before - entry.seq) - 1, max(0, first - entry.seq) - 1, -1):
            if len(found) == most or size >= max_bytes:
                return found[::-1], True
            found.append(Message(entry.seq + i, entry.ts + i, entry.name, texts[i]))
            size += len(texts[i])
    return found[::-1], False
