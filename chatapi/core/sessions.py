"""Sessions of JSON members: their keys, reserved names and remembered ids. `core.admission` lets members come back."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice, takewhile
from math import inf
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from ..clock import Clock
from ..limits import ID_COST, SESSION_COST, Limits
from .broker import Sent
from .entries import Said
from .member import Member
from .origins import Origin, Origins
from .remembered import Remembered
from .room import Room
from .session_keys import hash_key
from .timers import Timers

_KEY: Final = re.compile(r"[A-Za-z0-9_-]{16,64}")


class Holder(Member, Protocol):
    """A member that may have a session: a `Client`."""

    session: Session[Any] | None

    def go_away(self) -> None:
        """Stay a member without a connection, and read nothing."""
        ...


_H = TypeVar("_H", bound=Holder)


class Session(Generic[_H]):
    """The state of a JSON member that outlives its connections, renames and changes of rooms."""

    __slots__ = ("_on_their_way", "_said", "_sessions", "client", "id", "key", "origin", "size")

    def __init__(self, key: str, client: _H, origin: Origin, sessions: Sessions[_H]) -> None:
        self.key: str = key
        """The secret that its member shows to come back; only that member is told."""
        self.id: int = client.id
        """The member's id. It stays the same when the member comes back, so that its own messages stay its own."""
        self.client: _H = client
        """Its latest membership, which may last for a while after the connection broke."""
        self.origin: Origin = origin
        """The origin of its latest connection."""
        self.size: int = 0
        """Bytes of memory that it takes."""
        self._sessions = sessions
        self._said: dict[str, Remembered] = {}
        self._on_their_way: list[Remembered] = []  # messages that had no place in the log at the last look

    def remember(self, known: Remembered) -> None:
        """Remember messages or a whisper under their ids, also instead of earlier ones with the same ids."""
        ids, limits = known.ids, self._sessions.limits
        self._remove(filter(self._said.__contains__, ids))
        self._said.update(dict.fromkeys(ids, known))
        self._sessions.grew(self, _size(ids) + (0 if known.said is None else known.said.weight))
        if known.said is not None:
            self._on_their_way.append(known)
        self.forget_texts()
        self._remove(islice(self._said, max(0, len(self._said) - limits.remember_ids)))
        oldest = islice(self._said.items(), 2 * len(ids))  # twice, so that ids that are too old become fewer
        self._remove(id_ for id_, old in takewhile(lambda item: known.when - item[1].when > limits.remember, oldest))

    def _remove(self, ids: Iterable[str]) -> None:
        if removed := list(ids):
            for id_ in removed:
                del self._said[id_]
            self._sessions.grew(self, -_size(removed))

    def is_new(self, id: str) -> bool:  # noqa: A002
        """Return whether nothing is remembered under this id."""
        return id not in self._said

    def count_new(self, ids: Sequence[str]) -> int:
        """Return how many of the first ids are new, and differ from each other."""
        if self._said.keys().isdisjoint(ids) and len(set(ids)) == len(ids):
            return len(ids)
        seen: set[str] = set()
        for id_ in ids:
            if id_ in self._said or id_ in seen:
                break
            seen.add(id_)
        return len(seen)

    def mark_own(self, room: Room) -> None:
        """Make all messages of this session in the room its client's own, also those that the room has from a store."""
        for known in set(self._said.values()):
            if known.room == room.key:
                for id_ in known.ids:
                    if self._said.get(id_) is known:
                        room.mark_own(self.client, id_, *known.place(id_))

    def forget(self, said: Said) -> None:
        """Forget the ids of messages that were refused, because those were not kept."""
        ids = filter(None, said.ids or ())
        self._remove(id_ for id_ in ids if (known := self._said.get(id_)) is not None and known.said is said)
        self.forget_texts()

    def forget_texts(self) -> None:
        """Forget the texts of messages that have their place; the place is enough."""
        while self._on_their_way and not self._on_their_way[0].pending:
            self._sessions.grew(self, -self._on_their_way.pop(0).forget_text())

    def recall(self, id: str, now: float) -> Remembered | None:  # noqa: A002
        """Return the message or whisper with this id, unless it has expired.

        While it is on its way it does not expire; its time starts at the first call after it has its place.
        """
        known = self._said.get(id)
        if known is None or (not known.pending and now - known.when > self._sessions.limits.remember):
            return None
        if known.pending:
            known.when = inf
        elif known.when == inf:
            known.when = now
        return known


def _size(ids: Collection[str]) -> int:
    """Return the bytes that ids take in a session."""
    return ID_COST * len(ids) + sum(map(str.__sizeof__, ids))


class Former:
    """The ids of a session key from before a restart, or from another server, for a member that is about to resume."""

    __slots__ = ("arrivals", "key", "origin", "sent", "size")

    def __init__(self, key: str, sent: Mapping[str, Sent], origin: Origin, arrivals: int) -> None:
        self.key: str = key
        self.sent: Mapping[str, Sent] = sent
        self.origin: Origin = origin
        """The origin of the latest connection that shows the key."""
        self.arrivals: int = arrivals
        """The number of admissions that show the key."""
        self.size: int = 0
        """Bytes of memory that it takes."""


_Remembered: TypeAlias = Session[Any] | Former


class Sessions(Generic[_H]):
    """Every session of a chat, by its key.

    All sessions together take at most `session_bytes`, and those of one address `address_session_bytes`: if it is more,
    sessions of members that are not connected are forgotten, in the order in which the members left. After
    that the key is not known any more.
    """

    def __init__(
        self,
        limits: Limits,
        clock: Clock,
        timers: Timers,
        origins: Origins,
        new_key: Callable[[], str],
        is_ours: Callable[[str], bool],
        given_up: Callable[[_H], None],
        call: Callable[[Sessions[_H]], None],
    ) -> None:
        self.limits: Limits = limits
        self.size: int = 0
        """Bytes of all sessions."""
        self._clock = clock
        self._timers = timers
        self._origins = origins
        self._new_key = new_key
        self._is_ours = is_ours  # returns whether this chat has signed a key
        self._given_up = given_up  # called to end the membership of a member without a connection
        self._call = call  # called to have `run` called later
        self._sessions: dict[str, Session[_H]] = {}
        self._by_hash: dict[str, Session[_H]] = {}
        self._before: dict[str, Former] = {}  # by their keys
        self._left: dict[_Remembered, None] = {}  # without a connected member, the first to leave first
        self._crowded: dict[Origin, None] = {}  # origins whose sessions may take too many bytes

    def __len__(self) -> int:
        return len(self._sessions)

    def find(self, key: str) -> Session[_H] | None:
        """Return the session with this key, if there is one."""
        return self._sessions.get(key)

    def find_hashed(self, key_hash: str) -> Session[_H] | None:
        """Return the session whose key has this hash, if there is one."""
        return self._by_hash.get(key_hash)

    def expect(self, key: str, sent: Mapping[str, Sent], host: str) -> bool:
        """Keep the ids of a key from before a restart, or from another server, until a member has resumed with it.

        Without ids the key alone is kept, so that the member is told that it has sent nothing. Return False if that is
        not needed, because the key has a session here or this chat has not issued it; otherwise `arrived` must be
        called later.
        """
        if key in self._sessions or not self.knows(key, sent):
            return False
        before = self._before.get(key)
        former = Former(key, sent, self._origins.hold(host), 1 if before is None else before.arrivals + 1)
        self._drop(before)
        self._before[key] = former
        self.grew(former, _size(sent))
        self._leave(former)
        return True

    def _drop(self, former: Former | None) -> None:
        if former is not None:
            del self._before[former.key]
            self._release(former)

    def arrived(self, key: str) -> None:
        """Note that an admission with an expected key has ended; after the last one, forget the ids."""
        former = self._before.get(key)
        if former is not None:
            former.arrivals -= 1
            if not former.arrivals:
                self._drop(former)

    def knows(self, key: str, sent: Mapping[str, Sent] | None = None) -> bool:
        """Return whether this chat has issued the key, on any server, and also before a restart.

        It has if the key has a session, if the key has the chat's signature, or if the broker remembers the session:
        then `sent` has the ids of its messages, or only an empty id if it has sent nothing.
        """
        return key in self._sessions or key in self._before or self._is_ours(key) or bool(sent)

    def revive(self, key: str, client: _H) -> Session[_H] | None:
        """Return a session for a client that has shown a key from before a restart; None if the key is not expected."""
        former = self._before.get(key)
        self._drop(former)
        if former is None or key in self._sessions:
            return None
        session, now = self._new(key, client), self._clock.monotonic()
        for id_, place in former.sent.items():
            session.remember(Remembered((id_,), place.seq, place.ts, now, place.room))
        return session

    def _new(self, key: str, client: _H) -> Session[_H]:
        session = Session(key, client, self._origins.hold(client.address), self)
        self.grew(session, SESSION_COST)
        return session

    def key_for(self, shown: str) -> str:
        """Return the session key of a member that joins a room that several servers share.

        Any of them may have issued the key that the member shows, so it is used as it is if it has the form of a key.
        An invented key gives access to nothing.
        """
        return shown if _KEY.fullmatch(shown) else self._new_key()

    def issue(self, client: _H, session: Session[_H] | None, key: str = "") -> Session[_H]:
        """Give a session to a client that has come in: this one, or a new one, with this key if it is free."""
        if session is None:
            session = self._new(self._new_key() if not key or key in self._sessions else key, client)
        self._take_back(session)
        self._move(session, self._origins.hold(client.address))
        session.client = client
        client.session = session
        self._sessions[session.key] = self._by_hash[hash_key(session.key)] = session
        self._timers.clear(session)
        return session

    def reserve(self, session: Session[_H]) -> None:
        """Reserve the name of a member whose connection broke for `Limits.reserve` seconds; then the member leaves."""
        session.client.go_away()
        self._leave(session)

        def give_up(now: float) -> None:
            self._given_up(session.client)
            self.keep(session)

        self._timers.set(session, self._clock.monotonic() + self.limits.reserve, give_up)

    def seconds_left(self, client: _H) -> float | None:
        """Return the seconds that the name of a member without a connection stays reserved."""
        if client.session is None or not client.away:
            return None
        when = self._timers.when(client.session)
        return None if when is None else max(0.0, when - self._clock.monotonic())

    def keep(self, session: Session[_H]) -> None:
        """Keep a session for `Limits.remember` seconds after its member left, in case the member comes back."""
        if session.key in self._sessions:
            self._leave(session)
            self._timers.set(session, self._clock.monotonic() + self.limits.remember, lambda now: self.close(session))

    def over(self, client: _H, may_come_back: bool) -> None:
        """Keep or close the session of a client that has left; without effect if it has none."""
        if client.session is None:
            return
        if may_come_back:
            self.keep(client.session)
        else:
            self.close(client.session)

    def close(self, session: Session[_H]) -> None:
        """End a session for good."""
        if self._sessions.pop(session.key, None) is None:
            return
        del self._by_hash[hash_key(session.key)]
        self._timers.clear(session)
        session.client.session = None
        self._release(session)

    def close_all(self, code: str) -> None:
        """End all sessions; members without a connection leave for this reason of `DISCONNECTS`."""
        for session in list(self._sessions.values()):
            self.close(session)
            if session.client.away:
                session.client.disconnect(code)

    # Their memory

    def grew(self, session: _Remembered, by: int) -> None:
        """Add bytes to the size of a session, or remove them if `by` is negative."""
        session.size += by
        session.origin.session_bytes += by
        self.size += by
        self._look(session.origin)

    def _look(self, origin: Origin) -> None:
        """Have `run` called later if sessions must be forgotten: a session may be in use now."""
        if origin.session_bytes > self.limits.address_session_bytes and origin.sessions and not origin.trusted:
            self._crowded[origin] = None
            self._call(self)
        elif self.size > self.limits.session_bytes and self._left:
            self._call(self)

    def run(self, now: float) -> None:
        """Forget sessions until they take no more bytes than allowed."""
        crowded, self._crowded = self._crowded, {}
        for origin in crowded:
            while origin.session_bytes > self.limits.address_session_bytes and origin.sessions:
                self._forget(next(iter(origin.sessions)))
        while self.size > self.limits.session_bytes and self._left:
            self._forget(next(iter(self._left)))

    def _forget(self, session: object) -> None:
        if isinstance(session, Session):
            client = session.client
            self.close(session)
            if client.away:
                self._given_up(client)
        elif isinstance(session, Former):
            self._drop(session)

    def _leave(self, session: _Remembered) -> None:
        """Note that the member of a session is not connected."""
        if session not in self._left:
            if session.origin.sessions is None:
                session.origin.sessions = {}
            session.origin.sessions[session] = self._left[session] = None
            if isinstance(session, Session):
                session.forget_texts()
            self._look(session.origin)

    def _take_back(self, session: _Remembered) -> None:
        if self._left.pop(session, session) is None:
            assert session.origin.sessions is not None
            del session.origin.sessions[session]

    def _move(self, session: _Remembered, origin: Origin) -> None:
        """Count a session for another origin, which was held for it."""
        session.origin.session_bytes -= session.size
        self._origins.let_go(session.origin)
        session.origin = origin
        origin.session_bytes += session.size

    def _release(self, session: _Remembered) -> None:
        """Release the memory of a session that has ended."""
        self._take_back(session)
        session.origin.session_bytes -= session.size
        self.size -= session.size
        self._origins.let_go(session.origin)
