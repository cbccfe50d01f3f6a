"""A broker for tests that knows whether the real broker has answered everything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from ..core.broker import Broker, Past, Presence, RoomCount, Sent, SharedRooms
from ..core.entries import AnyEntry, AnyKept, Departed, NameChanged, Said
from ..core.names import naming_of
from ..errors import Refused
from ..events import Whisper
from ..limits import Limits
from ..pending import Pending

_T = TypeVar("_T")


class CountingBroker:
    """Stands between a chat and its broker, and counts the entries and questions without an answer.

    It calls `answered` after each answer.
    """

    def __init__(self, broker: Broker, answered: Callable[[], None]) -> None:
        self._broker, self._answered = broker, answered
        self._rooms: SharedRooms | None = None
        self.limits: Limits
        self.keeps: bool = broker.keeps
        self.presence = None if broker.presence is None else _CountingPresence(broker.presence, self)
        self.run = broker.run
        self.close = broker.close
        self.collect = broker.collect
        self.unanswered = 0

    @property
    def secret(self) -> bytes:
        return self._broker.secret

    def attach(self, rooms: SharedRooms) -> None:
        self._rooms, self.limits = rooms, rooms.limits
        self.wake, self.wake_threadsafe, self.trimmed = rooms.wake, rooms.wake_threadsafe, rooms.trimmed
        self.remote_member_changed, self.member_renamed = rooms.remote_member_changed, rooms.member_renamed
        self.name_lost, self.deliver_whisper = rooms.name_lost, rooms.deliver_whisper
        self.disconnect_room, self.availability_changed = rooms.disconnect_room, rooms.availability_changed
        self._broker.attach(self)

    def open(self, room: str, name: str, epoch: str, messages: int, max_bytes: int) -> Pending[Past]:
        return self.counted(self._broker.open(room, name, epoch, messages, max_bytes))

    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        self.unanswered += len(entries)
        self._broker.submit(room, entries)

    def read(self, room: str, before: int, messages: int, max_bytes: int) -> Pending[Sequence[AnyKept]]:
        return self.counted(self._broker.read(room, before, messages, max_bytes))

    def sent(self, room: str, session: str) -> Pending[Mapping[str, Sent]]:
        return self.counted(self._broker.sent(room, session))

    def deliver(self, room: str, entries: Sequence[AnyEntry], ours: bool = True) -> None:
        assert self._rooms is not None
        if ours:
            self.unanswered -= len(entries)
        elif self.presence is not None:
            self.presence.delivered(room, entries)
        self._rooms.deliver(room, entries, ours)
        self._answered()

    def refuse(self, room: str, entries: Sequence[AnyKept], reason: Refused) -> None:
        assert self._rooms is not None
        self.unanswered -= len(entries)
        self._rooms.refuse(room, entries, reason)
        self._answered()

    def already_sent(self, room: str, said: Said, seq: int, ts: int) -> None:
        assert self._rooms is not None
        self.unanswered -= 1
        self._rooms.already_sent(room, said, seq, ts)
        self._answered()

    def counted(self, answer: Pending[_T]) -> Pending[_T]:
        self.unanswered += 1

        def answered(_: Pending[_T]) -> None:
            self.unanswered -= 1
            self._answered()

        answer.then(answered)
        return answer


class _CountingPresence:
    """Does the same for the broker's `presence`.

    A leave counts as unanswered until the broker delivers it; a quiet leave, which it does not deliver, never counts.
    """

    def __init__(self, presence: Presence, counting: CountingBroker) -> None:
        self._presence, self._counting = presence, counting
        self._leaving: set[tuple[str, str]] = set()

    def claim(self, room: str, name: str, session: str, quiet: bool) -> Pending[None]:
        return self._counting.counted(self._presence.claim(room, name, session, quiet))

    def release(self, room: str, key: str, reason: str, quiet: bool) -> None:
        if not quiet:
            self._counting.unanswered += 1
            self._leaving.add((room, key))
        self._presence.release(room, key, reason, quiet)

    def rename(self, room: str, key: str, entry: NameChanged, session: str) -> Pending[None]:
        return self._counting.counted(self._presence.rename(room, key, entry, session))

    def whisper(self, room: str, key: str, whisper: Whisper, about: str) -> Pending[None]:
        return self._counting.counted(self._presence.whisper(room, key, whisper, about))

    def rooms(self) -> Pending[Sequence[RoomCount]]:
        return self._counting.counted(self._presence.rooms())

    def delivered(self, room: str, entries: Sequence[AnyEntry]) -> None:
        for entry in entries:
            key = naming_of(room).key(entry.name)
            if isinstance(entry, Departed) and (room, key) in self._leaving:
                self._leaving.remove((room, key))
                self._counting.unanswered -= 1
