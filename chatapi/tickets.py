"""Tickets: what lets a JSON member come back. The key it was given, its id, and what it has said under which id."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .clients import Client
from .clock import Clock
from .entries import Said
from .limits import Limits

if TYPE_CHECKING:
    from .rooms import Room
    from .timers import Timers


class Kept(NamedTuple):
    """Where a message stands in its room's log."""

    seq: int
    ts: int


class Ticket:
    """One session: it outlives connections, renames and room changes."""

    __slots__ = ("_last", "_limits", "_on_their_way", "_said", "client", "id", "key")

    def __init__(self, key: str, client: Client, limits: Limits) -> None:
        self.key: str = key
        """Unguessable, and shown to nobody but its holder."""
        self.id: int = client.id
        """The member's id, whenever it comes back: its own messages stay its own."""
        self.client: Client = client
        """Its latest membership; that has a room for as long as it lasts, a while after its connection broke too."""
        self._limits = limits
        self._said: dict[str, tuple[Said | Kept, float]] = {}
        self._on_their_way: list[str] = []  # ids of those that had no seq yet when this was looked at last
        self._last: tuple[Room, Said] | None = None

    def said(self, room: Room, said: Said) -> None:
        """The member said this last: once it has its `seq`, everything before it in this room has."""
        self._last = room, said

    def waits(self, room: Room) -> bool:
        """Whether something that the member said in this room is still on its way through the broker."""
        return self._last is not None and self._last[0] is room and not self._last[1].seq

    def remember(self, id: str, said: Said | Kept, now: float) -> None:  # noqa: A002
        """The member said this under that id."""
        self._said.pop(id, None)  # an older use of it: this is the newest one
        self._said[id] = (said, now)
        if isinstance(said, Said):
            self._on_their_way.append(id)
        self._forget_texts()
        if len(self._said) > self._limits.remember_ids:
            del self._said[next(iter(self._said))]

    def _forget_texts(self) -> None:
        """Keep of what has its place no more than the place."""
        while self._on_their_way:
            known = self._said.get(self._on_their_way[0])
            if known is not None and isinstance(known[0], Said):
                if not known[0].seq:
                    return
                self._said[self._on_their_way[0]] = (Kept(known[0].seq, known[0].ts), known[1])
            del self._on_their_way[0]

    def recall(self, id: str, now: float) -> Said | Kept | None:  # noqa: A002
        """Where that stands which it has said under that id a short while ago; `seq` is 0 while that is not known."""
        said, when = self._said.get(id, (None, 0.0))
        return said if now - when <= self._limits.remember else None


class Tickets:
    """Every ticket that is good, by its key."""

    def __init__(self, limits: Limits, clock: Clock, timers: Timers, new_key: Callable[[], str]) -> None:
        self._limits = limits
        self._clock = clock
        self._timers = timers
        self._new_key = new_key
        self._tickets: dict[str, Ticket] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def find(self, key: str) -> Ticket | None:
        """The ticket with this key, if there is one."""
        return self._tickets.get(key)

    def issue(self, client: Client, ticket: Ticket | None) -> Ticket:
        """A ticket for a client that has come in; the one it has shown, if it has."""
        ticket = ticket or Ticket(self._new_key(), client, self._limits)
        ticket.client = client
        client.ticket = ticket
        self._tickets[ticket.key] = ticket
        self._timers.clear(ticket)
        return ticket

    def reserve(self, ticket: Ticket, given_up: Callable[[Client], None]) -> None:
        """The connection broke: keep the name for a while, then call `given_up`."""
        ticket.client.go_away()

        def give_up(now: float) -> None:
            given_up(ticket.client)
            self.keep(ticket)

        self._timers.set(ticket, self._clock.monotonic() + self._limits.reserve, give_up)

    def seconds_left(self, client: Client) -> float | None:
        """For how long the name of an absent member stays reserved."""
        if client.ticket is None or not client.away:
            return None
        when = self._timers.when(client.ticket)
        return None if when is None else max(0.0, when - self._clock.monotonic())

    def keep(self, ticket: Ticket) -> None:
        """The membership is over; its ids are remembered for a while, for when its holder comes back."""
        if ticket.key in self._tickets:
            self._timers.set(ticket, self._clock.monotonic() + self._limits.remember, lambda now: self.close(ticket))

    def over(self, client: Client, may_come_back: bool) -> None:
        """A membership has ended; nothing where the client has no ticket."""
        if client.ticket is None:
            return
        if may_come_back:
            self.keep(client.ticket)
        else:
            self.close(client.ticket)

    def close(self, ticket: Ticket) -> None:
        """The session is over for good."""
        self._tickets.pop(ticket.key, None)
        self._timers.clear(ticket)

    def close_all(self) -> None:
        """All of them are."""
        for ticket in list(self._tickets.values()):
            self.close(ticket)
            if ticket.client.away and ticket.client.room is not None:
                ticket.client.room.leave(ticket.client, "connection_lost")
