"""Pages of a room's past: from its own log and, where that does not hold all of it, from the broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import Refused
from .broker import Broker, Read
from .entries import AnyKept
from .log import Page, newest_of
from .room import Room


def read_page(
    broker: Broker, room: Room, before: int, most: int, max_bytes: int, then: Callable[[Page | Refused], None]
) -> None:
    """Call `then`, at once or later, with the newest messages before the seq `before`, or with why they cannot be read.

    The page has at most `most` messages and about `max_bytes` of texts, but at least one message if there is one.
    """

    def may_have(before: int) -> bool:
        return broker.keeps and room.first < min(before, room.oldest)

    messages, more = room.page(before, most, max_bytes)
    if more or len(messages) >= most or not may_have(before):
        then((messages, more or (bool(messages) and may_have(messages[0].seq))))
        return

    def found(entries: Sequence[AnyKept] | Refused) -> None:
        if isinstance(entries, Refused):
            then(entries)
            return
        messages, more = newest_of(reversed(entries), room.first, before, most, max_bytes)
        older = bool(entries) and room.first < entries[0].seq
        if older and not messages:  # nothing but deletions
            read_entries(broker, room, entries[0].seq, most + 1, max_bytes, found)
        else:
            then((messages, more or older))

    read_entries(broker, room, before, most + 1, max_bytes, found)


def read_entries(broker: Broker, room: Room, before: int, messages: int, max_bytes: int, then: Read) -> None:
    """`Broker.read`, without the text of what is deleted while it is under way."""
    seq = room.seq

    def found(entries: Sequence[AnyKept] | Refused) -> None:
        if not isinstance(entries, Refused):
            room.log.erase_in(entries, seq)
        then(entries)

    broker.read(room.key, before, messages, max_bytes, found)
