"""`Bot`: a member that belongs to the program. It reads a room's events and sends messages, without a socket."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel

from .core import views
from .core.entries import KeptEntry, NameChanged, Said
from .errors import Disconnect, Disconnected, Refused
from .events import Event, Message, Whisper
from .limits import CHUNK_BYTES
from .tasks import wait

if TYPE_CHECKING:
    from .core.client import Client
    from .core.hub import Hub

_logger = logging.getLogger("chatapi")

_IN_ORDER: Final = ("bye", "draining")
"""Codes of `DISCONNECTS` with which the iteration ends without an error."""


class Bot:
    """A member of a room that belongs to this program; `ChatAPI.join` makes it.

    ``async for event in bot`` yields `Message`, `Joined`, `Left`, `Renamed` and `Whisper`, in the order of the
    room, and ends when the bot leaves or the chat is drained. The room waits for a bot that reads too slowly, as for
    any member, then disconnects it. Then, and if it is disconnected for another reason, the iteration and every later
    call raise `Disconnected`.
    """

    def __init__(self, enter: Callable[[Bot], Client], hub: Hub, *, reads: bool) -> None:
        self._hub = hub
        self._reads = reads
        self._events: deque[Event] = deque()
        self._news = anyio.Event()
        self._ended: Disconnected | None = None
        self._client = enter(self)
        assert self._client.room is not None
        self._client.room.listen(self._client, reads)

    def __repr__(self) -> str:
        return f"<Bot {self.name!r}>"

    @property
    def name(self) -> str:
        """Its name, as it is shown."""
        return self._client.name

    @property
    def room(self) -> views.Room | None:
        """The room that it is in; None once it has left."""
        return self.client.room

    @property
    def client(self) -> views.Client:
        """The same member, as its room has it in `members`."""
        return views.Client(self._client)

    async def post(self, text: str) -> Message | None:
        """Say one message, of any number of lines, to the room.

        Control characters and empty lines are removed, and an empty text is dropped. First it waits while the
        room waits for a slow member: if that is cancelled, the text is not sent. Then it waits until the text is kept,
        on disk if the chat has a durable broker: if that is cancelled, the text may be kept or not. Returns the
        `Message`, or None for an empty text. Raises `TextTooLong`, `Disconnected`, and `Refused` (``unavailable``) if
        the text could not be kept.
        """
        await anyio.lowlevel.checkpoint()
        while (room := self._client.room) is not None and room.congested:
            go_on = _Signal()
            room.wait(go_on)
            await go_on.event.wait()
        self._check()
        block = self._client.prepare(text)
        if not block:
            return None
        said = Said(self._client.id, self._client.name, block, 1)
        await taken(said, lambda: self._client.submit(said))
        return Message(said.seq, said.ts, said.name, said.texts()[0])

    def post_nowait(self, text: str) -> None:
        """Say one message without waiting for slow members, so these fall behind sooner.

        If the broker cannot keep it, the program's log says so.
        """
        self._check()
        self._client.post(text)

    async def whisper(self, to: str, text: str) -> None:
        """Say something to one member alone. Raises `NotDelivered`, `TextTooLong` and `Disconnected`."""
        await anyio.lowlevel.checkpoint()
        self._check()
        await wait(self._client.ask_whisper(to, text))

    async def rename(self, name: str) -> None:
        """Take another name. Raises `Refused` (``bad_name``, ``name_taken``) and `Disconnected`."""
        await anyio.lowlevel.checkpoint()
        self._check()
        await wait(self._client.ask_rename(name))

    def leave(self) -> None:
        """Leave the room; the iteration ends. Without effect if it has left already."""
        if self._client.room is not None:
            self._client.room.leave(self._client, "bye")
            self._hub.disconnects["bye"] += 1
        self._news.set()

    def __aiter__(self) -> Bot:
        return self

    async def __anext__(self) -> Event:
        """Return the next event. If this is cancelled, the next call returns that event."""
        if not self._reads:
            raise RuntimeError("this bot cannot be iterated, because it was joined with reads=False")
        while not self._events:
            await anyio.lowlevel.checkpoint()
            self._read()
            if self._events:
                break
            if self._ended is not None and self._ended.reason.code not in _IN_ORDER:
                raise self._ended
            if self._client.room is None:
                raise StopAsyncIteration
            await self._news.wait()
            self._news = anyio.Event()
        return self._events.popleft()

    def _read(self) -> None:
        client = self._client
        while not self._events and (part := client.read(CHUNK_BYTES)) is not None:
            if isinstance(part, Whisper):
                self._events.append(part)
            elif not isinstance(part, bytes):
                for entry in part.entries:
                    own = part.live and entry.origin == client.id
                    if isinstance(entry, NameChanged):
                        hidden = entry.quiet and not own
                    else:
                        hidden = own and not (client.echo and isinstance(entry, KeptEntry))
                    if not hidden:
                        self._events.extend(entry.events())
        if client.room is not None and client.caught_up:
            client.room.caught_up(client)

    def _check(self) -> None:
        if self._ended is not None:
            raise self._ended

    # `Outlet`, which its client calls

    @property
    def peer(self) -> None:
        """Return None: fan-out passes do not serve it."""

    def wake(self) -> None:
        """Let the iteration go on: there is something to read."""
        self._news.set()

    def not_kept(self, said: Said, reason: Refused) -> None:
        """Log that messages were not kept, except for those of `post`, which raises that."""
        if said.settled is None:
            _logger.warning("messages of %s were not kept: %s", said.name, reason.detail)

    def notice(self, code: str, detail: str) -> None:
        """Do nothing, because this is in the program's log already."""

    def ended(self, reason: Disconnect, detail: str) -> None:
        """Have the iteration and every later call raise `Disconnected`."""
        self._hub.disconnects[reason.code] += 1
        self._ended = Disconnected(reason, detail)
        self._news.set()


async def taken(entry: KeptEntry, submit: Callable[[], None]) -> None:
    """Submit an entry and wait until it has its place. Raises `Refused` if it gets none."""
    settled = entry.when_settled()
    submit()
    await wait(settled)


class _Signal:
    """A call of `Bot.post` that waits for a room."""

    def __init__(self) -> None:
        self.event: anyio.Event = anyio.Event()

    def wake(self) -> None:
        """Let the call go on."""
        self.event.set()
