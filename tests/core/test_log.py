"""A room's log against a model: a list of events, and what each entry weighs."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples

from chatapi.core.entries import AnyEntry, Arrived, Deletion, Said
from chatapi.core.log import Log
from chatapi.events import Event, Message
from chatapi.limits import ENTRY_COST

BYTES, ENTRIES = 10 * ENTRY_COST, 12
PLENTY = 1 << 30


def weight(entry: AnyEntry) -> int:
    return entry.weight


@dataclass
class Model:
    """What happened, and where each entry that is still held begins."""

    log: Log = field(default_factory=lambda: Log(BYTES, ENTRIES))
    events: list[Event] = field(default_factory=list)
    held: list[tuple[int, int]] = field(default_factory=list)  # each entry's position and weight
    seq: int = 0

    def append(self, entry: AnyEntry) -> None:
        entry.seq = self.seq
        if isinstance(entry, Said):
            entry.seq, entry.ts = self.seq + 1, 1000 + 10 * self.seq
            self.seq += entry.count
        self.held.append((len(self.events), entry.weight))
        self.events += entry.events()
        self.log.append(entry)
        self.trim(BYTES)

    def trim(self, to_bytes: int) -> None:
        while len(self.held) > 1 and (self.bytes > to_bytes or len(self.events) - self.tail > ENTRIES):
            self.held.pop(0)

    @property
    def bytes(self) -> int:
        return sum(weight for _, weight in self.held)

    @property
    def tail(self) -> int:
        return self.held[0][0] if self.held else len(self.events)

    def read(self, position: int, most: int) -> list[Event]:
        """Everything from `position` on, in parts of about `most` bytes."""
        events: list[Event] = []
        while position < self.log.head:
            entries, position = self.log.read(position, self.log.head, most, weight)
            assert entries
            alone = len(entries) == 1
            assert sum(map(weight, entries)) <= most * 1.25 or (alone and entries[0].count == 1)
            events += [event for entry in entries for event in entry.events()]
        assert position == self.log.head
        return events

    def check(self) -> None:
        """Ask the log everything that can be asked."""
        log, held = self.log, self.events[self.tail :]
        assert (log.head, log.tail, log.held) == (len(self.events), self.tail, self.bytes)
        for position in range(log.tail, log.head + 1):
            for most in (1, 2 * ENTRY_COST, PLENTY):
                assert self.read(position, most) == self.events[position:]
        messages = [event for event in held if isinstance(event, Message)]
        for n in range(len(messages) + 2):
            follow = self.read(log.back(n), PLENTY)
            assert [event for event in follow if isinstance(event, Message)] == messages[-n or len(messages) :]
            assert n > len(messages) or n == 0 or follow[0] == messages[-n]
        for fraction in (0.0, 0.25, 0.5, 1.0):
            behind, lag = log.behind_by(fraction), self.bytes
            for position, weight in self.held:
                much = lag > fraction * BYTES or log.head - position > fraction * ENTRIES
                assert (position < behind) == much
                lag -= weight
            assert behind <= log.head


def said(*texts: str) -> Said:
    return Said(1, "Mina", "".join(text + "\n" for text in texts).encode(), len(texts))


runs = st.lists(st.text("aé", max_size=9), min_size=1, max_size=5).map(lambda texts: said(*texts))
steps = runs | st.builds(Arrived, st.just(2), st.just("Zoe")) | st.integers(0, BYTES)
several_lines = st.just(b"one\ntwo\n").map(lambda block: Said(1, "Mina", block, 1))
a_big_one = st.just("x" * BYTES).map(said)


@examples(150)
@given(st.lists(steps | several_lines | a_big_one, max_size=30))
def test_a_log_is_a_list_that_forgets_its_oldest_entries(steps: list[AnyEntry | int]) -> None:
    model = Model()
    for step in steps:
        if isinstance(step, int):
            model.log.shrink(step)
            model.trim(step)
        else:
            model.append(step)
        model.check()


@pytest.mark.parametrize("every", [1, 3])
def test_a_log_forgets_for_ever(every: int) -> None:
    model = Model()
    for i in range(300):
        model.append(said(f"m{i}") if i % every else Arrived(2, "Zoe"))
        model.check()


def test_an_empty_log_is_behind_nothing() -> None:
    log = Log(BYTES, ENTRIES)
    assert (log.head, log.tail, log.held, log.back(5)) == (0, 0, 0, 0)
    assert log.read(0, 0, PLENTY, weight) == ([], 0)


@pytest.mark.parametrize("more", [0, 1])
def test_a_log_holds_just_its_limit_of_bytes(more: int) -> None:
    log = Log(2 * said("m1").weight, ENTRIES)
    for text in ("m1", "m2" + "x" * more):
        log.append(said(text))
    assert log.tail == more


@pytest.mark.parametrize("more", [0, 1])
def test_a_log_holds_just_its_limit_of_entries_and_a_run_counts_its_messages(more: int) -> None:
    log = Log(PLENTY, 4)
    log.append(said("m1", "m2"))
    log.append(said(*["m"] * (2 + more)))
    assert log.tail == 2 * more


def test_the_newest_entry_is_held_however_big_it_is() -> None:
    log = Log(BYTES, 4)
    log.append(said("old"))
    log.append(said(*["x" * BYTES] * 9))
    assert (log.tail, log.head) == (1, 10)
    log.shrink(0)
    assert (log.tail, log.head) == (1, 10)


def test_a_read_stops_where_it_is_told_to() -> None:
    model = Model()
    for entry in (said("m1", "m2"), Arrived(2, "Zoe"), said("m3")):
        model.append(entry)
    for start, stop in ((0, 2), (1, 2), (0, 3), (2, 3), (3, 4)):
        entries, end = model.log.read(start, stop, PLENTY, weight)
        assert [event for entry in entries for event in entry.events()] == model.events[start:stop]
        assert end == stop
    assert model.log.read(2, 2, PLENTY, weight) == ([], 2)


def test_a_cursor_within_a_run_is_given_the_rest_of_it_with_its_own_numbers() -> None:
    model = Model()
    model.append(said("m1", "m2", "m3"))
    (rest,), end = model.log.read(1, 3, PLENTY, weight)
    assert isinstance(rest, Said)
    assert list(rest.events()) == [Message(2, 1001, "Mina", "m2"), Message(3, 1002, "Mina", "m3")]
    assert (rest.position, rest.end, end) == (1, 3, 3)
    assert rest.block == b"m2\nm3\n"


def test_what_is_deleted_is_not_counted_among_what_is_shown() -> None:
    log = Log(1 << 20, 1000)
    for seq in range(1, 6):
        said = Said(1, "Mina", b"text\n", 1)
        said.seq = seq
        log.append(said)
    for target in (3, 4, 5):
        entry = log.entry_of(target)
        assert isinstance(entry, Said)
        entry.erase(target)
    for seq, target in ((6, 3), (7, 4), (8, 5)):
        deletion = Deletion("moderator", target)
        deletion.seq = seq
        log.append(deletion)
    assert log.back(2, shown=True) == 0  # the two that still have a text
    assert log.back(1, shown=True) == 1
    assert log.back(2) == 6  # who counts numbers gets the last two of them
