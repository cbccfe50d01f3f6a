"""Carries out a broker's calls (`deliver`, `refuse`, …) on the rooms of a hub."""

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
    """The `SharedRooms` of a hub."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.limits: Limits = hub.limits

    def deliver(self, room: str, entries: Sequence[AnyEntry], ours: bool = True) -> None:
        if not ours:
            for entry in entries:
                if isinstance(entry, Said) and entry.session:  # its sender may have resumed here since
                    session = self._hub.sessions.find_hashed(entry.session)
                    entry.origin = 0 if session is None else session.id
        if (place := self._hub.rooms.get(room)) is not None:  # otherwise it was closed in the middle of a batch
            place.deliver(entries, ours)

    def refuse(self, room: str, entries: Sequence[AnyKept], reason: Refused) -> None:
        self._hub.rooms[room].refuse(entries, reason)

    def already_sent(self, room: str, said: Said, seq: int, ts: int) -> None:
        self._hub.rooms[room].already_sent(said, seq, ts)

    def trimmed(self, room: str, first: int) -> None:
        if (found := self._hub.rooms.get(room)) is not None:
            found.first = max(found.first, first)

    def wake(self) -> None:
        self._hub.wake()

    def wake_threadsafe(self) -> None:
        self._hub.ring()

    # For rooms that several nodes share

    def remote_member_changed(self, room: str, key: str, name: str | None) -> None:
        if (place := self._hub.rooms.get(room)) is not None:
            place.roster.elsewhere(key, name)

    def member_renamed(self, room: str, key: str, name: str) -> None:
        if (place := self._hub.rooms.get(room)) is not None:
            place.renamed(key, name)

    def name_lost(self, room: str, key: str, code: str) -> None:
        place = self._hub.rooms.get(room)
        client = None if place is None else place.roster.here.get(key)
        if place is None or not isinstance(client, Client):
            if place is not None:  # the member has not joined yet: its grant is void
                place.roster.withdraw_grant(key)
            return
        _logger.info("%s lost its name in %s: %s", client.name, place.name, code)
        place.lose(client)
        if code == "replaced" and client.peer is not None:
            self._hub.sessions.over(client, may_come_back=False)
            client.peer.replaced()
        else:
            client.outlet.ended(DISCONNECTS[code], DISCONNECTS[code].detail)

    def deliver_whisper(self, room: str, key: str, whisper: Whisper) -> str:
        place = self._hub.rooms.get(room)
        client = None if place is None else place.roster.here.get(key)
        return "nobody here has this name any more; nothing was sent" if client is None else client.hear(whisper)

    def disconnect_room(self, room: str) -> None:
        place = self._hub.rooms[room]
        _logger.error("this server missed messages of %s, and disconnects %d members", place.name, len(place.members))
        for client in place.members:
            client.disconnect("insufficient_state")
        if self._hub.rooms.get(room) is place:
            self._hub.close(place)

    def availability_changed(self, rooms: Sequence[str], detail: str) -> None:
        code = "unavailable" if detail else "available"
        for room in [self._hub.rooms[key] for key in rooms if key in self._hub.rooms]:
            room.trouble = detail
            for client in room.members:
                client.outlet.notice(code, detail or "messages can be kept again")
