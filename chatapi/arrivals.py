"""What must be fetched before somebody can come in: the room, what is missed of it, and what the session has said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .broker import Outcome, Sent
from .entries import AnyKept
from .errors import Refused
from .hub import Hub

if TYPE_CHECKING:
    from .handshake import Resume


def prepare(hub: Hub, room: str, then: Outcome, resume: Resume | None = None) -> None:
    """Call `then`, at once or later, when a room can be entered, by one who resumes or not; or with why not.

    `room` is a checked name. A room that is loaded stays so for a while, also where nobody enters it. What else cannot
    be fetched is done without: the member is told ``trimmed``, or its session is a new one.
    """
    _Arrival(hub, room, resume, then).go()


class _Arrival:
    """Somebody on the way into a room."""

    def __init__(self, hub: Hub, room: str, resume: Resume | None, then: Outcome) -> None:
        self._hub, self._room, self._resume, self._then = hub, room, resume, then
        session = "" if resume is None else resume.session
        self._asked = not session or not hub.broker.keeps or hub.tickets.find(session) is not None
        self._read = resume is None

    def go(self) -> None:
        """Fetch what is to be fetched next."""
        hub, resume = self._hub, self._resume
        room = hub.room(self._room)
        if room is None:
            hub.load(self._room, self._loaded)
        elif resume is not None and not self._asked:
            self._asked = True
            hub.broker.sent(resume.session, self._known)
        elif resume is not None and not self._read:
            self._read = True
            room_left = room.log.max_bytes - room.log.held
            missing = room.missing(resume.epoch, resume.seq)
            if 0 < missing <= room.log.max_entries and room_left > 0:
                hub.fetch(room, room.oldest, missing, room_left, self._recalled)
            else:
                self.go()
        else:
            self._then(None)

    def _loaded(self, reason: Refused | None) -> None:
        if reason is None:
            self.go()
        else:
            self._then(reason)

    def _known(self, sent: Mapping[str, Sent] | Refused) -> None:
        assert self._resume is not None
        if not isinstance(sent, Refused):
            self._hub.tickets.was(self._resume.session, sent)
        self.go()

    def _recalled(self, entries: Sequence[AnyKept] | Refused) -> None:
        room = self._hub.room(self._room)
        if room is not None and not isinstance(entries, Refused):
            room.recall(entries)
        self.go()
