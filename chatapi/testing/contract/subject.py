"""What the author of a broker gives to the contract suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar, Final
from unittest import SkipTest

from ...core.broker import Broker
from ...limits import Limits
from ..clock import VirtualClock
from .nodes import Nodes, nodes
from .recorder import Recorder

SOON: Final = 0.5
"""Seconds of a `lease` in tests that wait for its end."""


class Subject:
    """The broker that is looked at. A subclass gives `broker`, and what else applies to it."""

    keeps: ClassVar[bool] = False
    """Whether the broker keeps what was said over its own end."""
    own_clock: ClassVar[bool] = False
    """Whether the broker takes its time from elsewhere than the clock that it is given, as from a database server."""
    forgets_after: ClassVar[float] = 0
    """Seconds after which the broker forgets messages; 0 where it is not to be asked to `forget`."""
    lease: float = 10
    """Seconds after which who is on a node that is cut off has left: `broker` is to keep to it, where rooms are shared.
    A test that waits for that makes it shorter."""

    def broker(self, clock: VirtualClock) -> Broker:
        """A new broker which takes its time from `clock`, over this test's own place.

        Where it keeps anything, every call during one test is about the same place, which begins empty: calling this
        again is what a restart of the server is, or where rooms are shared another server beside it.
        """
        raise NotImplementedError("a contract suite needs a broker: override `broker`")

    async def fail(self, broker: Broker) -> None:
        """See that the broker cannot keep anything from now on, as where the disk is full."""
        raise SkipTest("this suite was given no way to have the broker fail")

    async def heal(self, broker: Broker) -> None:
        """End what `fail` began."""

    async def forget(self, broker: Broker) -> None:
        """Have a running broker forget now what is older than `forgets_after`."""

    async def cut_off(self, broker: Broker) -> None:
        """Part a running broker from what it shares with others, as where its machine dies or its network is cut."""
        raise SkipTest("this suite was given no way to cut a node off")

    async def reconnect(self, broker: Broker) -> None:
        """End what `cut_off` began."""

    # What the tests use

    @asynccontextmanager
    async def life(self, clock: VirtualClock | None = None, limits: Limits | None = None) -> AsyncIterator[Recorder]:
        """One life of the broker, from its start to its end, with a recorder in place of a chat."""
        async with Recorder(self.broker(clock or VirtualClock()), limits).running() as rooms:
            yield rooms

    @asynccontextmanager
    async def nodes(self) -> AsyncIterator[Nodes]:
        """Several lives at once, each a node of one chat; skips the test where rooms are not shared."""
        if self.broker(VirtualClock()).presence is None:
            raise SkipTest("this broker has its rooms to itself")
        async with nodes(lambda: self.broker(VirtualClock())) as some:
            yield some

    def needs_keeping(self) -> None:
        """Skip the test where nothing is kept."""
        if not self.keeps:
            raise SkipTest("this broker keeps nothing over its end")

    def needs_turning(self) -> None:
        """Skip the test where no time passes when it is told to."""
        if self.own_clock:
            raise SkipTest("this broker has a clock of its own")

    def needs_rooms_of_its_own(self, rooms: Recorder) -> None:
        """Skip the test where rooms are shared: who comes and goes is not submitted then."""
        if rooms.shares:
            raise SkipTest("this broker is asked who comes and goes: other tests see to that")

    def needs_forgetting(self) -> None:
        """Skip the test where nothing is forgotten."""
        if not self.forgets_after:
            raise SkipTest("this broker was not said to forget anything")


def same(found: object, expected: object, what: str) -> None:
    """Raise `AssertionError` where something is not as it must be."""
    if found != expected:
        raise AssertionError(f"{what}\n  expected {expected!r}\n     found {found!r}")
