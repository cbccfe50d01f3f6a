"""Pages of a room's past: from its own log and, if that does not hold all of the page, from the broker."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import Refused
from ..pending import Pending
from .broker import Broker
from .entries import AnyKept
from .log import Page, newest_of
from .room import Room


def read_page(broker: Broker, room: Room, before: int, most: int, max_bytes: int) -> Pending[Page]:
    """Read the newest messages before the seq `before`. Fails with `Refused`.

    The page has at most `most` messages and about `max_bytes` of texts, but at least one message if there is one.
    """

    def may_have(before: int) -> bool:
        return broker.keeps and room.first < min(before, room.oldest)

    messages, more = room.page(before, most, max_bytes)
    if more or len(messages) >= most or not may_have(before):
        return Pending.resolved((messages, more or (bool(messages) and may_have(messages[0].seq))))
    page: Pending[Page] = Pending()

    def found(read: Pending[Sequence[AnyKept]]) -> None:
        try:
            entries = read.result()
        except Refused as reason:
            page.fail(reason)
            return
        messages, more = newest_of(reversed(entries), room.first, before, most, max_bytes)
        older = bool(entries) and room.first < entries[0].seq
        if older and not messages:  # nothing but deletions
            read_entries(broker, room, entries[0].seq, most + 1, max_bytes).then(found)
        else:
            page.resolve((messages, more or older))

    read_entries(broker, room, before, most + 1, max_bytes).then(found)
    return page


def read_entries(broker: Broker, room: Room, before: int, messages: int, max_bytes: int) -> Pending[Sequence[AnyKept]]:
    """Do what `Broker.read` does, and empty the messages that are deleted meanwhile."""
    seq = room.seq

    def erased(entries: Sequence[AnyKept]) -> Sequence[AnyKept]:
        room.log.erase_in(entries, seq)
        return entries

    return broker.read(room.key, before, messages, max_bytes).map(erased)
