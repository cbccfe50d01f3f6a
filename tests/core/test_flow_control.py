"""Which members lag, how long a room waits for them, and how much its senders may write before a fan-out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from chatapi.core.entries import Arrived
from chatapi.core.flow_control import FlowControl, SlowPenalties, WaitBudget
from chatapi.core.log import Log
from chatapi.core.origins import Origins
from chatapi.core.timers import Timers
from chatapi.limits import ENTRY_COST, TICK, Limits
from chatapi.testing import VirtualClock

START = 1000.0


@dataclass(eq=False)
class Reader:
    """As much of a member as flow control looks at."""

    oldest: int = 0
    key: str = "mina"
    address: str = "10.9.9.9"
    woken: int = 0

    def wake(self) -> None:
        self.woken += 1


class Watched:
    """A room's flow control, its log, and the members that read."""

    def __init__(self, *, max_bytes: int = 1 << 30, max_entries: int = 64, room_wait: float = 12) -> None:
        self.log = Log(max_bytes, max_entries)
        self.flow = FlowControl(room_wait, self.log)
        self.readers: list[Reader] = []
        self.waited_for = True

    def write(self, entries: int) -> None:
        for _ in range(entries):
            self.log.append(Arrived(1, "Zoe"))

    def look(self, after: float, grace: float = 5) -> list[Reader]:
        readers = cast("list[Any]", self.readers)
        found = self.flow.look(readers, self.log, START + after, grace, lambda member: self.waited_for)
        return cast("list[Reader]", found)


# The budget


def test_half_of_the_wait_may_be_used_at_once_and_comes_back_within_a_minute() -> None:
    budget = WaitBudget()
    assert budget.allows(12)
    budget.count(START, 12, True)
    budget.count(START + 5.8, 12, True)
    assert budget.allows(12), "5.8 seconds are used, and two more ticks make 6"
    budget.count(START + 6.1, 12, True)
    assert not budget.allows(12)
    budget.count(START + 6.3, 12, False)  # 6.25 are used, because some has come back
    budget.count(START + 6.3 + 4.4, 12, False)
    assert not budget.allows(12)
    budget.count(START + 6.3 + 4.6, 12, False)
    assert budget.allows(12)


def test_a_room_that_waited_far_too_long_waits_again_once_a_tenth_of_each_second_made_up_for_it() -> None:
    budget = WaitBudget()
    budget.count(START, 12, True)
    budget.count(START + 100, 12, False)
    budget.count(START + 100 + 940, 12, False)
    assert not budget.allows(12)
    budget.count(START + 100 + 945, 12, False)
    assert budget.allows(12)


def test_a_room_waits_if_its_wait_is_long_enough_for_two_looks() -> None:
    assert WaitBudget().allows(4 * TICK)
    assert not WaitBudget().allows(3.9 * TICK)


@pytest.mark.parametrize("room_wait", [0, 12, 60])
def test_a_room_that_always_waits_if_it_may_uses_its_wait_of_each_minute(room_wait: float) -> None:
    budget, waited, now = WaitBudget(), 0.0, START
    budget.count(now, room_wait, False)
    for _ in range(round(60 / TICK)):
        waits = budget.allows(room_wait)
        budget.count(now, room_wait, waits)
        now += TICK
        waited += waits * TICK
    assert room_wait * 0.9 <= waited <= room_wait


# Penalties


def penalties(**limits: float) -> SlowPenalties:
    found = Limits.model_validate(limits)
    return SlowPenalties(found, Origins(found, VirtualClock(), Timers()))


def test_a_slow_member_is_known_by_its_name_and_address_until_the_penalty_ends() -> None:
    slow = penalties(slow_penalty_seconds=60)
    slow.add(cast("Any", Reader()), START)
    for who, has in (
        (Reader(address="10.1.1.1"), True),
        (Reader(key="zoe"), True),
        (Reader(0, "zoe", "10.1.1.1"), False),
    ):
        assert slow.has(cast("Any", who), START + 59.9) == has
        assert not slow.has(cast("Any", who), START + 60)
    slow.add(cast("Any", Reader(0, "zoe", "127.0.0.1")), START)
    assert len(slow) == 3, "a trusted address is not marked"
    slow.add(cast("Any", Reader(0, "eve", "")), START)
    assert len(slow) == 4


def test_a_penalty_that_begins_again_lasts_longer() -> None:
    slow = penalties(slow_penalty_seconds=60)
    for key, at in (("mina", 0), ("zoe", 1), ("mina", 50), ("eve", 61)):
        slow.add(cast("Any", Reader(0, key, "")), START + at)
    assert len(slow) == 2
    assert slow.has(cast("Any", Reader(0, "mina", "")), START + 100)


def test_penalties_are_bounded_by_two_for_each_connection() -> None:
    slow = penalties(connections=2)
    for i in range(6):
        slow.add(cast("Any", Reader(0, f"m{i}", "")), START)
        assert len(slow) == min(i + 1, 4)
    assert not slow.has(cast("Any", Reader(0, "m1", "")), START)
    assert slow.has(cast("Any", Reader(0, "m2", "")), START)


# Shares


@pytest.mark.parametrize(("max_bytes", "entries"), [(1 << 30, 8), (32 * ENTRY_COST, 4)])
def test_senders_wait_once_an_eighth_of_the_log_was_written(max_bytes: int, entries: int) -> None:
    room = Watched(max_bytes=max_bytes)
    for _ in range(3):
        room.write(entries - 1)
        assert not room.flow.is_share_used_up(room.log)
        room.write(1)
        assert room.flow.is_share_used_up(room.log)
        room.flow.allow_share(room.log)


def test_each_sender_that_waits_is_woken_once() -> None:
    room, sender = Watched(), Reader()
    room.flow.wait(sender)
    room.flow.wait(sender)
    room.flow.resume()
    room.flow.resume()
    assert sender.woken == 1


# Looks


@pytest.mark.parametrize(("max_bytes", "entries"), [(1 << 30, 4), (32 * ENTRY_COST, 2)])
def test_a_look_is_due_once_a_sixteenth_of_the_log_was_written(max_bytes: int, entries: int) -> None:
    room = Watched(max_bytes=max_bytes)
    assert room.flow.is_due(room.log)
    for _ in range(3):
        room.look(0)
        assert not room.flow.is_due(room.log)
        room.write(entries - 1)
        assert not room.flow.is_due(room.log)
        room.write(1)
        assert room.flow.is_due(room.log)


def test_a_room_waits_for_a_member_that_lags_by_more_than_half_until_it_lags_by_a_quarter() -> None:
    room, reader = Watched(), Reader()
    room.readers = [reader]
    room.write(32)
    assert room.look(0) == []
    assert not room.flow.lagging
    room.write(1)
    assert room.look(0) == []
    assert room.flow.lagging
    assert room.flow.patient == {reader}
    reader.oldest = 16
    room.look(1)
    assert room.flow.patient == {reader}
    reader.oldest = 17
    assert room.look(2) == []
    assert not room.flow.lagging
    assert not room.flow.patient


def test_a_member_that_lags_for_the_grace_is_late_also_if_nobody_waits_for_it() -> None:
    for waited_for in (True, False):
        room, reader = Watched(), Reader()
        room.waited_for = waited_for
        room.readers = [reader]
        room.write(33)
        assert room.look(0) == []
        assert bool(room.flow.patient) == waited_for
        assert room.look(4.9) == []
        assert room.look(5) == [reader]


def test_a_member_whose_place_is_forgotten_is_late_at_once() -> None:
    room, reader = Watched(), Reader()
    room.readers = [reader]
    room.write(64)
    assert room.look(0) == []
    room.write(1)
    assert room.look(0) == [reader]


def test_a_room_that_has_used_up_its_wait_is_patient_with_nobody() -> None:
    room, first, second = Watched(room_wait=4), Reader(), Reader()
    room.readers = [first]
    room.write(33)
    room.look(0, grace=60)
    assert room.look(1, grace=60) == []
    assert room.flow.patient == {first}
    room.readers = [first, second]
    assert room.look(2.2, grace=60) == []
    assert not room.flow.patient
    room.look(12, grace=60)
    assert not room.flow.patient, "its turn is over, though the room may wait again"
    third = Reader()
    room.readers = [third]
    room.look(40, grace=60)
    assert room.flow.patient == {third}


@pytest.mark.parametrize("how", ["relieved", "stopped"])
def test_time_in_which_no_member_is_waited_for_is_not_counted(how: str) -> None:
    room, reader = Watched(room_wait=4), Reader()
    room.readers = [reader]
    room.write(33)
    for turn in range(3):
        assert room.look(60 * turn) == []
        assert room.flow.patient == {reader}
        if how == "relieved":
            room.flow.relieve(cast("Any", reader), START + 60 * turn + 1)
        else:
            room.flow.stop_waiting(START + 60 * turn + 1)
        assert not room.flow.patient
        assert not room.flow.lagging
        room.flow.relieve(cast("Any", reader), START + 60 * turn + 50)
