"""`Admission`: join, resume or change of room. Fetch what the member needs, then make or take back the member.

Everything that brings a member into a room uses it: a handshake, the command ``/join``, the frame ``join``,
`ChatAPI.join` and a resume.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from ..errors import RefusalCode, Refused
from ..pending import Pending
from .broker import Sent, unavailable
from .client import Client
from .entries import AnyKept
from .handshake import Resume
from .history import read_entries
from .hub import LOADED, Hub
from .member import Outlet, Peer
from .room import Room
from .sessions import Session
from .style import Style

_logger = logging.getLogger("chatapi")

Welcome: TypeAlias = Callable[[Client, bool | None, str], bytes]
"""Renders the first bytes that a member is shown. The second argument says whether missed messages follow (None if the
member does not resume), the third why they do not."""


class Admission:
    """One member's way into a room, which is looked up once.

    The room and the name must be fetched. If missed messages cannot be fetched, the member is told ``trimmed``; if the
    ids of its session cannot, it gets a new session.
    """

    __slots__ = (
        "_expected",
        "_host",
        "_hub",
        "_key",
        "_name",
        "_resumable",
        "_resume",
        "_room_name",
        "_session_key",
        "_steps",
        "ready",
    )

    def __init__(
        self,
        hub: Hub,
        name: str,
        room: str,
        *,
        session_key: str = "",
        resumable: bool = False,
        resume: Resume | None = None,
        host: str = "",
    ) -> None:
        """Begin to fetch what the member needs.

        Args:
            hub: The chat.
            name: The member's name; checked.
            room: The name of the room; checked.
            session_key: The key of its session; empty if it has none.
            resumable: Whether it gets a session if it has none.
            resume: The last event that it has seen, if it resumes.
            host: The host that it is connected from.
        """
        self._hub, self._name, self._room_name, self._host = hub, name, room, host
        self._session_key, self._resumable, self._resume = session_key, resumable, resume
        self._expected = False  # whether `Sessions.arrived` must be called
        self._steps: list[Callable[[Room], Pending[None]]] = []
        self.ready: Pending[Room]
        """The room, when the member can enter it. A loaded room then stays open for `LOADED` seconds, and a claimed
        name stays reserved for as long. Fails with `Refused`."""
        self._key = hub.naming.key(name)
        found, presence = hub.rooms.get(hub.naming.room_key(room)), hub.broker.presence
        if found is not None and resume is None and (presence is None or found.roster.is_decided(self._key)):
            self.ready = Pending.resolved(found)
        elif hub.arriving >= hub.limits.connections:  # many of them have left since
            self.ready = Pending.failed(unavailable("too many clients are waiting to join; try again"))
        else:
            self.ready = Pending()
            if resume is not None:
                self._steps += self._fetch_ids, self._fetch_missed
            if presence is not None:
                self._steps.append(self._claim_name)
            hub.arriving += 1
            hub.open(room).then(self._advance)

    @classmethod
    def of_member(cls, hub: Hub, client: Client, room: str) -> Admission:
        """Return the admission of a member to another room. Raises `Refused` (``bad_room``)."""
        session_key = "" if client.session is None else client.session.key
        return cls(hub, client.name, hub.naming.room(room), session_key=session_key)

    # Fetching

    def _advance(self, step: Pending[Any]) -> None:
        """Begin the next step. If the step that has ended was the last one, resolve `ready`."""
        hub = self._hub
        if step.error is not None:
            hub.arriving -= 1
            self.ready.fail(step.error)
        elif (room := hub.room(self._room_name)) is None:  # it was closed meanwhile
            hub.open(self._room_name).then(self._advance)
        elif self._steps:
            self._steps.pop(0)(room).then(self._advance)
        else:
            hub.arriving -= 1
            self.ready.resolve(room)

    def _fetch_ids(self, room: Room) -> Pending[None]:
        """Fetch the ids that its session has used, if only the broker knows them."""
        hub = self._hub
        fetched: Pending[None] = Pending()
        assert self._resume is not None
        key = self._resume.session

        def expect(sent: Pending[Mapping[str, Sent]]) -> None:
            if sent.error is None:
                self._expected = hub.sessions.expect(key, sent.result(), self._host)
            fetched.resolve(None)

        if not key or not hub.broker.keeps or hub.sessions.find(key) is not None:
            return Pending.resolved(None)
        hub.broker.sent(room.key, key).then(expect)
        return fetched

    def _fetch_missed(self, room: Room) -> Pending[None]:
        """Fetch missed messages that the room's own log does not hold any more."""
        hub, resume = self._hub, self._resume
        fetched: Pending[None] = Pending()
        assert resume is not None
        log = room.log
        missing, max_bytes = room.missing(resume.epoch, resume.seq), log.max_bytes - log.held
        if not hub.broker.keeps or not 0 < missing <= log.max_entries or max_bytes <= 0 or not self._may_resume(room):
            return Pending.resolved(None)

        def restore(entries: Pending[Sequence[AnyKept]]) -> None:
            if entries.error is None and hub.rooms.get(room.key) is room:
                held = log.held
                room.restore(entries.result())
                hub.grew(log.held - held)
            fetched.resolve(None)

        read_entries(hub.broker, room, room.oldest, missing, max_bytes).then(restore)
        return fetched

    def _claim_name(self, room: Room) -> Pending[None]:
        """Claim the name with the broker, because several servers share the room."""
        hub, name, resume, presence = self._hub, self._name, self._resume, self._hub.broker.presence
        assert presence is not None
        # a member that has seen more than this server was on another one: the claim is answered after those messages
        is_ahead = resume is not None and resume.epoch == room.epoch and resume.seq > room.seq
        if not is_ahead and room.roster.is_decided(self._key):
            return Pending.resolved(None)
        key, session_key = self._key, self._session_key
        claimed: Pending[None] = Pending()
        if self._resumable and not session_key:
            session_key = hub.sessions.key_for("" if resume is None else resume.session)

        def grant(claim: Pending[None]) -> None:
            is_open, reason = hub.rooms.get(room.key) is room, claim.error
            if is_open and reason is None and key not in room.roster.here:
                room.roster.grant(key, session_key)
                hub.timers.set((room, key), hub.clock.monotonic() + LOADED, lambda now: give_back())
            elif not is_open and reason is None:
                reason = unavailable(f"the server has just closed {room.name!r}; try again")
            if reason is None:
                claimed.resolve(None)
            else:
                claimed.fail(reason)
            if is_open and not room.roster.here:
                hub.emptied(room)

        def give_back() -> None:
            if room.roster.withdraw_grant(key):
                presence.release(room.key, key, "bye", quiet=len(room) > hub.limits.announce)

        hub.needed(room)
        presence.claim(room.key, name, session_key, len(room) > hub.limits.announce).then(grant)
        return claimed

    def close(self) -> None:
        """Forget the ids that were fetched for this member, because it is in the room, or does not come."""
        if self._expected and self._resume is not None:
            self._hub.sessions.arrived(self._resume.session)

    # Entering

    def enter(self, outlet: Outlet, style: Style, echo: bool, history: int = 0) -> Client:
        """Make a member of the room that is shown its last `history` messages first.

        Raises `Refused` (``name_taken``, ``room_full``, ``server_full``, ``draining``, ``unavailable``).
        """
        client = self._enter(self._open_room(new=True), outlet, style, echo, None)
        with self._leaving_after_error(client):
            if history:
                client.replay(history)
        return client

    def come_in(self, peer: Peer, style: Style, echo: bool, history: int, welcome: Welcome) -> Client:
        """Make a member of the room that has a session, or go on with the member whose session it shows.

        Raises `Refused` as `enter` does.
        """
        sessions, resume, room = self._hub.sessions, self._resume, self._open_room(new=True)
        may_resume = resume is not None and self._may_resume(room)
        session_key = room.roster.session_key(self._key)
        session = None if resume is None else sessions.find(resume.session)
        client = None if session is None else self._take_over(session, room, peer, style, echo)
        if client is None:
            client = self._enter(room, peer, style, echo, None if session is None else session.id)
        if session is None and resume is not None:
            session = sessions.revive(resume.session, client)
        session = sessions.issue(client, session, session_key)
        if session_key and resume is not None:
            room.mark_session_own(client, session_key)
        position = None if resume is None else room.recover(resume.epoch, resume.seq, resume.ts)
        if isinstance(position, int) and not may_resume:
            position = "trimmed"
        with self._leaving_after_error(client):
            if isinstance(position, int):
                session.mark_own(room)
                client.push(welcome(client, True, ""))
                client.catch_up(position)
            else:
                client.push(welcome(client, None if position is None else False, position or ""))
                if history:
                    client.replay(history)
        return client

    @contextmanager
    def _leaving_after_error(self, client: Client) -> Iterator[None]:
        """Take the member out of its room again if its door fails: its connection does not know it yet."""
        try:
            yield
        except Exception:
            if client.room is not None:
                client.room.leave(client, "server_error")
            self._hub.sessions.over(client, may_come_back=False)
            raise

    def move(self, client: Client) -> None:
        """Take a member from its room to this one; if that is refused, it stays.

        It must have been shown everything, because it does not read the log of the old room any more. Raises `Refused`
        (``name_taken``, ``room_full``, ``server_full``, ``unavailable``).
        """
        before, room = client.room, self._open_room(new=False)
        if room is not before:
            room.check_free(client.key)
            if before is not None:
                before.leave(client, "moved")
                _logger.info("%s went from %s to %s", client.name, before.name, room.name)
            client.join(room)

    def _open_room(self, *, new: bool) -> Room:
        """Return the room, and keep it open; open it again if it was closed meanwhile.

        Args:
            new: Whether the member comes into the chat; that is refused while the server shuts down.
        """
        if new and self._hub.draining:
            raise Refused(RefusalCode.DRAINING, "the server is shutting down; try again in a few seconds")
        hub, room = self._hub, self.ready.result()
        if hub.rooms.get(room.key) is not room:
            opened = hub.open(self._room_name)
            if not opened.done:
                raise unavailable(f"{self._room_name!r} is being loaded; try again")
            room = opened.result()
        if not room.roster.here:
            hub.needed(room)
        return room

    def _enter(self, room: Room, outlet: Outlet, style: Style, echo: bool, client_id: int | None) -> Client:
        client_id = self._hub.new_client_id() if client_id is None else client_id
        client = Client(client_id, self._name, self._key, outlet, style, echo, self._host)
        client.join(room)
        return client

    def _may_resume(self, room: Room) -> bool:
        """Return whether the member may be shown all messages that it missed, if the room still has them.

        These may be more than `Limits.history` only if this chat has issued the key. Otherwise everybody could be shown
        a whole log.
        """
        resume = self._resume
        assert resume is not None
        return room.seq - resume.seq <= self._hub.limits.history or self._hub.sessions.knows(resume.session)

    def _take_over(self, session: Session[Client], room: Room, peer: Peer, style: Style, echo: bool) -> Client | None:
        """Go on with the member of a session. Return None if it had another name or room; that membership ends."""
        client = session.client
        if client.room is None:
            return None
        if client.room is room and client.key == self._key:
            client.come_back(peer, style, echo, self._host)
            return client
        room.check_free(self._key)  # if this is refused, nothing changes
        if client.peer is not None:
            client.peer.replaced()
        self._hub.leave_for(client, client.room, room)
        return None
