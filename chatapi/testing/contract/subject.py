"""The part of the contract suite that the author of a broker fills in."""

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
"""The `lease`, in seconds, of tests that wait for its end."""


class Subject:
    """The broker under test. A subclass implements `broker`, and overrides what else applies to it."""

    keeps: ClassVar[bool] = False
    """Whether the broker keeps messages after its end."""
    own_clock: ClassVar[bool] = False
    """Whether the broker uses another clock than the one given, such as that of a database server."""
    forgets_after: ClassVar[float] = 0
    """Seconds after which the broker forgets messages; 0 if the suite is not to call `forget`."""
    lease: float = 10
    """Seconds after which the members of a node that is cut off leave. If rooms are shared, `broker` must use it.
    Tests that wait for that make it shorter."""

    def broker(self, clock: VirtualClock) -> Broker:
        """Return a new broker with this clock, over this test's own storage.

        If it keeps anything, all calls in one test use the same storage, which is empty at first. A further call
        stands for a restart of the server or, if rooms are shared, for another server.
        """
        raise NotImplementedError("a contract suite needs a broker: override `broker`")

    async def fail(self, broker: Broker) -> None:
        """Make the broker unable to keep anything from now on, as if its disk were full."""
        raise SkipTest("this suite was given no way to have the broker fail")

    async def heal(self, broker: Broker) -> None:
        """End what `fail` began."""

    async def forget(self, broker: Broker) -> None:
        """Have a running broker forget messages older than `forgets_after` now."""

    async def cut_off(self, broker: Broker) -> None:
        """Disconnect a running broker from the storage that it shares, as if its machine died or its network failed."""
        raise SkipTest("this suite was given no way to cut a node off")

    async def reconnect(self, broker: Broker) -> None:
        """End what `cut_off` began."""

    # For the tests

    @asynccontextmanager
    async def life(self, clock: VirtualClock | None = None, limits: Limits | None = None) -> AsyncIterator[Recorder]:
        """Run the broker, from its start to its end, with a recorder in place of a chat."""
        async with Recorder(self.broker(clock or VirtualClock()), limits).running() as rooms:
            yield rooms

    @asynccontextmanager
    async def nodes(self) -> AsyncIterator[Nodes]:
        """Run several brokers at once, each a node of one chat; skip the test if rooms are not shared."""
        if self.broker(VirtualClock()).presence is None:
            raise SkipTest("this broker does not share its rooms")
        async with nodes(lambda: self.broker(VirtualClock())) as some:
            yield some

    def needs_keeping(self) -> None:
        """Skip the test if the broker keeps nothing."""
        if not self.keeps:
            raise SkipTest("this broker keeps nothing after its end")

    def needs_turning(self) -> None:
        """Skip the test if the broker does not use the test's clock."""
        if self.own_clock:
            raise SkipTest("this broker has a clock of its own")

    def needs_rooms_of_its_own(self, rooms: Recorder) -> None:
        """Skip the test if rooms are shared: then joins and leaves are not submitted."""
        if rooms.shares:
            raise SkipTest("this broker is asked about joins and leaves: other tests cover that")

    def needs_forgetting(self) -> None:
        """Skip the test if the broker forgets nothing."""
        if not self.forgets_after:
            raise SkipTest("this broker forgets nothing (`forgets_after` is 0)")


def same(found: object, expected: object, what: str) -> None:
    """Raise `AssertionError` if two values differ; `what` names them."""
    if found != expected:
        raise AssertionError(f"{what}\n  expected {expected!r}\n     found {found!r}")
