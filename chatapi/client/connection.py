"""The client library: `connect` to a room, ``async for`` what happens in it, ``await`` what you say.

::

    async with chatapi.connect("localhost:8989", name="Mina", room="dev") as room:
        await room.send("hello")
        async for event in room:
            print(event)

A connection that breaks is made again without a word from the program: what was missed follows, what was sent and not
acknowledged is sent again, once; so is what the server could not keep for a while. It runs on asyncio and on trio.
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
from .event_queue import Inbox
from .events import News, ProtocolError, State, Welcome
from .protocol import Dialogue
from .reconnect import Lifeline, Pace
from .requests import MOST_IN_FLIGHT


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
    """Be a member of a room for the length of an ``async with``; it yields a `Connection`.

    - `address`: ``"localhost:8989"``, or an `Address`; without a host it is this machine.
    - `name`, `room`: who is speaking and where. `token`: credentials, where the server asks for them.
    - `echo`: whether one's own messages are among the events.
    - `history`: how many of the room's last messages to begin with.
    - `events`: False for a program that only sends: what comes is dropped, and nothing can be iterated.
    - `reconnect`: whether a lost connection is made again; if not, it ends everything with `Disconnected`.
    - `connect_timeout`: seconds that connecting and the handshake may take.
    - `close_timeout`: seconds that leaving waits for what is unanswered, and for the server's end.
    - `ping_after`, `ping_timeout`: after so many seconds of silence the server is asked for a sign of life; where none
      comes for so many more, the connection counts as lost.
    - `backoff`, `backoff_cap`: seconds before another attempt to connect, or to send what the server could not keep, go
      from 0 to `backoff` by chance, doubled with every attempt up to `backoff_cap`; where a server names a time, that
      comes first.
    - `max_events`: so many events may wait for the program; then the socket is not read until it takes some (and the
      server lets a member that lags too far go, as `slow_consumer`). While somebody waits for an answer, which may
      stand behind them, up to 65,536 more are taken in; beyond that, waiting raises `EventsUnread`.
    - `max_in_flight`: so many requests (1 to 1,024) are written and unanswered at most; further ones wait. There are
      fewer where the server remembers fewer ids.

    Raises `Refused` (with a `code`, and `after` where trying again in so many seconds may help), `Unreachable`,
    `ProtocolError`, `Disconnected` where the server says goodbye at once, and `AddressError`. Only later losses are
    repaired, not a first attempt that fails.

    Leaving the context waits until all that was sent is acknowledged, says goodbye, and closes, for `close_timeout`
    seconds at most. Where it is cancelled it closes at once; what was on its way is then unknown, and the server keeps
    the name for some seconds.
    """
    if max_events < 1 or not 1 <= max_in_flight <= MOST_IN_FLIGHT or history < 0:
        raise ValueError(f"max_events is at least 1, max_in_flight 1 to {MOST_IN_FLIGHT:,}, history at least 0")
    where = parse_address(address) if isinstance(address, str) else address
    pace = Pace(
        connect_timeout=connect_timeout,
        close_timeout=close_timeout,
        ping_after=ping_after,
        ping_timeout=ping_timeout,
        backoff=backoff,
        backoff_cap=backoff_cap,
    )
    dialogue = Dialogue(
        name,
        room,
        prefix=secrets.token_urlsafe(12),
        pause=pace.delay,
        echo=echo,
        history=history,
        token=token,
        most_in_flight=max_in_flight,
    )
    inbox = Inbox(max_events, keep=events)
    lifeline = Lifeline(dialogue, inbox, where, reconnect=reconnect, pace=pace)
    failed: BaseException | None = None
    try:
        await lifeline.open()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lifeline.run)
            try:
                yield Connection(dialogue, inbox, lifeline, events=events)
            except (Exception, KeyboardInterrupt, SystemExit) as error:
                failed = error  # raised below, where no task group wraps it in a group
            await lifeline.close()
    finally:
        await lifeline.drop()
    if failed is not None:
        try:
            raise failed
        finally:
            del failed  # or its traceback would hold it for ever


class Connection:
    """A member of a room, elsewhere; `connect` makes it.

    ``async for event in room`` yields a `Welcome` first, then `Message`, `Joined`, `Left`, `Renamed` and `Whisper` in
    the room's one order, each message once and none missing. Where the connection broke and was made again, it yields
    `Lost`, then `Recovered` or `Gap`. Only a `Gap`, and the `Welcome` after a `join`, begin a new count of `seq`. A
    `Notice` tells that the server cannot keep messages for now, or can again. It ends after `close`, and raises
    `Disconnected` where the server ended it for good. Several tasks may iterate; each event goes to one of them.

    Every call may be made from several tasks at once, and waits while the connection is being made again. All of them
    raise `Disconnected` once it has ended for good, and `EventsUnread` where too many events are not read. Cancelling a
    call before its request was written withdraws it; after that it is unknown whether it took effect, and the answer is
    dropped. It is not thread-safe; see `chatapi.connect_sync`.
    """

    def __init__(self, dialogue: Dialogue, inbox: Inbox, lifeline: Lifeline, *, events: bool) -> None:
        self._dialogue = dialogue
        self._inbox = inbox
        self._lifeline = lifeline
        self._events = events

    def __repr__(self) -> str:
        return f"<Connection {self.name!r} in {self.room!r}, {self.state}>"

    @property
    def name(self) -> str:
        """Its name, as the server last said; the events that led there may still wait to be read."""
        return self._dialogue.name

    @property
    def room(self) -> str:
        """The name of the room it is in, likewise."""
        return self._dialogue.room

    @property
    def state(self) -> State:
        """Whether it is connected."""
        return self._lifeline.state

    async def send(self, text: str) -> Message:
        """Say something to the room; returns the message once it is kept, with its place in the room's order.

        It has the name and the text under which it was kept: the server may have cleaned or changed the text. A server
        that does not hold the message any more when it is sent again does not tell them; then they are one's own.

        Texts are kept in the order of the calls, and each once, also where the connection breaks in between: then the
        text is sent again under its id, as long as the server is sure to remember that. The server says for how long
        that is (5 minutes by default). After that, and where the server does not know the session any more (it was
        restarted without a store), it is unknown whether the text was kept: then this raises `Disconnected`, whose
        `sure` is False, and the connection goes on.

        What the server cannot keep for now (``unavailable``) waits here and is sent again, after growing pauses, and at
        once where the server says that it is back. Texts of later calls, and a `join`, wait behind it. One thing is not
        promised then: of texts that were on their way together when the server began to refuse, those that it took
        come before those that it refused. A text that waits so for five minutes (290 seconds; less where the server
        remembers ids for a shorter time), or until the connection has ended for good, raises `Refused`
        (``unavailable``).

        Raises `TextTooLong`, `SendRefused` (such as ``empty_text``), `Refused` (a hook's code, or as above),
        `ValueError` for half a surrogate pair, and what every call does. Cancelling: see the class.
        """
        message: Message = await self._ask("message", text=text)
        return message

    async def whisper(self, to: str, text: str) -> None:
        """Say something to one member alone; returns once it is on its way there.

        Raises `NotDelivered` where there is nobody of that name who takes it, `Refused` (``unavailable``) at once, and
        otherwise what `send` does. Where the connection breaks in between, it is said again, as `send` does.
        """
        await self._ask("whisper", to=to, text=text)

    async def rename(self, to: str) -> None:
        """Take another name.

        Raises `Refused` (``bad_name``, ``name_taken``, ``unavailable``), and what every call does.
        """
        await self._ask("rename", to=to)

    async def join(self, room: str) -> Welcome:
        """Leave this room for another, once what was sent before has its place or is refused.

        Raises `Refused`, and one stays; and what every call does.
        """
        welcome: Welcome = await self._ask("join", room=room)
        return welcome

    async def members(self) -> list[str]:
        """The names of all who are in the room, sorted; a hundred at a time, so it is no snapshot of a large room."""
        return [str(name) for name in await self._pages("members")]

    async def rooms(self) -> dict[str, int]:
        """The rooms that are open, sorted, and how many are in each; a hundred at a time, as `members`.

        Raises `Refused` (``unavailable``), and what every call does.
        """
        try:
            return {str(room["name"]): int(room["count"]) for room in await self._pages("rooms")}
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"not a list of rooms: {error!r}") from None

    async def history(self, *, before: int | None = None, limit: int = 100) -> History:
        """At most `limit` messages (1 to 100) before the one with the number `before`, or the room's last ones.

        A server bounds the bytes of an answer too: there may be fewer messages, and `more` before them.
        Raises `SendRefused` for a limit out of range, `Refused` (``unavailable``), and what every call does.
        """
        answer = await self._ask("history", before=before, limit=limit)
        try:
            messages = tuple(Message(m["seq"], m["ts"], m["name"], m["text"]) for m in answer["messages"])
            return History(messages, bool(answer["more"]))
        except (KeyError, TypeError) as error:
            raise ProtocolError(f"not a history: {error!r}") from None

    async def ping(self) -> float:
        """Seconds until the server has answered."""
        start = anyio.current_time()
        await self._ask("ping")
        return anyio.current_time() - start

    async def close(self) -> None:
        """Leave: wait until everything is answered, say goodbye, and close, in `close_timeout` seconds at most.

        Events that wait can still be read; later ones are dropped. Leaving the context does the same. Cancelling it
        leaves the rest to the end of the context.
        """
        await self._lifeline.close()

    def __aiter__(self) -> Connection:
        return self

    async def __anext__(self) -> News:
        """The next event. Cancelling it loses none."""
        return await self._readable().take()

    def _readable(self) -> Inbox:
        if not self._events:
            raise RuntimeError("this connection was made with events=False")
        return self._inbox

    async def _pages(self, kind: str) -> list[Any]:
        found: list[Any] = []
        after: str | None = None
        while True:
            answer = await self._ask(kind, after=after)
            page, after = answer.get(kind), answer.get("next")
            if not isinstance(page, list):
                raise ProtocolError(f"not a list of {kind}")
            found += page
            if not isinstance(after, str) or not page:
                return found

    def _over(self) -> Disconnected:
        """Why nothing can be asked any more."""
        if self._lifeline.ended is not None:
            return self._lifeline.ended()
        return Disconnected(DISCONNECTS["bye"], "this connection is being closed")

    async def _ask(self, kind: str, **fields: Any) -> Any:
        await anyio.lowlevel.checkpoint_if_cancelled()
        if self._lifeline.ended is not None or self._dialogue.leaving:
            raise self._over()
        answered = anyio.Event()
        request = self._dialogue.ask(kind, **fields)
        request.settled = answered.set
        self._lifeline.nudge()
        try:
            await answered.wait()
        except BaseException:  # cancelled
            self._dialogue.outbox.withdraw(request)
            self._lifeline.nudge()
            raise
        if request.error is not None:
            raise request.error
        return request.value
