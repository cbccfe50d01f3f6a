"""The client library: connect to a room, read its events with ``async for``, and send with ``await``.

::

    async with chatapi.connect("localhost:8989", name="Mina", room="dev") as room:
        await room.send("hello")
        async for event in room:
            print(event)

The library restores a broken connection without the help of the program. The program then gets the events that it
missed. The library sends messages again that the server has not acknowledged, and the server keeps each of them once,
even if it could not keep messages for a while. The library runs on asyncio and on trio.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel

from ..addresses import Address, parse_address
from ..errors import DISCONNECTS, Disconnected
from ..events import History, Message
from .event_queue import EventQueue
from .events import News, ProtocolError, State, Welcome
from .protocol import ClientProtocol
from .reconnect import Reconnector, Timing
from .requests import MAX_IN_FLIGHT_LIMIT


@asynccontextmanager
async def connect(
    address: str | Address,
    *,
    name: str,
    room: str,
    echo: bool = False,
    history: int = 0,
    token: str | None = None,
    events: bool = True,
    reconnect: bool = True,
    connect_timeout: float = 10,
    close_timeout: float = 5,
    ping_after: float = 20,
    ping_timeout: float = 20,
    backoff: float = 0.1,
    backoff_cap: float = 15,
    max_events: int = 1000,
    max_in_flight: int = 256,
) -> AsyncIterator[Connection]:
    """Be a member of a room for the time of an ``async with``; it yields a `Connection`.

    Args:
        address: ``"localhost:8989"``, or an `Address`; without a host it means this machine.
        name: The name of the member.
        room: The name of the room.
        echo: Whether the events include the member's own messages.
        history: The number of the room's last messages with which the events begin.
        token: Credentials, if the server asks for them.
        events: False for a program that only sends: events are dropped, and nothing can be iterated.
        reconnect: Whether to make a lost connection again; if not, a loss ends everything with `Disconnected`.
        connect_timeout: Seconds for connecting and for the handshake.
        close_timeout: Seconds for which leaving waits for unanswered requests and for the server's end.
        ping_after: Seconds of silence after which the client asks the server for an answer.
        ping_timeout: Further seconds of silence after which the connection counts as lost.
        backoff: Upper bound of the seconds before the first attempt to connect again, or to send again what the server
            could not keep. The seconds are random from 0 to the bound, and the bound doubles with each attempt. If the
            server names a time, that time comes first.
        backoff_cap: The largest value of that bound.
        max_events: The number of events that may wait for the program. Then the client stops reading from the socket
            until the program takes some (and the server disconnects a member that lags too far, as `slow_consumer`).
            While a call waits for an answer, which may come behind these events, the client accepts up to 65,536 more;
            beyond that the call raises `EventsUnread`.
        max_in_flight: The number of requests (1 to 1,024) that may be written and unanswered; further ones wait. The
            client uses a smaller number if the server remembers fewer ids.

    Raises `Refused` (with a `code`, and with `after` if another attempt after so many seconds may succeed),
    `Unreachable`, `ProtocolError`, `Disconnected` if the server says goodbye at once, and `AddressError`. The client
    repairs losses later on; it does not repeat a first attempt that fails.

    Leaving the context waits until everything that was sent is acknowledged, says goodbye, and closes, within
    `close_timeout` seconds. If it is cancelled, it closes at once: then the outcome of unanswered requests is unknown,
    and the server reserves the name for some seconds.
    """
    if max_events < 1 or not 1 <= max_in_flight <= MAX_IN_FLIGHT_LIMIT or history < 0:
        raise ValueError(
            f"max_events must be at least 1, max_in_flight from 1 to {MAX_IN_FLIGHT_LIMIT:,}, and history at least 0"
        )
    where = parse_address(address) if isinstance(address, str) else address
    timing = Timing(
        connect_timeout=connect_timeout,
        close_timeout=close_timeout,
        ping_after=ping_after,
        ping_timeout=ping_timeout,
        backoff=backoff,
        backoff_cap=backoff_cap,
    )
    protocol = ClientProtocol(
        name,
        room,
        prefix=secrets.token_urlsafe(12),
        pause=timing.delay,
        echo=echo,
        history=history,
        token=token,
        max_in_flight=max_in_flight,
    )
    queue = EventQueue(max_events, accepting=events)
    reconnector = Reconnector(protocol, queue, where, reconnect=reconnect, timing=timing)
    failed: BaseException | None = None
    try:
        await reconnector.open()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reconnector.run)
            try:
                yield Connection(protocol, queue, reconnector, events=events)
            except (Exception, KeyboardInterrupt, SystemExit) as error:
                failed = error  # raised below, because the task group would wrap it in an exception group
            await reconnector.close()
    finally:
        await reconnector.abort()
    if failed is not None:
        try:
            raise failed
        finally:
            del failed  # break the reference cycle with its traceback


class Connection:
    """A member of a room on a server; `connect` makes it.

    ``async for event in room`` yields a `Welcome` first, then `Message`, `Joined`, `Left`, `Renamed` and `Whisper` in
    the room's one order, each message once and none missing. If the connection broke and was made again, it yields
    `Lost`, then `Recovered` or `Gap`. Only a `Gap`, and the `Welcome` after a `join`, begin a new count of `seq`. A
    `Notice` tells that the server cannot keep messages for now, or can again. The iteration ends after `close`, and
    raises `Disconnected` if the server has ended the connection for good. Several tasks may iterate; each event goes to
    one of them.

    Several tasks may make calls at the same time; the calls wait while the connection is being made again. Each call
    raises `Disconnected` after the connection has ended for good, and `EventsUnread` if too many events are not read.
    Cancelling a call before its request is written withdraws the request; after that its outcome is unknown, and the
    answer is dropped. This class is not thread-safe; see `chatapi.connect_sync`.
    """

    def __init__(self, protocol: ClientProtocol, queue: EventQueue, reconnector: Reconnector, *, events: bool) -> None:
        self._protocol = protocol
        self._queue = queue
        self._reconnector = reconnector
        self._events = events

    def __repr__(self) -> str:
        return f"<Connection {self.name!r} in {self.room!r}, {self.state}>"

    @property
    def name(self) -> str:
        """The member's name, as the server last sent it; the events that changed it may still wait to be read."""
        return self._protocol.name

    @property
    def room(self) -> str:
        """The name of its room, in the same way."""
        return self._protocol.room

    @property
    def state(self) -> State:
        """The stage of the connection."""
        return self._reconnector.state

    async def send(self, text: str) -> Message:
        """Send a message to the room; return it once it is kept, with its number in the room's order.

        The returned message has the name and the text under which it was kept: the server may have cleaned or changed
        the text. If the message is sent again, and the server no longer holds it, these are the client's own.

        Texts are kept in the order of the calls, each once, also if the connection breaks in between: then the client
        sends the text again under its id, as long as the server is sure to remember that id. The server names that time
        (5 minutes by default). After that, and if the server does not know the session any more (it was restarted
        without a store), it is unknown whether the text was kept: then this raises `Disconnected` with a `sure` of
        False, and the connection goes on.

        A text that the server cannot keep for now (``unavailable``) waits and is sent again, after growing pauses, and
        at once when the server sends that it is available. Texts of later calls, and a `join`, wait behind it. The
        order has one exception: if several texts were in flight when the server began to refuse, those that it kept
        come before those that it refused. A text that waits for five minutes (290 seconds; less if the server remembers
        ids for a shorter time), or until the connection has ended for good, raises `Refused` (``unavailable``).

        Raises `TextTooLong`, `SendRefused` (such as ``empty_text``), `Refused` (a hook's code, or as above),
        `ValueError` for half a surrogate pair, and what each call raises. For cancelling, see the class.
        """
        message: Message = await self._ask("message", text=text)
        return message

    async def whisper(self, to: str, text: str) -> None:
        """Send a text to one member only; return when it is on its way there.

        Raises `NotDelivered` if no member of that name takes it, `Refused` (``unavailable``) at once, and otherwise
        what `send` raises. If the connection breaks in between, the text is sent again, as by `send`.
        """
        await self._ask("whisper", to=to, text=text)

    async def rename(self, to: str) -> None:
        """Take another name.

        Raises `Refused` (``bad_name``, ``name_taken``, ``unavailable``), and what each call raises.
        """
        await self._ask("rename", to=to)

    async def join(self, room: str) -> Welcome:
        """Move to another room, after everything that was sent before is kept or refused.

        Raises `Refused`, in which case the member stays in its room, and what each call raises.
        """
        welcome: Welcome = await self._ask("join", room=room)
        return welcome

    async def members(self) -> list[str]:
        """Return the names of all members of the room, sorted.

        It asks for a hundred at a time, so the result is no snapshot of a large room.
        """
        return [str(name) for name in await self._pages("members")]

    async def rooms(self) -> dict[str, int]:
        """Return the rooms with members, sorted, and the number of members of each; a hundred at a time, as `members`.

        Raises `Refused` (``unavailable``), and what each call raises.
        """
        try:
            return {str(room["name"]): int(room["count"]) for room in await self._pages("rooms")}
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"the server sent a malformed list of rooms: {error!r}") from None

    async def history(self, *, before: int | None = None, limit: int = 100) -> History:
        """Return at most `limit` messages (1 to 100) before the one with the number `before`, or the room's last ones.

        A server also limits the bytes of an answer, so there may be fewer messages; then `more` is True.
        Raises `SendRefused` for a limit out of range, `Refused` (``unavailable``), and what each call raises.
        """
        answer = await self._ask("history", before=before, limit=limit)
        try:
            messages = tuple(Message(m["seq"], m["ts"], m["name"], m["text"]) for m in answer["messages"])
            return History(messages, bool(answer["more"]))
        except (KeyError, TypeError) as error:
            raise ProtocolError(f"the server sent a malformed page of history: {error!r}") from None

    async def ping(self) -> float:
        """Return the seconds until the server has answered."""
        start = anyio.current_time()
        await self._ask("ping")
        return anyio.current_time() - start

    async def close(self) -> None:
        """Leave: wait until everything is answered, say goodbye, and close, within `close_timeout` seconds.

        Events that wait can still be read; later ones are dropped. The end of the context does the same. If this is
        cancelled, the end of the context does the rest.
        """
        await self._reconnector.close()

    def __aiter__(self) -> Connection:
        return self

    async def __anext__(self) -> News:
        """Return the next event. Cancelling it loses no event."""
        return await self._readable_queue().take()

    def _readable_queue(self) -> EventQueue:
        if not self._events:
            raise RuntimeError("this connection has no events, because it was made with events=False")
        return self._queue

    async def _pages(self, kind: str) -> list[Any]:
        found: list[Any] = []
        after: str | None = None
        while True:
            answer = await self._ask(kind, after=after)
            page, after = answer.get(kind), answer.get("next")
            if not isinstance(page, list):
                raise ProtocolError(f"the server sent a malformed list of {kind}")
            found += page
            if not isinstance(after, str) or not page:
                return found

    def _closed_error(self) -> Disconnected:
        """Return the error of calls after the end, and while the connection closes."""
        if self._reconnector.ended is not None:
            return self._reconnector.ended()
        return Disconnected(DISCONNECTS["bye"], "this connection is being closed")

    async def _ask(self, kind: str, **fields: Any) -> Any:
        await anyio.lowlevel.checkpoint_if_cancelled()
        if self._reconnector.ended is not None or self._protocol.leaving:
            raise self._closed_error()
        answered = anyio.Event()
        request = self._protocol.ask(kind, **fields)
        request.on_settled = answered.set
        self._reconnector.wake()
        try:
            await answered.wait()
        except BaseException:  # cancelled
            self._protocol.requests.withdraw(request)
            self._reconnector.wake()
            raise
        if request.error is not None:
            raise request.error
        return request.value
