"""The states of a connection: what each event does in each of them, and what that means for the connection."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatapi.server.states import FIRST, Event, Life, Receiving, Sending, State, after

EVENTS = st.lists(st.sampled_from(Event), max_size=12)


def reached(*events: Event) -> State:
    state = FIRST
    for event in events:
        state = after(state, event)
    return state


def every_state() -> list[State]:
    """Every state that a connection can be in, found by trying every event in each of them."""
    found = [FIRST]
    for state in found:  # it grows meanwhile
        for event in Event:
            try:
                later = after(state, event)
            except KeyError:
                continue
            if later not in found:
                found.append(later)
    return found


STATES = every_state()
LATER = {
    Event.JOIN: {Life.OPENING: Life.JOINED},
    Event.FINISH: {Life.OPENING: Life.FLUSHING, Life.JOINED: Life.FLUSHING, Life.FLUSHING: Life.FLUSHING},
    Event.FLUSHED: {Life.FLUSHING: Life.LINGERING},
    Event.PEER_ENDED: {life: life for life in Life if life < Life.CLOSED},
    Event.SEND_FAILED: {life: life for life in Life if life < Life.CLOSED},
    Event.CLOSE: {life: Life.CLOSED for life in Life if life < Life.CLOSED},
}


def test_each_event_in_each_state_is_in_the_table_or_a_fault() -> None:
    for state, event in product(STATES, Event):
        if (life := LATER[event].get(state.life)) is None:
            with pytest.raises(KeyError):
                after(state, event)
        else:
            assert after(state, event).life is life, (state, event)


def test_an_ordinary_connection_opens_joins_says_goodbye_and_waits_for_the_other_side() -> None:
    state = reached(Event.JOIN, Event.FINISH, Event.FLUSHED)
    assert state == (Life.LINGERING, Receiving.OPEN, Sending.SHUT, True)
    assert not state.is_over
    assert after(state, Event.PEER_ENDED).is_over


def test_a_connection_whose_peer_has_ended_first_is_over_once_everything_was_sent() -> None:
    state = reached(Event.JOIN, Event.PEER_ENDED, Event.FINISH)
    assert not state.is_over
    assert after(state, Event.FLUSHED).is_over


def test_a_broken_connection_does_not_wait_for_the_other_side() -> None:
    assert reached(Event.JOIN, Event.SEND_FAILED, Event.FINISH, Event.FLUSHED).is_over


def test_a_refused_connection_was_never_joined() -> None:
    assert not reached(Event.FINISH, Event.FLUSHED).has_joined
    assert reached(Event.JOIN, Event.FINISH, Event.FLUSHED, Event.CLOSE).has_joined


def test_a_closed_connection_stays_closed() -> None:
    for event in Event:
        with pytest.raises(KeyError):
            after(reached(Event.CLOSE), event)


@given(EVENTS)
def test_no_event_takes_anything_back(events: list[Event]) -> None:
    state = FIRST
    for event in events:
        try:
            later = after(state, event)
        except KeyError:
            continue
        assert later.life >= state.life
        assert later.has_joined >= state.has_joined
        assert state.receiving is Receiving.OPEN or later.receiving is Receiving.ENDED
        assert state.sending is Sending.OPEN or later.sending is not Sending.OPEN
        assert later is after(state, event), "equal states are one object: a connection takes no memory for its own"
        state = later
