"""The part of the contract suite that the author of a broker fills in, and which tests follow from it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import ClassVar, Final, TypeAlias, TypeVar

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
    shares: ClassVar[bool] = False
    """Whether several nodes share the broker's rooms: whether its `presence` is not None."""
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
        raise NotImplementedError("this suite was given no way to have the broker fail")

    async def heal(self, broker: Broker) -> None:
        """End what `fail` began."""

    async def forget(self, broker: Broker) -> None:
        """Have a running broker forget messages older than `forgets_after` now."""

    async def cut_off(self, broker: Broker) -> None:
        """Disconnect a running broker from the storage that it shares, as if its machine died or its network failed."""
        raise NotImplementedError("this suite was given no way to cut a node off")

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
        """Run several brokers at once, each a node of one chat."""
        async with nodes(lambda: self.broker(VirtualClock())) as some:
            yield some


# What a test needs

Claim: TypeAlias = Callable[[type[Subject]], bool]
_Tested = TypeVar("_Tested")


def keeps(suite: type[Subject]) -> bool:
    """Whether the broker keeps messages."""
    return suite.keeps


def forgets(suite: type[Subject]) -> bool:
    """Whether the broker forgets messages."""
    return suite.forgets_after > 0


def shares(suite: type[Subject]) -> bool:
    """Whether several nodes share the rooms."""
    return suite.shares


def alone(suite: type[Subject]) -> bool:
    """Whether joins and leaves are submitted like messages, because no other node has to be asked."""
    return not suite.shares


def uses_given_clock(suite: type[Subject]) -> bool:
    """Whether the broker uses the test's clock."""
    return not suite.own_clock


def can_fail(suite: type[Subject]) -> bool:
    """Whether the suite can have the broker fail."""
    return suite.fail is not Subject.fail


def can_be_cut_off(suite: type[Subject]) -> bool:
    """Whether the suite can cut off a node."""
    return suite.cut_off is not Subject.cut_off


def needs(*claims: Claim) -> Callable[[_Tested], _Tested]:
    """Mark a test, or all tests that a class defines, as tests of brokers for which all these claims are true."""

    def mark(tested: _Tested) -> _Tested:
        members = vars(tested) if isinstance(tested, type) else {"test_": tested}
        for test in [member for name, member in members.items() if name.startswith("test_")]:
            vars(test)["claims"] = (*claims_of(test), *claims)
        return tested

    return mark


def claims_of(test: object) -> tuple[Claim, ...]:
    """Return what `needs` was given for a test."""
    return getattr(test, "claims", ())


def same(found: object, expected: object, what: str) -> None:
    """Raise `AssertionError` if two values differ; `what` names them."""
    if found != expected:
        raise AssertionError(f"{what}\n  expected {expected!r}\n     found {found!r}")
