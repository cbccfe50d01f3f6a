"""The selectors under the poller tell the same, whichever of them the system has."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable, Iterator

import pytest

from chatapi.server.selector import READ, WRITE, Selector, _Any, new_selector


class Owner:
    is_new = False

    def readable(self, now: float) -> None:
        """Only its identity counts here."""

    writable = readable

    def crashed(self) -> None:
        raise AssertionError


@pytest.fixture(params=[new_selector, _Any], ids=["cheapest", "any"])
def selector(request: pytest.FixtureRequest) -> Iterator[Selector]:
    make: Callable[[], Selector] = request.param
    selector = make()
    yield selector
    selector.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_socket_is_ready_for_what_is_watched_and_possible(
    selector: Selector, pair: tuple[socket.socket, socket.socket]
) -> None:
    (ours, theirs), owner = pair, Owner()
    selector.register(ours, READ, owner)
    assert selector.select(0) == []
    theirs.send(b"x")
    assert selector.select(0) == [(owner, READ)]
    selector.modify(ours, READ | WRITE, owner)
    assert selector.select(0) == [(owner, READ | WRITE)]
    selector.modify(ours, WRITE, owner)
    assert selector.select(0) == [(owner, WRITE)]
    ours.recv(1)
    selector.modify(ours, READ | WRITE, owner)
    assert selector.select(0) == [(owner, WRITE)]
    selector.unregister(ours)
    assert selector.select(0) == []


@pytest.mark.parametrize("mask", [READ, WRITE, READ | WRITE])
def test_a_connection_that_ends_is_reported_as_the_events_that_are_watched(
    selector: Selector, pair: tuple[socket.socket, socket.socket], mask: int
) -> None:
    (ours, theirs), owner = pair, Owner()
    selector.register(ours, mask, owner)
    theirs.close()
    assert selector.select(0) == [(owner, mask)]


def test_its_descriptor_is_ready_while_a_socket_is(
    selector: Selector, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    selector.register(ours, READ, None)
    if (descriptor := selector.fileno()) is None:
        pytest.skip("the selector of this system has no descriptor")
    with selectors.DefaultSelector() as outer:
        outer.register(descriptor, selectors.EVENT_READ)
        assert not outer.select(0)
        theirs.send(b"x")
        assert outer.select(0)
    assert selector.select(0) == [(None, READ)]
