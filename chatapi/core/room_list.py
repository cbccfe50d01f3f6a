"""The rooms that have members, sorted, for `/rooms` and the frame `rooms`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from ..clock import Clock
from ..errors import Refused
from ..pending import Pending
from .broker import Presence, RoomCount
from .room import Room
from .sorted_keys import SortedKeys

FRESH: Final = 1.0
"""Seconds for which a list of the rooms of all servers is used, because sorting it takes longer than an answer."""

Page: TypeAlias = tuple[Sequence[RoomCount], int]
"""Some rooms, and the number of all rooms."""


class RoomList:
    """The rooms that have members. A page of it costs as much as the page, however many rooms there are.

    Changes in the rooms of this server are in it at once. If several servers share the rooms, the broker is asked for
    those of the others at most once in `FRESH` seconds, for all clients together.
    """

    __slots__ = ("_clock", "_keys", "_presence", "_read_at", "_reading", "_rooms", "_shared")

    def __init__(self, rooms: Mapping[str, Room], presence: Callable[[], Presence | None], clock: Clock) -> None:
        self._rooms, self._presence, self._clock = rooms, presence, clock
        self._keys = SortedKeys()
        self._shared: dict[str, RoomCount] = {}  # the rooms that have members only on other servers
        self._read_at = float("-inf")
        self._reading: Pending[None] | None = None  # while the broker is asked for its list

    def changed(self, room: Room) -> None:
        """Note that the first member here came into a room, or that the last one left it."""
        if not room.roster.here:
            self._shared.pop(room.key, None)
            if len(room):  # it has members on other servers
                self._shared[room.key] = RoomCount(room.key, room.name, len(room))
        if len(room):
            self._keys.add(room.key)
        else:
            self._keys.discard(room.key)

    def page(self, after: str | None, most: int) -> Pending[Page]:
        """Return the first `most` rooms whose keys come after `after`, or of all. Fails with `Refused`."""
        return self._refresh().map(
            lambda _: ([self._count(key) for key in self._keys.after(after, most)], len(self._keys))
        )

    def _refresh(self) -> Pending[None]:
        """Ask the broker for the rooms of all servers, if the list is older than `FRESH`."""
        presence = self._presence()
        if presence is None or self._clock.monotonic() - self._read_at < FRESH:
            return Pending.resolved(None)
        if self._reading is not None:
            return self._reading
        reading = self._reading = Pending()
        presence.rooms().then(lambda rooms: self._read(rooms, reading))
        return reading

    def _count(self, key: str) -> RoomCount:
        room = self._rooms.get(key)
        return RoomCount(key, room.name, len(room)) if room is not None and room.roster.here else self._shared[key]

    def _read(self, listed: Pending[Sequence[RoomCount]], reading: Pending[None]) -> None:
        """Take the broker's list of all rooms, except rooms that have members here, which are known better here."""
        self._reading = None
        try:
            rooms = listed.result()
        except Refused as reason:
            reading.fail(reason)
            return
        self._read_at = self._clock.monotonic()
        attended = {key for key, room in self._rooms.items() if room.roster.here}
        self._shared = {room.key: room for room in rooms if room.key not in attended}
        self._keys = SortedKeys([*self._shared, *attended])
        reading.resolve(None)
