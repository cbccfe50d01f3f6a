"""The client library for programs without an event loop: the same connection, with calls that block.

::

    with chatapi.connect_sync("localhost:8989", name="ci", room="dev") as room:
        room.send("deployed")
        for event in room:
            print(event)

It also works without a ``with``: then `BlockingConnection.close` says goodbye. A program that forgets that ends all the
same, since the thread of a connection is a daemon. The library waits a second at most at the program's end, so that
every connection can say goodbye.
"""

from __future__ import annotations

import atexit
import socket
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import Context
from time import monotonic
from types import TracebackType
from typing import Final, Literal, Required, TypeAlias, TypedDict, TypeVar, Unpack

import anyio
from anyio.from_thread import BlockingPortal

from ..addresses import Address
from ..events import History, Message
from .connection import Connection, connect
from .events import News, State, Welcome

_T = TypeVar("_T")

GOODBYE: Final = 1.0
"""Seconds that all connections together have at the program's end to say goodbye."""

_Backend: TypeAlias = Literal["asyncio", "trio"]


class ConnectArguments(TypedDict, total=False):
    """What `connect_sync` takes by name: the arguments of `chatapi.connect`, which says what they mean."""

    name: Required[str]
    room: Required[str]
    echo: bool
    history: int
    token: str | None
    events: bool
    reconnect: bool
    connect_timeout: float
    close_timeout: float
    ping_after: float
    ping_timeout: float
    backoff: float
    backoff_cap: float
    max_events: int
    max_in_flight: int


def connect_sync(
    address: str | Address, *, backend: _Backend = "asyncio", **arguments: Unpack[ConnectArguments]
) -> BlockingConnection:
    """Connect to a room, and return once one is in it.

    Takes what `chatapi.connect` takes, and raises what that raises. The connection lives in an event loop of its own
    (`backend`), in a thread of its own. Both end with `BlockingConnection.close`, with the ``with`` block where it is
    used in one (an interrupt by Ctrl-C says goodbye too), and where the connection is not referred to any more.
    """
    return BlockingConnection(_Loop(connect(address, **arguments), backend))


class _Loop:
    """An event loop in a daemon thread, with one connection in it, until `leave`."""

    def __init__(self, connecting: AbstractAsyncContextManager[Connection], backend: _Backend) -> None:
        self.opened: Future[tuple[Connection, BlockingPortal]] = Future()
        """The connection, and the way into its event loop; or why there is none."""
        self._connecting = connecting
        self._backend = backend
        self._button, self._bell = socket.socketpair()
        for end in (self._button, self._bell):
            end.setblocking(False)
        self._thread = threading.Thread(target=Context().run, args=(self._run,), name="chatapi", daemon=True)
        _OPEN.add(self)
        self._thread.start()

    def leave(self) -> None:
        """Have it say goodbye and end, without waiting for that; no error where it has ended. Takes no lock."""
        if self._thread.is_alive():  # it is not in a process that was forked, whose sockets are the parent's
            with suppress(OSError):
                self._button.send(b"\0")

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has ended; returns whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            anyio.run(self._live, backend=self._backend)
        except BaseException as error:  # at the program's end the loop may not be able to end in good order
            if not self.opened.done():
                self.opened.set_exception(error)
        finally:
            _OPEN.discard(self)
            self._bell.close()
            self._button.close()

    async def _live(self) -> None:
        leave = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def wait_for_the_bell() -> None:
                await anyio.wait_readable(self._bell)
                if self.opened.done():
                    leave.set()
                else:
                    tasks.cancel_scope.cancel()

            tasks.start_soon(wait_for_the_bell)
            async with BlockingPortal() as portal:  # its end waits for the calls that are under way
                try:
                    async with self._connecting as room:
                        self.opened.set_result((room, portal))
                        await leave.wait()
                except Exception as error:  # a task group would wrap it
                    if not self.opened.done():
                        self.opened.set_exception(error)
            tasks.cancel_scope.cancel()


_OPEN: Final[set[_Loop]] = set()
"""The event loops that have not ended."""


@atexit.register
def _say_goodbye() -> None:
    loops = list(_OPEN)
    for loop in loops:
        loop.leave()
    end = monotonic() + GOODBYE
    for loop in loops:
        loop.join(max(0.0, end - monotonic()))


class BlockingConnection:
    """A member of a room, elsewhere, whose calls block; `connect_sync` makes it.

    Its calls do, and raise, what those of `Connection` do. It is thread-safe: any thread may make any call at any time,
    also while another iterates. A call that is interrupted (Ctrl-C) is cancelled. After `close`, which the end of a
    ``with`` block calls, every call raises `Disconnected`, but events that have come before can still be read.
    """

    def __init__(self, loop: _Loop) -> None:
        self._loop = loop
        self._lock = threading.Lock()  # the loop must not end while a call is on its way into it
        self._closed = False
        try:
            self._room, self._portal = loop.opened.result()
        except BaseException:  # also where it was this thread that was interrupted
            loop.leave()
            raise
        weakref.finalize(self, loop.leave).atexit = False  # `_say_goodbye` waits for it too

    def __enter__(self) -> BlockingConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<BlockingConnection {self.name!r} in {self.room!r}, {self.state}>"

    @property
    def name(self) -> str:
        """Its name, as the server last said."""
        return self._room.name

    @property
    def room(self) -> str:
        """The name of the room it is in."""
        return self._room.room

    @property
    def state(self) -> State:
        """Whether it is connected."""
        return self._room.state

    def send(self, text: str) -> Message:
        """Say something to the room; returns the message once it is kept."""
        return self._call(lambda: self._room.send(text))

    def whisper(self, to: str, text: str) -> None:
        """Say something to one member alone."""
        self._call(lambda: self._room.whisper(to, text))

    def rename(self, to: str) -> None:
        """Take another name."""
        self._call(lambda: self._room.rename(to))

    def join(self, room: str) -> Welcome:
        """Leave this room for another."""
        return self._call(lambda: self._room.join(room))

    def members(self) -> list[str]:
        """The names of all who are in the room, sorted."""
        return self._call(self._room.members)

    def rooms(self) -> dict[str, int]:
        """The rooms that are open, sorted, and how many are in each."""
        return self._call(self._room.rooms)

    def history(self, *, before: int | None = None, limit: int = 100) -> History:
        """At most `limit` messages (1 to 100) before the one with the number `before`, or the room's last ones.

        A server bounds the bytes of an answer too: there may be fewer messages, and `more` before them.
        """
        return self._call(lambda: self._room.history(before=before, limit=limit))

    def ping(self) -> float:
        """Seconds until the server has answered."""
        return self._call(self._room.ping)

    def close(self) -> None:
        """Leave; the iteration ends once all that had come is read. No error where it is closed already."""
        with self._lock:
            self._closed = True
        self._loop.leave()
        self._loop.join()

    def receive(self, timeout: float | None = None) -> News:
        """The next event. Raises `TimeoutError` where none comes in so many seconds, and `EOFError` at the end."""

        async def receive() -> News:
            with anyio.fail_after(timeout):
                return await anext(self._room)

        try:
            future = self._start(receive)
            return self._receive_rest(timeout) if future is None else _result(future)
        except StopAsyncIteration:
            raise EOFError("the connection was closed") from None

    def _receive_rest(self, timeout: float | None) -> News:
        """The next event of those that had come before the connection was closed."""
        inbox = self._room._readable()
        if self._loop.join(timeout):
            with self._lock:
                if (news := inbox.take_now()) is not None:
                    return news
        raise TimeoutError("the connection is being closed")

    def __iter__(self) -> BlockingConnection:
        return self

    def __next__(self) -> News:
        try:
            return self.receive()
        except EOFError:
            raise StopIteration from None

    def _call(self, function: Callable[[], Awaitable[_T]]) -> _T:
        if (future := self._start(function)) is None:
            raise self._room._over()
        return _result(future)

    def _start(self, function: Callable[[], Awaitable[_T]]) -> Future[_T] | None:
        """Call this in the event loop; None after `close`, and once the program's end has stopped the loop."""
        with self._lock:
            if self._closed:
                return None
            with suppress(RuntimeError):  # the loop has ended
                return self._portal.start_task_soon(function)
            return None


def _result(future: Future[_T]) -> _T:
    try:
        return future.result()
    except BaseException:
        future.cancel()  # where it was this thread that was interrupted; otherwise it is done
        raise
