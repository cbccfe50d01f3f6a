"""The client library for programs without an event loop: the same connection, with calls that block.

::

    with chatapi.connect_sync("localhost:8989", name="ci", room="dev") as room:
        room.send("deployed")
        for event in room:
            print(event)

It also works without a ``with`` block: then `BlockingConnection.close` says goodbye. A program that does not call it
ends anyway, because the thread of a connection is a daemon. At the program's end the library waits for at most a
second, so that each connection can say goodbye.
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

GOODBYE_SECONDS: Final = 1.0
"""Seconds for all connections together to say goodbye at the program's end."""

_Backend: TypeAlias = Literal["asyncio", "trio"]


class ConnectArguments(TypedDict, total=False):
    """The keyword arguments of `connect_sync`: those of `chatapi.connect`, which explains them."""

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
    """Connect to a room, and return when this member is in it.

    Takes the arguments of `chatapi.connect`, and raises the same errors. The connection has its own event loop
    (`backend`), in its own thread. Both end with `BlockingConnection.close`, with the ``with`` block if there is one
    (Ctrl-C says goodbye too), and when no reference to the connection is left.
    """
    return BlockingConnection(_LoopThread(connect(address, **arguments), backend))


class _LoopThread:
    """An event loop in a daemon thread, with one connection, until `request_end`."""

    def __init__(self, connecting: AbstractAsyncContextManager[Connection], backend: _Backend) -> None:
        self.opened: Future[tuple[Connection, BlockingPortal]] = Future()
        """The connection and the portal into its event loop, or the error in their place."""
        self._connecting = connecting
        self._backend = backend
        self._wake_receiver, self._wake_sender = socket.socketpair()
        for end in (self._wake_receiver, self._wake_sender):
            end.setblocking(False)
        self._thread = threading.Thread(target=Context().run, args=(self._run,), name="chatapi", daemon=True)
        _OPEN_LOOPS.add(self)
        self._thread.start()

    def request_end(self) -> None:
        """Have the connection say goodbye and end, without waiting. Does nothing if it has ended. Takes no lock."""
        if self._thread.is_alive():  # false in a forked process, which shares the parent's sockets
            with suppress(OSError):
                self._wake_sender.send(b"\0")

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the thread has ended; return whether it has."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            anyio.run(self._use_connection, backend=self._backend)
        except BaseException as error:  # at the program's end even the event loop may fail
            if not self.opened.done():
                self.opened.set_exception(error)
        finally:
            _OPEN_LOOPS.discard(self)
            self._wake_receiver.close()
            self._wake_sender.close()

    async def _use_connection(self) -> None:
        end = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def wait_for_wake_up() -> None:
                await anyio.wait_readable(self._wake_receiver)
                if self.opened.done():
                    end.set()
                else:
                    tasks.cancel_scope.cancel()

            tasks.start_soon(wait_for_wake_up)
            async with BlockingPortal() as portal:  # at its end it waits for running calls
                try:
                    async with self._connecting as room:
                        self.opened.set_result((room, portal))
                        await end.wait()
                except Exception as error:  # handled here, because the task group would wrap it
                    if not self.opened.done():
                        self.opened.set_exception(error)
            tasks.cancel_scope.cancel()


_OPEN_LOOPS: Final[set[_LoopThread]] = set()
"""The threads whose event loops have not ended."""


@atexit.register
def _close_at_exit() -> None:
    loops = list(_OPEN_LOOPS)
    for loop in loops:
        loop.request_end()
    end = monotonic() + GOODBYE_SECONDS
    for loop in loops:
        loop.join(max(0.0, end - monotonic()))


class BlockingConnection:
    """A member of a room on a server, with calls that block; `connect_sync` makes it.

    The calls do and raise the same as those of `Connection`. The class is thread-safe: any thread may make any call at
    any time, also while another one iterates. An interrupted call (Ctrl-C) is cancelled. After `close`, which the end
    of a ``with`` block calls, each call raises `Disconnected`; events that came before can still be read.
    """

    def __init__(self, loop: _LoopThread) -> None:
        self._loop = loop
        self._lock = threading.Lock()  # the loop must not end while a call is being started in it
        self._closed = False
        try:
            self._room, self._portal = loop.opened.result()
        except BaseException:  # also if this thread is interrupted
            loop.request_end()
            raise
        weakref.finalize(self, loop.request_end).atexit = False  # `_close_at_exit` calls it and waits

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
        """The member's name, as the server last sent it."""
        return self._room.name

    @property
    def room(self) -> str:
        """The name of its room."""
        return self._room.room

    @property
    def state(self) -> State:
        """The stage of the connection."""
        return self._room.state

    def send(self, text: str) -> Message:
        """Send a message to the room; return it once it is kept."""
        return self._call(lambda: self._room.send(text))

    def whisper(self, to: str, text: str) -> None:
        """Send a text to one member only."""
        self._call(lambda: self._room.whisper(to, text))

    def rename(self, to: str) -> None:
        """Take another name."""
        self._call(lambda: self._room.rename(to))

    def join(self, room: str) -> Welcome:
        """Move to another room."""
        return self._call(lambda: self._room.join(room))

    def members(self) -> list[str]:
        """Return the names of all members of the room, sorted."""
        return self._call(self._room.members)

    def rooms(self) -> dict[str, int]:
        """Return the rooms with members, sorted, and the number of members of each."""
        return self._call(self._room.rooms)

    def history(self, *, before: int | None = None, limit: int = 100) -> History:
        """Return at most `limit` messages (1 to 100) before the one with the number `before`, or the room's last ones.

        A server also limits the bytes of an answer, so there may be fewer messages; then `more` is True.
        """
        return self._call(lambda: self._room.history(before=before, limit=limit))

    def ping(self) -> float:
        """Return the seconds until the server has answered."""
        return self._call(self._room.ping)

    def close(self) -> None:
        """Leave; the iteration ends when all earlier events are read. Does nothing if it is closed already."""
        with self._lock:
            self._closed = True
        self._loop.request_end()
        self._loop.join()

    def receive(self, timeout: float | None = None) -> News:
        """Return the next event; raise `TimeoutError` if none comes in `timeout` seconds, `EOFError` at the end."""

        async def receive() -> News:
            with anyio.fail_after(timeout):
                return await anext(self._room)

        try:
            future = self._start(receive)
            return self._receive_rest(timeout) if future is None else _result(future)
        except StopAsyncIteration:
            raise EOFError("the connection was closed") from None

    def _receive_rest(self, timeout: float | None) -> News:
        """Return the next event of those that came before the connection was closed."""
        queue = self._room._readable_queue()
        if self._loop.join(timeout):
            with self._lock:
                if (event := queue.take_now()) is not None:
                    return event
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
            raise self._room._closed_error()
        return _result(future)

    def _start(self, function: Callable[[], Awaitable[_T]]) -> Future[_T] | None:
        """Call a function in the event loop; return None after `close`, or if the program's end stopped the loop."""
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
        future.cancel()  # has an effect only if this thread was interrupted
        raise
