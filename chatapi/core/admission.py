"""What must be had before somebody can come in: the room, what is missed of it, what the session has said, the name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import Refused
from .broker import Outcome, Sent, unavailable
from .entries import AnyKept
from .history import read_entries
from .hub import LOADED, Hub
from .room import Room

if TYPE_CHECKING:
    from .handshake import Resume


class Newcomer(NamedTuple):
    """Who is about to come into a room."""

    name: str
    session: str = ""
    """The key that lets it come back; empty for who cannot."""
    resume: Resume | None = None
    """What it has seen, where it resumes."""
    host: str = ""
    """Where it comes from."""


def is_ready(hub: Hub, room: str, name: str) -> bool:
    """Whether somebody who does not resume can come in at once, or is to be refused at once."""
    place = hub.room(room)
    return place is not None and (hub.broker.presence is None or place.roster.is_known(name))


def prepare(hub: Hub, room: str, then: Outcome, who: Newcomer | None = None) -> None:
    """Call `then`, at once or later, when a room can be entered, by `who` where somebody is; or with why not.

    `room` is a checked name. A room that is loaded stays so for a while, also where nobody enters it; so does a name
    that was claimed. What else cannot be fetched is done without: the member is told ``trimmed``, or its session is a
    new one.
    """
    if hub.arriving >= hub.limits.connections:  # more than are connected: many have gone without waiting for the broker
        then(unavailable("too many are waiting to come in; try again"))
        return
    hub.arriving += 1

    def arrived(reason: Refused | None) -> None:
        hub.arriving -= 1
        then(reason)

    _Arrival(hub, room, who, arrived).go()


def _claim(hub: Hub, room: Room, who: Newcomer, then: Outcome) -> None:
    """Have the broker give a name to who is about to come into a room that several servers share."""
    presence, key = hub.broker.presence, hub.naming.key(who.name)
    assert presence is not None
    hub.needed(room)

    def claimed(reason: Refused | None) -> None:
        here = hub.rooms.get(room.key) is room
        if here and reason is None and key not in room.roster.here:
            room.roster.grant(key, who.session)
            hub.timers.set((room, key), hub.clock.monotonic() + LOADED, lambda now: give_back())
        elif not here and reason is None:
            reason = unavailable(f"{room.name!r} was closed meanwhile; try again")
        then(reason)
        if here and not room.attended:
            hub.emptied(room)

    def give_back() -> None:
        if room.roster.use_up(key):
            presence.release(room.key, key, "bye", quiet=len(room) > hub.limits.announce)

    presence.claim(room.key, who.name, who.session, len(room) > hub.limits.announce, claimed)


class _Arrival:
    """Somebody on the way into a room."""

    def __init__(self, hub: Hub, room: str, who: Newcomer | None, then: Outcome) -> None:
        self._hub, self._room, self._who, self._then = hub, room, who, then
        resume = None if who is None else who.resume
        self._resume = resume
        session = "" if resume is None else resume.session
        self._asked = not session or not hub.broker.keeps or hub.tickets.find(session) is not None
        self._expected = False  # whether the tickets hold what was said under its key until it is in
        self._read = resume is None
        self._claimed = who is None or hub.broker.presence is None

    def go(self) -> None:
        """Fetch what is to be fetched next."""
        hub, resume = self._hub, self._resume
        room = hub.room(self._room)
        if room is None:
            hub.load(self._room, self._loaded)
        elif resume is not None and not self._asked:
            self._asked = True
            hub.broker.sent(room.key, resume.session, self._known)
        elif resume is not None and not self._read:
            self._read = True
            room_left = room.log.max_bytes - room.log.held
            missing = room.missing(resume.epoch, resume.seq) if hub.may_resume(room, resume) else 0
            if 0 < missing <= room.log.max_entries and room_left > 0:
                read_entries(hub.broker, room, room.oldest, missing, room_left, self._recalled)
            else:
                self.go()
        elif (who := self._who) is not None and not (self._claimed or self._is_known(room, who.name)):
            self._claimed = True
            _claim(hub, room, who, self._loaded)
        else:
            self._end(None)

    def _end(self, reason: Refused | None) -> None:
        self._then(reason)
        if self._resume is not None and self._expected:
            self._hub.tickets.arrived(self._resume.session)

    def _is_known(self, room: Room, name: str) -> bool:
        """Whether the broker need not be asked for the name.

        It must be where somebody has seen more of the room than there is here: then it was on another server, this one
        has something to catch up with, and the answer comes behind that.
        """
        resume = self._resume
        is_ahead = resume is not None and resume.epoch == room.epoch and resume.seq > room.seq
        return not is_ahead and room.roster.is_known(name)

    def _loaded(self, reason: Refused | None) -> None:
        if reason is None:
            self.go()
        else:
            self._end(reason)

    def _known(self, sent: Mapping[str, Sent] | Refused) -> None:
        assert self._resume is not None
        assert self._who is not None
        if not isinstance(sent, Refused):
            self._expected = self._hub.tickets.expect(self._resume.session, sent, self._who.host)
        self.go()

    def _recalled(self, entries: Sequence[AnyKept] | Refused) -> None:
        room = self._hub.room(self._room)
        if room is not None and not isinstance(entries, Refused):
            room.recall(entries)
        self.go()
