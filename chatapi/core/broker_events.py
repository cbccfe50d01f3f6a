"""What a broker tells a chat: entries in their order and, where several servers share the rooms, who is where."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..errors import DISCONNECTS, Refused
from ..events import Whisper
from ..limits import Limits
from .client import Client
from .entries import AnyEntry, AnyKept, Said
from .hub import Hub

_logger = logging.getLogger("chatapi")


class BrokerEventHandler:
    """The `SharedRooms` that a broker expects, for the rooms of a hub."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.limits: Limits = hub.limits

    def deliver(self, room: str, entries: Sequence[AnyEntry], ours: bool = True) -> None:
        """Entries of a room in their final order."""
        if not ours:
            for entry in entries:
                if isinstance(entry, Said) and entry.session:  # said through another server, by who has come back here
                    session = self._hub.sessions.find_hashed(entry.session)
                    entry.origin = 0 if session is None else session.id
        if (place := self._hub.rooms.get(room)) is not None:  # else it was closed in the middle of a batch
            place.deliver(entries, ours)

    def refuse(self, room: str, entries: Sequence[AnyKept], reason: Refused) -> None:
        """Entries that were not taken."""
        self._hub.rooms[room].refuse(entries, reason)

    def known(self, room: str, said: Said, seq: int, ts: int) -> None:
        """What somebody said was said before."""
        self._hub.rooms[room].known(said, seq, ts)

    def trimmed(self, room: str, first: int) -> None:
        """What comes before `first` is not kept any more."""
        if (found := self._hub.rooms.get(room)) is not None:
            found.first = max(found.first, first)

    def wake(self) -> None:
        """Begin a round, if none is under way."""
        self._hub.wake()

    def ring(self) -> None:
        """The same, from any thread."""
        self._hub.ring()

    # Where several servers share the rooms

    def elsewhere(self, room: str, key: str, name: str | None) -> None:
        """Who is in a room through other servers."""
        if (place := self._hub.rooms.get(room)) is not None:
            place.roster.elsewhere(key, name)

    def renamed(self, room: str, key: str, name: str) -> None:
        """Somebody has another name."""
        if (place := self._hub.rooms.get(room)) is not None:
            place.renamed(key, name)

    def lost(self, room: str, key: str, code: str) -> None:
        """A member here has lost its name to somebody elsewhere."""
        place = self._hub.rooms.get(room)
        client = None if place is None else place.roster.here.get(key)
        if place is None or not isinstance(client, Client):
            if place is not None:  # whoever it was granted to has not come in yet, and cannot any more
                place.roster.use_up(key)
            return
        _logger.info("%s lost its name in %s: %s", client.name, place.name, code)
        place.lose(client)
        if code == "replaced" and client.peer is not None:
            self._hub.sessions.over(client, may_come_back=False)
            client.peer.replaced()
        else:
            client.outlet.ended(DISCONNECTS[code], DISCONNECTS[code].detail)

    def whispered(self, room: str, key: str, whisper: Whisper) -> str:
        """Somebody elsewhere whispers to a member here."""
        place = self._hub.rooms.get(room)
        client = None if place is None else place.roster.here.get(key)
        return "nobody here is called so any more; nothing was sent" if client is None else client.hear(whisper)

    def cut(self, room: str) -> None:
        """Messages of a room are missing here: whoever is in it connects again, and is told there what it missed."""
        place = self._hub.rooms[room]
        _logger.error("messages of %s are missing here: %d members are disconnected", place.name, len(place.members))
        for client in place.members:
            client.disconnect("insufficient_state")
        if self._hub.rooms.get(room) is place:
            self._hub.close(place)

    def away(self, rooms: Sequence[str], detail: str) -> None:
        """What keeps these rooms does not answer, or does again: members are told."""
        code = "unavailable" if detail else "available"
        for room in [self._hub.rooms[key] for key in rooms if key in self._hub.rooms]:
            room.trouble = detail
            for client in room.members:
                client.outlet.notice(code, detail or "messages are kept again")
