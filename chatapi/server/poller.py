"""The poller: the only place that waits on sockets, and the rounds in which it handles them.

A round reads what is readable, runs the fan-out over the rooms that got something, and sends what became possible.
The selector's own descriptor can be waited on, so one waiting task serves every connection, on asyncio, uvloop and
trio alike (`readiness`).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Final

import anyio
import anyio.lowlevel

from ..core.hub import Hub
from ..limits import TICK
from .readiness import Readiness, readiness
from .selector import READ, WRITE, Pollable, Selector, new_selector

_TURN: Final = 0.001
"""Seconds after which the rest of the program gets a turn."""
_NEWCOMERS: Final = 256
"""Connections on their way in that one round serves: each costs as much as twenty sends, and members must not wait for
thousands."""
_STOOD_STILL: Final = 1.0
"""Seconds without a round, though there are deadlines, after which the server stood still: the process was stopped,
or the program kept the event loop busy. The server has not read what members sent in that time, so that time counts for
no deadline."""
_SLICE: Final = 16
"""Sockets read before the listeners are tried, and before a fan-out if much was said."""


class Poller:
    """Runs a hub's rounds. `run` it in one task; everything else here belongs on the same event loop."""

    def __init__(self, hub: Hub, *, threaded: bool = False) -> None:
        self._hub = hub
        self.selector: Selector = new_selector()
        self._threaded = threaded
        self._wake_up_receiver, self._wake_up_sender = socket.socketpair()
        self._wake_up_receiver.setblocking(False)
        self._wake_up_sender.setblocking(False)
        self.selector.register(self._wake_up_receiver, READ, None)
        self.eager: list[Pollable] = []
        """Listeners: tried between slices too, because the system's queue of connections is short (4,096 on Linux), and
        a client that finds it full tries again a second later."""
        self._ended = False
        self._unfinished: Iterator[None] | None = None  # a round whose turn was over
        self._ready: Readiness | None = None
        self._first_newcomer = 0
        self._deadlines = anyio.Event()
        self._ticks = False  # whether there are deadlines, so that `_deadlines` is set
        self._looked: float | None = None  # when the last round ended, if it left deadlines behind
        self._until: list[tuple[Callable[[], bool], anyio.Event]] = []
        hub.wake, hub.ring, hub.awake = self.wake, self.ring, True

    def wake(self) -> None:
        """Begin a round, if none is under way."""
        if not self._hub.awake:
            self._hub.awake = True
            if self._ready is not None and self._ready.poke():
                return
            self.ring()

    def ring(self) -> None:
        """Begin a round; from any thread."""
        with contextlib.suppress(OSError):
            self._wake_up_sender.send(b"\0")

    async def run(self) -> None:
        """Run rounds until cancelled."""
        self._unfinished = None
        self._ready = ready = readiness(self.selector, self._take_turn, self.ring, threaded=self._threaded)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._tick)
                while True:
                    while not self._take_turn():
                        await anyio.lowlevel.checkpoint()
                    await ready.wait()
        finally:
            self._ready = None
            ready.close()
            self._give_up()

    def _take_turn(self) -> bool:
        """Work for a turn; return whether nothing is left to be done."""
        hub = self._hub
        hub.awake = True
        monotonic = hub.clock.monotonic
        since = monotonic()
        work, self._unfinished = self._unfinished or self._round(), None
        for _ in work:
            if monotonic() - since >= _TURN:
                self._unfinished = work
                return False
        hub.awake = hub.busy
        return not hub.awake

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds at the end of a round, or no round comes any more."""
        if self._ended:
            return
        event = anyio.Event()
        self._until.append((condition, event))
        self.wake()
        await event.wait()

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[anyio.CancelScope]:
        """Cancel the block after so many seconds; those in which the server stood still do not count."""
        timers, scope = self._hub.timers, anyio.CancelScope()
        timers.set(scope, self._hub.clock.monotonic() + seconds, lambda now: scope.cancel())
        self.wake()
        try:
            with scope:
                yield scope
        finally:
            timers.clear(scope)

    def close(self) -> None:
        """Close its sockets and its selector."""
        self._hub.unattended()
        self._give_up()
        self.selector.close()
        self._wake_up_receiver.close()
        self._wake_up_sender.close()

    def _give_up(self) -> None:
        """Let everything go on that waits for a round: none comes any more."""
        self._ended = True
        for _, event in self._until:
            event.set()

    def _round(self) -> Iterator[None]:
        """Do everything that can be done now; yield wherever others may have a turn."""
        hub = self._hub
        now = hub.clock.monotonic()
        late = 0 if self._looked is None else now - self._looked - TICK
        if late > _STOOD_STILL:
            hub.timers.postpone(late)
            yield from self._serve_sockets(now)  # accepts clients, which the next line reads from
        yield from self._serve_sockets(now)
        yield from hub.settle()
        self._looked = None
        if hub.timers.run(now):  # last: what has come in time is read before
            self._looked = hub.clock.monotonic()  # a round that takes long is no standstill
            if not self._ticks:
                self._ticks = True
                self._deadlines.set()
        if self._until:
            for waiting in [waiting for waiting in self._until if waiting[0]()]:
                self._until.remove(waiting)
                waiting[1].set()

    def _serve_sockets(self, now: float) -> Iterator[None]:
        """Read and write whatever can be read and written now: members first."""
        newcomers: list[tuple[Pollable, int]] = []
        done = 0
        for owner, mask in self.selector.select(0):
            if owner is None:
                with contextlib.suppress(BlockingIOError):
                    self._wake_up_receiver.recv(64)
            elif owner.is_new:
                newcomers.append((owner, mask))
            else:
                self._serve(owner, mask, now)
                yield
                done += 1
                if done % _SLICE == 0:
                    yield from self._between_slices(now)
        if newcomers:
            for owner, mask in self._some_of(newcomers):
                self._serve(owner, mask, now)
                yield
                done += 1
                if done % _SLICE == 0:
                    yield from self._between_slices(now)

    def _some_of(self, newcomers: list[tuple[Pollable, int]]) -> list[tuple[Pollable, int]]:
        """Return those that this round serves, others in each round: none can keep the rest out."""
        if len(newcomers) <= _NEWCOMERS:
            return newcomers
        self._first_newcomer = at = (self._first_newcomer + _NEWCOMERS) % len(newcomers)
        return [*newcomers[at:], *newcomers[:at]][:_NEWCOMERS]

    def _serve(self, owner: Pollable, mask: int, now: float) -> None:
        try:
            if mask & READ:
                owner.readable(now)
            if mask & WRITE:
                owner.writable(now)
        except Exception:
            owner.crashed()

    def _between_slices(self, now: float) -> Iterator[None]:
        """Accept connections, and send what was said if that is much."""
        for listener in self.eager:
            listener.readable(now)
        if self._hub.crowded:
            yield from self._hub.settle()

    async def _tick(self) -> None:
        """Begin a round for the deadlines, every `TICK` seconds while there are any."""
        while True:
            await self._deadlines.wait()
            await anyio.sleep(TICK)
            self._deadlines = anyio.Event()
            self._ticks = False
            self.wake()
