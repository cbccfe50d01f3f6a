"""The poller's rounds: who is served in which order."""

from __future__ import annotations

import selectors
from collections.abc import Iterator

import pytest

from chatapi.server.poller import Poller
from chatapi.testing import ChatKit


class Pollable:
    """Somebody with something to read, in every round."""

    def __init__(self, *, is_new: bool, comes_in: bool = True) -> None:
        self.is_new = is_new
        self.comes_in = comes_in
        self.served = 0

    def readable(self, now: float) -> None:
        self.served += 1
        if self.comes_in:
            self.is_new = False

    def writable(self, now: float) -> None:
        raise AssertionError

    def crashed(self) -> None:
        raise AssertionError


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller(ChatKit().hub)
    yield poller
    poller.close()


def test_members_do_not_wait_for_thousands_of_newcomers(poller: Poller, monkeypatch: pytest.MonkeyPatch) -> None:
    newcomers = [Pollable(is_new=True) for _ in range(1000)]
    member = Pollable(is_new=False)
    ready = [(selectors.SelectorKey(0, 0, 1, owner), selectors.EVENT_READ) for owner in [*newcomers, member]]
    monkeypatch.setattr(poller.selector, "select", lambda timeout: ready)
    rounds = 0
    while not all(newcomer.served for newcomer in newcomers):
        list(poller._round())
        rounds += 1
        assert member.served == rounds, "a member waits for newcomers"
    assert rounds > 2, "all newcomers came in by one round"


def test_who_dribbles_its_handshake_keeps_nobody_out(poller: Poller, monkeypatch: pytest.MonkeyPatch) -> None:
    dribbling = [Pollable(is_new=True, comes_in=False) for _ in range(1000)]
    newcomer = Pollable(is_new=True)
    ready = [(selectors.SelectorKey(0, 0, 1, owner), selectors.EVENT_READ) for owner in [*dribbling, newcomer]]
    monkeypatch.setattr(poller.selector, "select", lambda timeout: ready)
    for _ in range(5):
        list(poller._round())
    assert newcomer.served
