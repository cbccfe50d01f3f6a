"""A log whose entries have numbers, against a list: finding a message, pages of the past, and entries held again."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatapi.core.entries import AnyEntry, AnyKept, Arrived, Deletion, KeptEntry, Said
from chatapi.core.log import Log, chunk, newest_of
from chatapi.events import Message
from chatapi.limits import ENTRY_COST

PLENTY = 1 << 30

Steps = list[list[str] | int | None]
a_run = st.lists(st.text("aé", max_size=3), min_size=1, max_size=4)
steps = st.lists(a_run | st.integers(1, 6) | st.none(), max_size=12)
"""Texts of a run, the number of messages back to the one that is deleted, or a join."""


def entries_of(steps: Steps) -> list[AnyEntry]:
    """The entries, numbered from 1 on as a broker does; a deletion does not empty its message here."""
    seq, found = 0, list[AnyEntry]()
    for step in steps:
        entry: AnyEntry
        if step is None:
            entry = Arrived(2, "Zoe")
            entry.seq = seq
        elif isinstance(step, int):
            entry = Deletion("moderator", max(1, seq + 1 - step))
        else:
            entry = Said(1, "Mina", "".join(text + "\n" for text in step).encode(), len(step))
        if isinstance(entry, KeptEntry):
            entry.seq, entry.ts = seq + 1, 1000 * (seq + 1)
            seq += entry.count
        found.append(entry)
    return found


def messages_in(entries: list[AnyEntry]) -> list[Message]:
    return [event for entry in entries for event in entry.events() if isinstance(event, Message)]


def check(log: Log, held: list[AnyEntry]) -> None:
    """Ask the log everything that can be asked about numbers."""
    kept = [entry for entry in held if isinstance(entry, KeptEntry)]
    messages = messages_in(held)
    last = max((entry.seq for entry in held), default=0) + 5
    assert log.held == sum(entry.weight for entry in held)
    assert log.tail == log.head - sum(entry.count for entry in held)
    assert log.newest is (held[-1] if held else None)
    assert log.oldest_seq() == (kept[0].seq if kept else 0)
    position = log.head
    assert log.weight(position) == 0
    for i, entry in reversed([*enumerate(held)]):
        position -= entry.count
        assert (entry.position, log.read(position, position + entry.count, 1, lambda _: 1)[0]) == (position, [entry])
        for within in range(entry.count):
            assert log.weight(position + within) == sum(each.weight for each in held[i:])
    for seq in range(last):
        (entry,) = [entry for entry in kept if entry.seq <= seq < entry.seq + entry.count] or [None]
        assert log.entry_of(seq) is entry
        (message,) = [message for message in messages if message.seq == seq] or [None]
        for ts in (seq * 1000, message.ts if message else 0, message.ts + 1 if message else 1):
            assert log.message(seq, ts) == (message if message and message.ts == ts else None)
        assert [*log.before(seq)] == [entry for entry in reversed(kept) if entry.seq < seq]
        for after in range(seq):
            targets = {each.target for each in kept if isinstance(each, Deletion) and after < each.seq < seq}
            assert all(log.deletes(target, after, seq) == (target in targets) for target in range(last))


@settings(max_examples=60)
@given(steps, st.integers(0, 12 * ENTRY_COST), st.integers(0, 4), steps)
def test_a_log_finds_each_message_that_it_holds_also_those_held_again(
    steps: Steps, to_bytes: int, again: int, later: Steps
) -> None:
    log, held = Log(PLENTY, 1000), entries_of(steps)
    for entry in held:
        log.append(entry)
    log.shrink(to_bytes)
    gone: list[AnyKept] = []
    while len(held) > 1 and sum(entry.weight for entry in held) > to_bytes:
        entry = held.pop(0)
        gone += [entry] if isinstance(entry, KeptEntry) else []
    check(log, held)
    older = gone[-again:] if again else []
    log.prepend(older)
    held = [*older, *held]
    check(log, held)
    for entry in entries_of([*steps, *later])[len(steps) :]:
        held.append(entry)
        log.append(entry)
    check(log, held)


@pytest.mark.parametrize("most", ["bytes", "entries"])
def test_a_log_that_is_full_holds_only_the_newest_of_older_entries(most: str) -> None:
    entries = entries_of([["a"], ["b"], ["c"], ["d"]])
    log = Log(2 * entries[0].weight if most == "bytes" else PLENTY, 2 if most == "entries" else 9)
    log.append(entries[3])
    log.prepend(entries[:3])
    check(log, entries[2:])


def test_a_page_has_the_newest_messages_of_its_range() -> None:
    entries = entries_of([["a", "bb"], 1, ["c"], ["d", "", "eee"], 2])
    kept = [entry for entry in entries if isinstance(entry, KeptEntry)]
    messages = messages_in(entries)
    for first, before, most, max_bytes in product(range(9), range(10), range(6), range(1, 8)):
        page, more = newest_of([each for each in reversed(kept) if each.seq < before], first, before, most, max_bytes)
        there = [message for message in messages if first <= message.seq < before]
        expected: list[Message] = []
        while there and len(expected) < most and sum(len(each.text) for each in expected) < max_bytes:
            expected.insert(0, there.pop())
        assert (page, more) == (expected, bool(there) and most > 0)


def test_messages_that_were_deleted_meanwhile_are_emptied() -> None:
    steps: Steps = [["a", "b"], 1, ["c"], ["d", "e"], 2, 8]
    for since, of_page in product(range(10), range(1, 5)):
        log, entries = Log(PLENTY, 1000), entries_of(steps)
        for entry in entries:
            log.append(entry)
        page = [entry for entry in entries_of(steps[:of_page]) if isinstance(entry, KeptEntry)]
        targets = {entry.target for entry in entries if isinstance(entry, Deletion) and entry.seq > since}
        expected = ["" if each.seq in targets else each.text for each in messages_in([*page])]
        log.erase_in(page, since)
        assert [each.text for each in messages_in([*page])] == expected


def cut(entries: list[Said], most: int) -> list[list[str]]:
    """The texts of the entries in a chunk; each message takes ten bytes."""
    return [each.texts() for each in chunk(entries, most, lambda entry: 10 * entry.count) if isinstance(each, Said)]


def test_a_chunk_cuts_a_run_only_if_it_is_longer_by_more_than_a_quarter() -> None:
    runs = [entry for entry in entries_of([list("abcd"), list("efghi"), ["j"]]) if isinstance(entry, Said)]
    assert cut(runs, 100) == [list("abcd"), list("efghi"), ["j"]]
    assert cut(runs, 99) == [list("abcd"), list("efghi")]
    assert cut(runs, 90) == [list("abcd"), list("efghi")]
    assert cut(runs, 89) == [list("abcd")]
    assert cut(runs[1:], 40) == [list("efghi")]
    assert cut(runs[1:], 39) == [list("efg")]
    assert cut(runs[1:], 30) == [list("efg")]
    assert cut(runs, 20) == [list("ab")]
    assert cut(runs, 1) == [["a"]]
    assert cut([], 1) == []


@given(steps, st.sets(st.integers(1, 12)), st.integers(0, 9))
def test_so_many_messages_follow_a_position_also_if_only_those_with_a_text_count(
    steps: Steps, erased: set[int], n: int
) -> None:
    log, entries = Log(PLENTY, 1000), entries_of([step or ["a"] for step in steps])
    for entry in entries:
        log.append(entry)
        for seq in erased:
            if isinstance(entry, Said) and entry.seq <= seq < entry.seq + entry.count:
                entry.erase(seq)
    assert log.back(n) == max(0, log.head - n)
    at, count = log.head, 0
    for entry in reversed(entries):
        if count >= n:
            break
        if isinstance(entry, Said) and not entry.erased:
            at = entry.position + max(0, entry.count - (n - count))
            count += entry.count
        else:
            at = entry.position
            count += sum(bool(text) for text in entry.texts()) if isinstance(entry, Said) else 0
    assert log.back(n, shown=True) == at


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize("new", [lambda text: Said(1, "Mina", text.encode(), 1), lambda text: Arrived(1, text)])
def test_entries_that_a_log_forgets_take_no_memory(new: Callable[[str], AnyEntry], size: int) -> None:
    log = Log(PLENTY, 4)
    tracemalloc.start()
    for i in range(20_000 if size == 1 else 60):
        log.append(new(f"{i}" + "x" * size))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 100_000
