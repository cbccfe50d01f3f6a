"""The numbers of a room's log: which messages it can show again, and where a member that comes back goes on."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import pytest

from chatapi.core.broker import Past
from chatapi.core.entries import AnyKept, Deletion, Departed, NameChanged, Said
from chatapi.core.readers import Readers
from chatapi.core.remembered import Remembered
from chatapi.core.room_log import RoomLog
from chatapi.core.session_keys import hash_key
from chatapi.events import Left
from chatapi.limits import ENTRY_COST, Limits

KEY = "k" * 22


def run(seq: int, *texts: str, session: str = "") -> Said:
    """A run that begins at this number, at the time 1000 times the number."""
    said = Said(7, "Mina", "".join(text + "\n" for text in texts).encode(), len(texts), None, session)
    said.seq, said.ts = seq, 1000 * seq
    return said


def deletion(seq: int, target: int) -> Deletion:
    found = Deletion("moderator", target)
    found.seq, found.ts = seq, 1000 * seq
    return found


def room(*tail: AnyKept, first: int = 1, seq: int = 0, ts: int = 0, limits: Limits | None = None) -> RoomLog:
    """A room whose broker has messages from `first` on; its log has the `tail`."""
    if tail:
        seq, ts = tail[-1].seq + tail[-1].count - 1, tail[-1].ts + tail[-1].count - 1
    return RoomLog(Past("epoch", "dev", seq, ts, first, tail), limits or Limits())


@dataclass
class Member:
    """As much of a member as marking messages needs."""

    id: int = 9
    name: str = "Mina"


# What it has


def test_a_room_shows_the_newest_messages_of_its_log() -> None:
    here = room(run(3, "c", "d"), deletion(5, 1), run(6, "f"))
    assert here.oldest == 3
    assert [message.text for message in here.history(9)] == ["c", "d", "f"]
    assert [message.text for message in here.history(2)] == ["d", "f"]
    assert [message.text for message in here.page(4, 9, 99)[0]] == ["c"]
    assert here.page(7, 2, 99)[1]


def test_a_room_whose_log_is_empty_begins_with_its_next_message() -> None:
    assert room().oldest == 1
    assert room(seq=5, first=2).oldest == 6


def test_the_messages_that_only_the_broker_has_are_missing() -> None:
    here = room(run(6, "f", "g"), first=3)
    found = [here.missing("epoch", seq) for seq in range(9)]
    assert found == [0, 0, 0, 3, 2, 1, 0, 0, 0]
    assert here.missing("another", 4) == 0
    assert room(run(6, "f")).missing("epoch", 0) == 5, "0 stands for the beginning"


def test_messages_of_the_broker_are_held_again_if_none_is_missing_behind_them() -> None:
    a, b, c = run(1, "a", "b"), deletion(3, 1), run(4, "d", "e", "f")
    for entries, oldest in (
        ([a, b, c], 1),
        ([b, c], 3),
        ([c], 4),
        ([a, b], 7),
        ([a], 7),
        ([], 7),
        ([c, run(7, "x")], 4),
    ):
        here = room(run(7, "g"))
        here.restore(entries)
        assert here.oldest == oldest
        assert [message.seq for message in here.history(9)] == [seq for seq in (1, 2, 4, 5, 6, 7) if seq >= oldest]


# Where a member goes on


def test_a_member_goes_on_behind_the_last_message_that_it_has() -> None:
    here = room(run(1, "a"), run(2, "b", "c"), deletion(4, 1), run(5, "e"))
    times = {1: 1000, 2: 2000, 3: 2001, 4: 4000, 5: 5000}
    assert here.recover("epoch", 0, 0) == here.log.tail == 0
    assert [here.recover("epoch", seq, ts) for seq, ts in times.items()] == [1, 2, 3, 4, 5]
    assert {here.recover("epoch", seq, ts + more) for seq, ts in times.items() for more in (-1, 1)} == {"diverged"}
    assert here.recover("epoch", 6, 6000) == "diverged"
    assert here.recover("another", 1, 1000) == "unknown_epoch"


def test_a_member_that_has_less_than_the_log_is_told_that_messages_are_gone() -> None:
    here = room(run(3, "c", "d"), run(5, "e"))
    assert [here.recover("epoch", seq, 1000 * seq) for seq in (0, 1, 2, 3)] == ["trimmed", "trimmed", "trimmed", 1]
    here.first = 4
    assert [here.recover("epoch", seq, ts) for seq, ts in ((3, 3000), (4, 3001))] == ["trimmed", 2]
    forgotten = room(run(1, "a"), run(2, "b"))
    forgotten.first = 2
    assert forgotten.recover("epoch", 0, 0) == "trimmed"


def test_messages_that_the_broker_forgot_are_not_shown_any_more() -> None:
    for first, expected in ((1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 5)):
        here = room(run(1, "a", "b"), run(3, "c", "d", "e"))
        here.first = first
        assert [here.back(n, shown=False) for n in (0, 1, 9)] == [5, max(4, expected), expected]


# Whose messages they are


def test_a_message_becomes_the_members_own_under_its_id() -> None:
    here = room(run(1, "a", "b"), run(3, "c"))
    here.mark_own(cast("Any", Member()), "x", 2, 1001)
    said = here.log.entry_of(2)
    assert isinstance(said, Said)
    assert (said.origin, said.ids) == (9, (None, "x"))
    here.mark_own(cast("Any", Member()), "w", 1, 1000)
    assert said.ids == ("w", "x")
    here.mark_own(cast("Any", Member()), "y", 3, 3001)  # another message had this number
    other = here.log.entry_of(3)
    assert isinstance(other, Said)
    assert (other.origin, other.ids) == (7, None)


@pytest.mark.parametrize(("name", "told"), [("Mina", ()), ("Zoe", ("name",))])
def test_an_author_that_was_renamed_since_is_told_the_name_of_its_message(name: str, told: tuple[str, ...]) -> None:
    said = run(1, "a")
    said.ack_tells = ()
    for _ in range(2):
        room(said).mark_own(cast("Any", Member(name=name)), "x", 1, 1000)
        assert said.ack_tells == told


@pytest.mark.parametrize("key", [KEY, hash_key(KEY)])
def test_all_messages_of_a_session_become_its_members_own(key: str) -> None:
    here = room(run(1, "a", session=key), deletion(2, 1), run(3, "c"), run(4, "d", session=key))
    here.mark_session_own(cast("Any", Member()), KEY)
    assert [each.origin for each in (here.log.entry_of(seq) for seq in (1, 2, 3, 4)) if each] == [9, 0, 7, 9]


def test_erasing_a_message_leaves_the_others() -> None:
    here = room(run(1, "a", "b", "c"), run(4, "d"))
    for seq in (2, 4, 9):
        here.erase(seq)
    assert [message.text for message in here.history(9)] == ["a", "", "c", ""]


def test_readers_are_found_by_their_id_whatever_their_style() -> None:
    plain, styled = (cast("Any", SimpleNamespace(id=number, style=f"style {number}")) for number in (1, 2))
    readers = Readers()
    readers.add(plain)
    readers.add(styled)
    assert (len(readers), readers.get(1), readers.get(2), readers.get(3)) == (2, plain, styled, None)
    assert (readers.discard(plain), readers.discard(plain)) == (True, False)
    assert (len(readers), readers.get(1), [*readers.by_style]) == (1, None, ["style 2"])


# Entries


def test_an_entry_has_no_place_until_the_broker_has_given_it_one() -> None:
    said, deleted, renamed = Said(1, "Mina", b"a\n", 1), Deletion("Mina", 1), NameChanged(1, "Mina", "Zoe", False)
    assert (said.pending, deleted.pending, renamed.pending) == (True, True, True)
    said.seq, deleted.seq, renamed.seq = 1, 2, 0
    assert (said.pending, deleted.pending, renamed.pending) == (False, False, False)
    assert deleted.origin == 0, "no member's own"


def test_a_run_weighs_its_text_its_name_for_each_message_and_several_ids() -> None:
    assert Said(1, "Mina", b"ab\n", 1, ("id",)).weight == 3 + 4 + ENTRY_COST
    assert Said(1, "", b"ab\n", 1).weight == 3 + ENTRY_COST
    assert Said(1, "Mina", b"a\nb\n", 2).weight == 4 + 8 + ENTRY_COST
    several = Said(1, "Mina", b"a\nb\n", 2, ("id", None))
    assert several.weight == 4 + 8 + ENTRY_COST + "id".__sizeof__()


def test_a_part_of_a_run_keeps_the_numbers_ids_and_marks_of_its_messages() -> None:
    whole = Said(7, "Mina", b"a\nb\nc\nd\n", 4, ("1", None, "3", "4"), KEY)
    whole.seq, whole.ts, whole.position, whole.ack_tells = 5, 100, 20, ("text",)
    whole.erase(7)
    part = whole.between(21, 23)
    assert (part.seq, part.ts, part.position, part.end, part.count) == (6, 101, 21, 23, 2)
    assert (part.texts(), part.shown, part.ids, part.ack_tells) == (["b", ""], 1, (None, "3"), ("text",))
    assert (part.origin, part.session) == (7, KEY)
    assert whole.between(20, 21).ids == ("1",)


def test_one_message_of_several_lines_is_erased_as_a_whole() -> None:
    said = Said(1, "Mina", b"a\nb\n", 1)
    said.erase(0)
    assert said.texts() == [""]


def test_all_members_that_wait_for_an_entry_get_the_same_result() -> None:
    said = run(1, "a")
    first = said.when_settled()
    assert first is not None
    assert said.when_settled() is first


def test_a_member_that_leaves_is_shown_with_its_name_and_reason() -> None:
    assert [*Departed(1, "Mina", "quit").events()] == [Left(0, "Mina", "quit")]


def test_a_remembered_message_has_its_place_and_then_no_text() -> None:
    said = run(5, "a", "b")
    known = Remembered(("x", "y"), 0, 0, 1.0, "dev", said)
    assert known.pending is None
    assert Remembered(("x",), 1, 1000, 1.0).pending is None
    on_its_way = Said(1, "Mina", b"a\n", 1)
    assert Remembered(("x",), 0, 0, 1.0, "dev", on_its_way).pending is on_its_way
    assert (known.place("x"), known.place("y")) == ((5, 5000), (6, 5001))
    assert known.forget_text() == said.weight
    assert (known.place("x"), known.place("y")) == ((5, 5000), (6, 5001))
    assert known.forget_text() == 0
