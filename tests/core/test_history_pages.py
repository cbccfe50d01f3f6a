"""Pages of a room's past: from its log, from its broker, and where there are older messages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, cast

import pytest

from chatapi.core.broker import Past
from chatapi.core.entries import AnyKept, Deletion, Said
from chatapi.core.history import read_page
from chatapi.core.log import Page
from chatapi.core.room_log import RoomLog
from chatapi.errors import Refused
from chatapi.limits import Limits
from chatapi.pending import Pending


class Room(RoomLog):
    key = "dev"


class Kept:
    """A broker that keeps entries, and counts how often it is asked."""

    def __init__(self, entries: list[AnyKept], keeps: bool = True) -> None:
        self.entries = entries
        self.keeps = keeps
        self.asked = 0
        self.refuses: Refused | None = None

    def read(self, room: str, before: int, messages: int, max_bytes: int) -> Pending[Sequence[AnyKept]]:
        self.asked += 1
        if self.refuses is not None:
            return Pending.failed(self.refuses)
        found: list[AnyKept] = []
        for entry in reversed(self.entries):
            if entry.seq < before and sum(isinstance(each, Said) for each in found) < messages and len(found) < 3:
                found.insert(0, entry)
        return Pending.resolved(found)


def entry(seq: int, deleted: int = 0) -> AnyKept:
    found = Deletion("moderator", deleted) if deleted else Said(1, "Mina", f"{seq}\n".encode(), 1)
    found.seq, found.ts = seq, 1000 * seq
    return found


def page_of(broker: Kept, room: Room, before: int, most: int, max_bytes: int = 99) -> tuple[list[int], bool]:
    page: Pending[Page] = read_page(cast("Any", broker), cast("Any", room), before, most, max_bytes)
    messages, more = page.result()
    return [message.seq for message in messages], more


def room_of(held: list[AnyKept], seq: int, first: int) -> Room:
    return Room(Past("epoch", "dev", seq, 1000 * seq, first, held), Limits())


SEQS = [1, 2, 3, 5, 6, 10, 11]  # 4 is a deletion, and so are 7 to 9


@pytest.mark.parametrize("held", range(8))
@pytest.mark.parametrize("first", [1, 2, 6, 11])
def test_a_page_is_the_same_whether_the_log_or_the_broker_has_it(held: int, first: int) -> None:
    entries = [entry(seq, deleted=0 if seq in SEQS else 1) for seq in range(first, 12)]
    for before, most in product(range(1, 14), range(1, 8)):
        tail = entries[len(entries) - min(held, len(entries)) :]
        seqs, more = page_of(Kept(entries), room_of([*tail], 11, first), before, most)
        there = [seq for seq in SEQS if first <= seq < before]
        assert seqs == there[len(there) - len(seqs) :]
        assert len(seqs) == most or bool(seqs) == bool(there)
        if len(seqs) < len(there):
            assert more, "older messages are left"
        if not more:
            assert seqs == there


@pytest.mark.parametrize(("before", "most", "asked", "page"), [
    (12, 2, 0, ([10, 11], True)),
    (12, 3, 1, ([10, 11], True)),
    (11, 1, 0, ([10], True)),
    (10, 1, 2, ([6], True)),
    (3, 1, 1, ([2], True)),
    (3, 2, 1, ([1, 2], False)),
    (2, 1, 1, ([1], False)),
    (1, 1, 0, ([], False)),
])  # fmt: skip
def test_a_broker_is_asked_only_for_what_the_log_has_not(
    before: int, most: int, asked: int, page: tuple[list[int], bool]
) -> None:
    entries = [entry(seq, deleted=0 if seq in SEQS else 1) for seq in range(1, 12)]
    broker = Kept(entries)
    assert page_of(broker, room_of(entries[-2:], 11, 1), before, most) == page
    assert broker.asked == asked


@pytest.mark.parametrize(("before", "most", "asked", "page"), [(6, 1, 1, [5]), (10, 2, 2, [5, 6])])
def test_a_page_is_the_last_one_if_only_deletions_are_older(
    before: int, most: int, asked: int, page: list[int]
) -> None:
    entries = [entry(seq, deleted=0 if seq in SEQS else 1) for seq in range(4, 12)]
    broker = Kept(entries)
    assert page_of(broker, room_of(entries[-2:], 11, 4), before, most) == (page, False)
    assert broker.asked == asked


def test_each_deletion_before_a_page_is_read_once() -> None:
    broker = Kept([entry(1), *(entry(seq, deleted=1) for seq in range(2, 11))])
    assert page_of(broker, room_of([], 10, 1), 11, 1) == ([1], False)
    assert broker.asked == 4, "three entries at a time"


def test_a_broker_that_keeps_nothing_is_not_asked() -> None:
    broker = Kept([], keeps=False)
    assert page_of(broker, room_of([entry(5), entry(6)], 6, 1), 7, 3) == ([5, 6], False)
    assert page_of(broker, room_of([entry(5), entry(6)], 6, 1), 7, 1) == ([6], True)
    assert broker.asked == 0


def test_a_page_that_the_broker_refuses_is_refused() -> None:
    broker = Kept([])
    broker.refuses = Refused("unavailable", "the store is away")
    with pytest.raises(Refused, match="away"):
        page_of(broker, room_of([], 6, 1), 7, 1)


def test_a_message_that_was_deleted_while_the_broker_read_it_is_empty() -> None:
    room, answer = room_of([entry(3)], 3, 1), Pending[Sequence[AnyKept]]()
    broker = Kept([])
    broker.read = lambda room, before, messages, max_bytes: answer  # type: ignore[method-assign]
    page = read_page(cast("Any", broker), cast("Any", room), 3, 2, 99)
    room.log.append(entry(4, deleted=2))
    room.seq = 4
    answer.resolve([entry(1), entry(2)])
    assert [message.text for message in page.result()[0]] == ["1", ""]
