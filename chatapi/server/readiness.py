"""Waiting until a selector has something, in the cheapest way that the event loop under it has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.to_thread

from .selector import Selector

if TYPE_CHECKING:
    import asyncio


class Readiness(Protocol):
    """Tells when a selector has something."""

    async def wait(self) -> None:
        """Wait until the selector has something; cancelling that leaves nothing behind."""
        ...

    def poke(self) -> bool:
        """End the waiting, from the event loop's own thread; return False if only the selector can end it."""
        ...

    def close(self) -> None:
        """Stop watching."""
        ...


def readiness(
    selector: Selector, take_turn: Callable[[], bool], interrupt: Callable[[], None], *, threaded: bool = False
) -> Readiness:
    """Return how to wait for this selector on the event loop that runs now.

    `take_turn` does what can be done and returns whether nothing is left: the waiting may go on then. `interrupt` makes
    the selector ready.
    """
    descriptor = None if threaded else selector.fileno()
    if descriptor is None:
        return _InThread(selector, interrupt)
    if anyio.get_cancelled_exc_class().__module__.startswith("asyncio"):
        import asyncio

        with contextlib.suppress(NotImplementedError):  # anyio knows a way around a loop that has no readers
            return _StandingReader(asyncio.get_running_loop(), descriptor, take_turn)
    return _WaitReadable(descriptor)


class _WaitReadable:
    """`anyio.wait_readable` on the selector's own descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def wait(self) -> None:
        await anyio.wait_readable(self._descriptor)

    def poke(self) -> bool:
        return False

    def close(self) -> None:
        pass


class _StandingReader:
    """The same for asyncio and uvloop, which are told once: `wait_readable` tells them anew each time.

    That costs 5 µs on asyncio and 25 on uvloop, as much as five sends. The loop's callback takes the turn, so that
    the waiting task runs only if that was not enough: to run it costs as much again.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int, take_turn: Callable[[], bool]) -> None:
        self._loop = loop
        self._descriptor = descriptor
        self._take_turn = take_turn
        self._waiter: asyncio.Future[None] | None = None
        loop.add_reader(descriptor, self._ready)

    def _ready(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        try:
            done = self._take_turn()
        except Exception as error:
            waiter.set_exception(error)
        else:
            if not done and not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        self._waiter = self._loop.create_future()
        await self._waiter

    def poke(self) -> bool:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        return True

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)


class _InThread:
    """A worker thread that waits in `select`, for selectors without a descriptor (Windows)."""

    def __init__(self, selector: Selector, interrupt: Callable[[], None]) -> None:
        self._selector = selector
        self._interrupt = interrupt

    async def wait(self) -> None:
        try:
            await anyio.to_thread.run_sync(self._selector.select, abandon_on_cancel=True)
        except BaseException:
            self._interrupt()  # the thread must not stay behind
            raise

    def poke(self) -> bool:
        return False

    def close(self) -> None:
        pass
