"""Tickets: what lets a JSON member come back. The key it was given, its id, and what it has said under which id."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from .broker import Sent
from .clients import Client
from .clock import Clock
from .entries import Said
from .limits import Limits
from .sessions import hashed

if TYPE_CHECKING:
    from .rooms import Room
    from .timers import Timers


_KEY: Final = re.compile(r"[A-Za-z0-9_-]{16,64}")


class Kept(NamedTuple):
    """Where a message stands in its room's log."""

    seq: int
    ts: int


class Known(NamedTuple):
    """What was said under some id; its `seq` is 0 while it is on its way through the broker."""

    said: Said | Kept
    when: float
    room: str
    """The key of the room in which it was said; empty for a whisper."""


class Ticket:
    """One session: it outlives connections, renames and room changes."""

    __slots__ = ("_limits", "_on_their_way", "_said", "client", "id", "key")

    def __init__(self, key: str, client: Client, limits: Limits) -> None:
        self.key: str = key
        """Unguessable, and shown to nobody but its holder."""
        self.id: int = client.id
        """The member's id, whenever it comes back: its own messages stay its own."""
        self.client: Client = client
        """Its latest membership; that has a room for as long as it lasts, a while after its connection broke too."""
        self._limits = limits
        self._said: dict[str, Known] = {}
        self._on_their_way: list[str] = []  # ids of those that had no seq yet when this was looked at last

    def remember(self, id: str, said: Said | Kept, now: float, room: str = "") -> None:  # noqa: A002
        """The member said this under that id, in the room of that key."""
        self._said.pop(id, None)  # an older use of it: this is the newest one
        self._said[id] = Known(said, now, room)
        if isinstance(said, Said):
            self._on_their_way.append(id)
        self._forget_texts()
        if len(self._said) > self._limits.remember_ids:
            del self._said[next(iter(self._said))]

    def claim(self, room: Room) -> None:
        """What it has said in this room is its client's own, wherever the room had it from."""
        for id, known in self._said.items():  # noqa: A001
            if known.room == room.key:
                room.claim(self.client, id, known.said.seq, known.said.ts)

    def forget(self, said: Said) -> None:
        """This was refused: under its ids nothing was said."""
        for id in said.ids or ():  # noqa: A001
            known = self._said.get(id) if id is not None else None
            if id is not None and known is not None and known.said is said:
                del self._said[id]

    def _forget_texts(self) -> None:
        """Keep of what has its place no more than the place."""
        while self._on_their_way:
            known = self._said.get(self._on_their_way[0])
            if known is not None and isinstance(known.said, Said):
                if not known.said.seq:
                    return
                self._said[self._on_their_way[0]] = known._replace(said=Kept(known.said.seq, known.said.ts))
            del self._on_their_way[0]

    def recall(self, id: str, now: float) -> Known | None:  # noqa: A002
        """What it has said under that id a short while ago."""
        known = self._said.get(id)
        return known if known is not None and now - known.when <= self._limits.remember else None


class Tickets:
    """Every ticket that is good, by its key."""

    def __init__(self, limits: Limits, clock: Clock, timers: Timers, new_key: Callable[[], str]) -> None:
        self._limits = limits
        self._clock = clock
        self._timers = timers
        self._new_key = new_key
        self._tickets: dict[str, Ticket] = {}
        self._by_hash: dict[str, Ticket] = {}
        self._before: dict[str, Mapping[str, Sent]] = {}  # what keys of another life of this server stand for

    def __len__(self) -> int:
        return len(self._tickets)

    def find(self, key: str) -> Ticket | None:
        """The ticket with this key, if there is one."""
        return self._tickets.get(key)

    def find_hashed(self, session: str) -> Ticket | None:
        """The ticket whose key has this hash, if there is one."""
        return self._by_hash.get(session)

    def was(self, key: str, sent: Mapping[str, Sent]) -> None:
        """A key is about to be shown that another life of this server has given; this is what was said under it."""
        if sent and key not in self._tickets:
            self._before[key] = sent

    def revive(self, key: str, client: Client) -> Ticket | None:
        """The ticket of another life of this server, for a client that has come in with its key."""
        sent = self._before.pop(key, None)
        if sent is None or key in self._tickets:
            return None
        ticket, now = Ticket(key, client, self._limits), self._clock.monotonic()
        for id, place in sent.items():  # noqa: A001
            ticket.remember(id, Kept(place.seq, place.ts), now, place.room)
        return ticket

    def session(self, shown: str) -> str:
        """The key for somebody who comes into a room that several servers share.

        Any of them may have given the one that is shown: it is taken as it is, if it can be one of theirs. A key that
        somebody has made up opens nothing.
        """
        return shown if _KEY.fullmatch(shown) else self._new_key()

    def issue(self, client: Client, ticket: Ticket | None, key: str = "") -> Ticket:
        """A ticket for a client that has come in; the one it has shown, if it has, or one with that key."""
        ticket = ticket or Ticket(key or self._new_key(), client, self._limits)
        ticket.client = client
        client.ticket = ticket
        self._tickets[ticket.key] = self._by_hash[hashed(ticket.key)] = ticket
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
        self._by_hash.pop(hashed(ticket.key), None)
        self._timers.clear(ticket)
        ticket.client.ticket = None

    def close_all(self, code: str) -> None:
        """All of them are; members whose connection broke leave for this reason of `DISCONNECTS`."""
        for ticket in list(self._tickets.values()):
            self.close(ticket)
            if ticket.client.away:
                ticket.client.disconnect(code)
