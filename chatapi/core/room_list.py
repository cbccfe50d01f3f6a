"""The rooms that somebody is in, sorted: what `/rooms` and the frame `rooms` show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from ..clock import Clock
from ..errors import Refused
from .broker import Presence, RoomCount
from .room import Room
from .sorted_keys import SortedKeys

FRESH: Final = 1.0
"""Seconds for which a list of the rooms of all servers is used: sorting it costs more than answering from it."""

Listed: TypeAlias = Callable[[tuple[Sequence[RoomCount], int] | Refused], None]
"""Gets a page of rooms and how many rooms there are in all, or the reason why they are not known."""


class RoomList:
    """A page of it costs as much as the page, however many rooms there are.

    What happens in the rooms of this server is in it at once. Where several servers share the rooms, the broker is
    asked for those of the others, for everybody together and at most once in `FRESH` seconds.
    """

    __slots__ = ("_clock", "_keys", "_presence", "_read_at", "_rooms", "_shared", "_waiting")

    def __init__(self, rooms: Mapping[str, Room], presence: Callable[[], Presence | None], clock: Clock) -> None:
        self._rooms, self._presence, self._clock = rooms, presence, clock
        self._keys = SortedKeys()
        self._shared: dict[str, RoomCount] = {}  # the rooms among them that nobody is in through this server
        self._read_at = float("-inf")
        self._waiting: list[Callable[[Refused | None], None]] = []  # those that wait for the broker's list

    def changed(self, room: Room) -> None:
        """The first member here came into a room, or the last one left it."""
        if not room.attended:
            self._shared.pop(room.key, None)
            if len(room):  # members of other servers
                self._shared[room.key] = RoomCount(room.key, room.name, len(room))
        if len(room):
            self._keys.add(room.key)
        else:
            self._keys.discard(room.key)

    def page(self, after: str | None, most: int, then: Listed) -> None:
        """Call `then`, at once or later, with the first `most` rooms whose keys come after `after`, or of all."""

        def answer(reason: Refused | None) -> None:
            keys = self._keys.after(after, most)
            then(reason or ([self._count(key) for key in keys], len(self._keys)))

        presence = self._presence()
        if presence is None or self._clock.monotonic() - self._read_at < FRESH:
            answer(None)
            return
        self._waiting.append(answer)
        if len(self._waiting) == 1:
            presence.rooms(self._read)

    def _count(self, key: str) -> RoomCount:
        room = self._rooms.get(key)
        return RoomCount(key, room.name, len(room)) if room is not None and room.attended else self._shared[key]

    def _read(self, rooms: Sequence[RoomCount] | Refused) -> None:
        """The broker tells of all rooms; those that somebody is in through this server are better known here."""
        if not isinstance(rooms, Refused):
            self._read_at = self._clock.monotonic()
            attended = {key for key, room in self._rooms.items() if room.attended}
            self._shared = {room.key: room for room in rooms if room.key not in attended}
            self._keys = SortedKeys([*self._shared, *attended])
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then(rooms if isinstance(rooms, Refused) else None)
