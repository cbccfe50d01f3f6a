"""The client library for programs without an event loop: the same connection, with calls that block.

::

    with chatapi.connect_sync("localhost:8989", name="ci", room="dev") as room:
        room.send("deployed")
        for event in room:
            print(event)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Required, TypedDict, TypeVar, Unpack

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from .addresses import Address
from .connection import Connection, connect
from .events import History, Message
from .news import News, State, Welcome

_T = TypeVar("_T")


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


@contextmanager
def connect_sync(
    address: str | Address, *, backend: Literal["asyncio", "trio"] = "asyncio", **arguments: Unpack[ConnectArguments]
) -> Iterator[BlockingConnection]:
    """Be a member of a room for the length of a ``with``; it yields a `BlockingConnection`.

    Takes what `chatapi.connect` takes, and raises what that raises. The connection lives in an event loop of its own
    (`backend`), in a thread of its own, that both end with the context; an interrupt (Ctrl-C) says goodbye too.
    """
    with (
        start_blocking_portal(backend) as portal,
        portal.wrap_async_context_manager(connect(address, **arguments)) as room,
    ):
        yield BlockingConnection(room, portal)


class BlockingConnection:
    """A member of a room, elsewhere, whose calls block; `connect_sync` makes it.

    Its calls do, and raise, what those of `Connection` do. It is thread-safe: any thread may make any call at any time
    within the context, also while another iterates. A call that is interrupted (Ctrl-C) is cancelled.
    """

    def __init__(self, room: Connection, portal: BlockingPortal) -> None:
        self._room = room
        self._portal = portal

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
        """Leave; the iteration ends once all that had come is read."""
        self._call(self._room.close)

    def receive(self, timeout: float | None = None) -> News:
        """The next event. Raises `TimeoutError` where none comes in so many seconds, and `EOFError` at the end."""

        async def receive() -> News:
            with anyio.fail_after(timeout):
                return await anext(self._room)

        try:
            return self._call(receive)
        except StopAsyncIteration:
            raise EOFError("the connection was closed") from None

    def __iter__(self) -> BlockingConnection:
        return self

    def __next__(self) -> News:
        try:
            return self.receive()
        except EOFError:
            raise StopIteration from None

    def _call(self, function: Callable[[], Awaitable[_T]]) -> _T:
        future = self._portal.start_task_soon(function)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # where it was this thread that was interrupted; otherwise it is done
            raise
