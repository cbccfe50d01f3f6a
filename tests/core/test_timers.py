"""Deadlines: each is called once, never early, at most a tick late."""

from __future__ import annotations

import tracemalloc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiles import examples

from chatapi.core.timers import Timers
from chatapi.limits import TICK

START = 1_000.0


class Calls(list[tuple[str, float]]):
    """Who was called when."""

    def __init__(self) -> None:
        super().__init__()
        self.timers = Timers()
        self.timers.run(START)

    def expect(self, owner: str, when: float) -> None:
        self.timers.set(owner, when, lambda now: self.append((owner, now)))

    def expire(self, now: float) -> None:
        self.append(("", now))


@pytest.fixture
def calls() -> Calls:
    return Calls()


def test_a_deadline_is_called_once_when_it_has_passed(calls: Calls) -> None:
    calls.expect("a", START + 5.05)
    assert calls.timers
    assert "a" in calls.timers
    calls.timers.run(START + 5.01)
    assert calls == []
    calls.timers.run(START + 5.15)
    calls.timers.run(START + 9)
    assert calls == [("a", START + 5.15)]
    assert not calls.timers
    assert "a" not in calls.timers


@pytest.mark.parametrize("later", [START + 2, START + 0.5])
def test_an_owner_has_one_deadline_the_last_that_was_set(calls: Calls, later: float) -> None:
    calls.expect("a", START + 1)
    calls.expect("a", later)
    calls.timers.run(later - TICK)
    assert calls == []
    calls.timers.run(START + 3)
    assert [owner for owner, _ in calls] == ["a"]


def test_a_deadline_that_was_cleared_is_not_called(calls: Calls) -> None:
    calls.expect("a", START + 1)
    calls.expect("b", START + 1)
    calls.timers.clear("a")
    calls.timers.clear("a")
    calls.timers.clear("never set")
    calls.timers.run(START + 2)
    assert [owner for owner, _ in calls] == ["b"]


@pytest.mark.parametrize("when", [0, START - 1, START, START + TICK / 2])
def test_a_deadline_that_has_already_passed_is_called_at_the_next_tick(calls: Calls, when: float) -> None:
    calls.expect("a", when)
    assert calls == []
    calls.timers.run(START + TICK)
    assert [owner for owner, _ in calls] == ["a"]


@pytest.mark.parametrize("pause", [2, 1_000_000])
def test_earlier_deadlines_are_called_first_however_long_nobody_looked(calls: Calls, pause: float) -> None:
    for owner, after in (("b", 1.0), ("c", 1.5), ("a", 0.5)):
        calls.expect(owner, START + after)
    calls.timers.run(START + pause)
    assert [owner for owner, _ in calls] == ["a", "b", "c"]


def test_an_action_may_clear_and_set_deadlines_also_those_of_its_own_tick(calls: Calls) -> None:
    def action(now: float) -> None:
        calls.timers.clear("b")
        calls.expect("a", now)  # once more, but not within the same look
        calls.expect("c", now + 1)

    calls.timers.set("a", START + 1, action)
    calls.expect("b", START + 1)
    calls.expect("c", START + 1)
    calls.timers.run(START + 1.05)
    assert calls == []
    calls.timers.run(START + 1.2)
    assert [owner for owner, _ in calls] == ["a"]
    calls.timers.run(START + 3)
    assert [owner for owner, _ in calls] == ["a", "c"]


def test_a_deadline_that_an_action_sets_in_the_past_is_called_a_tick_later(calls: Calls) -> None:
    def action(now: float) -> None:
        calls.append(("a", now))
        calls.timers.set("a", START, action)

    calls.timers.set("a", START + 1, action)
    for after in (1.25, 1.25, 1.27, 1.35):
        calls.timers.run(START + after)
    assert [now - START for _, now in calls] == pytest.approx([1.25, 1.35])


def test_deadlines_move_by_the_time_in_which_the_server_stood_still(calls: Calls) -> None:
    calls.expect("a", START + 5)
    calls.timers.postpone(60)
    calls.timers.postpone(3)
    assert calls.timers.when("a") == pytest.approx(START + 68)
    calls.expect("b", START + 69)  # those that are set later do not move
    assert calls.timers.when("b") == pytest.approx(START + 69)
    assert calls.timers.when("c") is None
    for after in (67.8, 68.2, 68.8, 69.2):
        calls.timers.run(START + after)
    assert [(owner, round(now - START, 1)) for owner, now in calls] == [("a", 68.2), ("b", 69.2)]


def test_deadlines_that_were_cleared_take_no_memory(calls: Calls) -> None:
    tracemalloc.start()
    for i in range(2000):
        calls.expect("a", START + i)
    calls.timers.clear("a")
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 20_000


def test_an_error_at_a_deadline_is_logged_and_the_others_are_called(
    calls: Calls, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(now: float) -> None:
        raise ValueError("of an action")

    calls.timers.set("a", START + 1, fail)
    calls.expect("b", START + 1)
    calls.timers.run(START + 2)
    assert [owner for owner, _ in calls] == ["b"]
    assert "of an action" in caplog.text


def test_what_was_called_cleared_or_set_anew_is_not_kept_alive(calls: Calls) -> None:
    called, cleared, anew = (Calls() for _ in range(3))
    gone = [weakref.ref(called), weakref.ref(cleared), weakref.ref(anew)]
    for owner in (called, cleared, anew):
        calls.timers.set(id(owner), START + 1, owner.expire)
    calls.timers.clear(id(cleared))
    calls.timers.set(id(anew), START + 2, print)
    calls.timers.run(START + 1.5)
    del owner, called, cleared, anew
    assert [ref() for ref in gone] == [None] * 3


def moments(least: int) -> st.SearchStrategy[float]:
    """Some ticks from now and between them, or much later."""
    return st.integers(least, 16).map(lambda n: n / 80) | st.floats(0, 4)


@examples(200)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.none() | moments(-8)) | st.tuples(st.just(""), moments(0)),
        max_size=40,
    )
)
def test_no_deadline_is_early_lost_or_more_than_a_tick_late(steps: list[tuple[str, float | None]]) -> None:
    calls, now = Calls(), START
    due: dict[str, float] = {}
    for owner, number in steps:
        if owner and number is None:
            due.pop(owner, None)
            calls.timers.clear(owner)
        elif owner:
            assert number is not None
            due[owner] = max(now, now + number)
            calls.expect(owner, now + number)
        else:
            now += number or 0
            calls.timers.run(now)
            called = [owner for owner, _ in calls]
            assert len(set(called)) == len(called)
            assert set(called) >= {owner for owner, when in due.items() if when <= now - TICK * 1.001}
            for owner in called:
                assert due.pop(owner) <= now
            calls.clear()
        assert all((owner in calls.timers) == (owner in due) for owner in "abcd")
        assert bool(calls.timers) == bool(due)
