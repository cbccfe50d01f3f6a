"""What the author of a broker gives to the contract suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar
from unittest import SkipTest

from ..broker import Broker
from ..kit import VirtualClock
from ..limits import Limits
from .recorder import Recorder


class Subject:
    """The broker that is looked at. A subclass gives `broker`, and what else applies to it."""

    keeps: ClassVar[bool] = False
    """Whether the broker keeps what was said over its own end."""
    forgets_after: ClassVar[float] = 0
    """Seconds after which the broker forgets messages; 0 where it is not to be asked to `forget`."""

    def broker(self, clock: VirtualClock) -> Broker:
        """A new broker which takes its time from `clock`, over this test's own place.

        Where it keeps anything, every call during one test is about the same place, which begins empty: calling this
        again is what a restart of the server is.
        """
        raise NotImplementedError("a contract suite needs a broker: override `broker`")

    async def fail(self, broker: Broker) -> None:
        """See that the broker cannot keep anything from now on, as where the disk is full."""
        raise SkipTest("this suite was given no way to have the broker fail")

    async def heal(self, broker: Broker) -> None:
        """End what `fail` began."""

    async def forget(self, broker: Broker) -> None:
        """Have a running broker forget now what is older than `forgets_after`."""

    # What the tests use

    @asynccontextmanager
    async def life(self, clock: VirtualClock | None = None, limits: Limits | None = None) -> AsyncIterator[Recorder]:
        """One life of the broker, from its start to its end, with a recorder in place of a chat."""
        async with Recorder(self.broker(clock or VirtualClock()), limits).running() as rooms:
            yield rooms

    def needs_keeping(self) -> None:
        """Skip the test where nothing is kept."""
        if not self.keeps:
            raise SkipTest("this broker keeps nothing over its end")

    def needs_forgetting(self) -> None:
        """Skip the test where nothing is forgotten."""
        if not self.forgets_after:
            raise SkipTest("this broker was not said to forget anything")


def same(found: object, expected: object, what: str) -> None:
    """Raise `AssertionError` where something is not as it must be."""
    if found != expected:
        raise AssertionError(f"{what}\n  expected {expected!r}\n     found {found!r}")
