"""What must be had before somebody can come in: the room, what is missed of it, what the session has said, the name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..pending import Pending
from .broker import Sent, unavailable
from .entries import AnyKept
from .history import read_entries
from .hub import LOADED, Hub
from .room import Room

if TYPE_CHECKING:
    from .handshake import Resume


class Newcomer(NamedTuple):
    """Who is about to come into a room."""

    name: str
    session_key: str = ""
    """The key that lets it come back; empty for who cannot."""
    resume: Resume | None = None
    """What it has seen, where it resumes."""
    host: str = ""
    """Where it comes from."""


def is_ready(hub: Hub, room: str, name: str) -> bool:
    """Whether somebody who does not resume can come in at once, or is to be refused at once."""
    place = hub.room(room)
    return place is not None and (hub.broker.presence is None or place.roster.is_known(name))


def prepare(hub: Hub, room: str, who: Newcomer | None = None) -> Arrival:
    """Prepare a room, so that `who` can enter it if somebody is given.

    `room` is a checked name. A room that is loaded stays so for a while, also where nobody enters it; so does a name
    that was claimed. What else cannot be fetched is done without: the member is told ``trimmed``, or its session is a
    new one.
    """
    arrival = Arrival(hub, room, who)
    if hub.arriving >= hub.limits.connections:  # more than are connected: many have gone without waiting for the broker
        arrival.prepared.fail(unavailable("too many are waiting to come in; try again"))
    else:
        hub.arriving += 1
        arrival.go()
    return arrival


def _claim(hub: Hub, room: Room, who: Newcomer) -> Pending[None]:
    """Have the broker give a name to a member that is about to come into a room that several servers share."""
    presence, key = hub.broker.presence, hub.naming.key(who.name)
    assert presence is not None
    hub.needed(room)
    granted: Pending[None] = Pending()

    def claimed(claim: Pending[None]) -> None:
        here, reason = hub.rooms.get(room.key) is room, claim.error
        if here and reason is None and key not in room.roster.here:
            room.roster.grant(key, who.session_key)
            hub.timers.set((room, key), hub.clock.monotonic() + LOADED, lambda now: give_back())
        elif not here and reason is None:
            reason = unavailable(f"{room.name!r} was closed meanwhile; try again")
        if reason is None:
            granted.resolve(None)
        else:
            granted.fail(reason)
        if here and not room.attended:
            hub.emptied(room)

    def give_back() -> None:
        if room.roster.use_up(key):
            presence.release(room.key, key, "bye", quiet=len(room) > hub.limits.announce)

    presence.claim(room.key, who.name, who.session_key, len(room) > hub.limits.announce).then(claimed)
    return granted


class Arrival:
    """Somebody on the way into a room."""

    def __init__(self, hub: Hub, room: str, who: Newcomer | None) -> None:
        self._hub, self._room, self._who = hub, room, who
        self.prepared: Pending[None] = Pending()
        """Whether the room can be entered; fails with `Refused`."""
        resume = None if who is None else who.resume
        self._resume = resume
        session_key = "" if resume is None else resume.session
        self._asked = not session_key or not hub.broker.keeps or hub.sessions.find(session_key) is not None
        self._expected = False  # whether the sessions hold what was said under its key until it is in
        self._read = resume is None
        self._claimed = who is None or hub.broker.presence is None

    def go(self) -> None:
        """Fetch what is to be fetched next."""
        hub, resume = self._hub, self._resume
        room = hub.room(self._room)
        if room is None:
            hub.load(self._room).then(self._loaded)
        elif resume is not None and not self._asked:
            self._asked = True
            hub.broker.sent(room.key, resume.session).then(self._known)
        elif resume is not None and not self._read:
            self._read = True
            room_left = room.log.max_bytes - room.log.held
            missing = room.missing(resume.epoch, resume.seq) if hub.may_resume(room, resume) else 0
            if 0 < missing <= room.log.max_entries and room_left > 0:
                read_entries(hub.broker, room, room.oldest, missing, room_left).then(self._recalled)
            else:
                self.go()
        elif (who := self._who) is not None and not (self._claimed or self._is_known(room, who.name)):
            self._claimed = True
            _claim(hub, room, who).then(self._loaded)
        else:
            self._end(None)

    def _end(self, reason: Exception | None) -> None:
        self._hub.arriving -= 1
        if reason is None:
            self.prepared.resolve(None)
        else:
            self.prepared.fail(reason)

    def close(self) -> None:
        """Forget what was fetched for this member alone: it is in the room, or does not come."""
        if self._resume is not None and self._expected:
            self._hub.sessions.arrived(self._resume.session)

    def _is_known(self, room: Room, name: str) -> bool:
        """Whether the broker need not be asked for the name.

        It must be where somebody has seen more of the room than there is here: then it was on another server, this one
        has something to catch up with, and the answer comes behind that.
        """
        resume = self._resume
        is_ahead = resume is not None and resume.epoch == room.epoch and resume.seq > room.seq
        return not is_ahead and room.roster.is_known(name)

    def _loaded(self, loaded: Pending[Any]) -> None:
        if loaded.error is None:
            self.go()
        else:
            self._end(loaded.error)

    def _known(self, sent: Pending[Mapping[str, Sent]]) -> None:
        assert self._resume is not None
        assert self._who is not None
        if sent.error is None:
            self._expected = self._hub.sessions.expect(self._resume.session, sent.result(), self._who.host)
        self.go()

    def _recalled(self, entries: Pending[Sequence[AnyKept]]) -> None:
        room = self._hub.room(self._room)
        if room is not None and entries.error is None:
            room.recall(entries.result())
        self.go()
