"""The interface of brokers, which give messages their order and may keep them; docs/reference/broker.md explains it.

A room submits entries, and the broker delivers them in the order of the room, each message with its `seq` and `ts`: at
once if the broker is in memory, later if it waits for a disk or a network. A broker may also keep entries that the
room's own log forgets, so that rooms survive the end of the process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from ..errors import RefusalCode, Refused
from ..events import Whisper
from ..limits import Limits
from ..pending import Pending
from .entries import AnyEntry, AnyKept, NameChanged, Said


class Past(NamedTuple):
    """The state of a room when it is opened."""

    epoch: str
    """Identifies the log that the numbers belong to."""
    name: str
    """The room's name, as it was spelled first."""
    seq: int = 0
    """The number of the newest message or deletion; 0 before the first."""
    ts: int = 0
    """Its time, in microseconds since 1970."""
    first: int = 1
    """The oldest number that is kept; `seq` + 1 if none is."""
    tail: Sequence[AnyKept] = ()
    """The newest entries, oldest first, none missing up to `seq`."""


class Sent(NamedTuple):
    """Position of a message, by its client-chosen id."""

    room: str
    """The room's key."""
    seq: int
    ts: int


class Rooms(Protocol):
    """The rooms of a chat, as a broker sees them. No method waits or raises."""

    limits: Limits
    """The limits of the chat, such as how long ids are remembered."""

    def deliver(self, room: str, entries: Sequence[AnyEntry], ours: bool = True) -> None:
        """Deliver entries of a room in their final order, each with its position.

        `ours` says that these entries were submitted here. Entries of other nodes have the hash of their session.
        """
        ...

    def refuse(self, room: str, entries: Sequence[AnyKept], reason: Refused) -> None:
        """Tell the authors of these entries that they were not kept and never will be."""
        ...

    def already_sent(self, room: str, said: Said, seq: int, ts: int) -> None:
        """Tell the author that this session sent a message under this id before, which has that position."""
        ...

    def wake(self) -> None:
        """Have `Broker.collect` called soon, unless a round is under way, which ends with that call."""
        ...

    def wake_threadsafe(self) -> None:
        """Do the same from another thread. No other method may be called there."""
        ...

    def trimmed(self, room: str, first: int) -> None:
        """Take note that messages with a number below `first` are not kept any more."""
        ...


class SharedRooms(Rooms, Protocol):
    """The rooms of a chat that shares them with other chats. Each chat is a *node*."""

    def remote_member_changed(self, room: str, key: str, name: str | None) -> None:
        """Take note that the member with this key is on another node, or, if `name` is None, that no member is."""
        ...

    def member_renamed(self, room: str, key: str, name: str) -> None:
        """Take note that the member with this key, on any node, has another name."""
        ...

    def name_lost(self, room: str, key: str, code: str) -> None:
        """Disconnect a member here, because another member has its name; `code` is one of `DISCONNECTS`."""
        ...

    def deliver_whisper(self, room: str, key: str, whisper: Whisper) -> str:
        """Give a whisper to a member here; return the reason if that is impossible, otherwise an empty text."""
        ...

    def disconnect_room(self, room: str) -> None:
        """Disconnect the members here and close the room, because messages are missing that nothing can restore."""
        ...

    def availability_changed(self, rooms: Sequence[str], detail: str) -> None:
        """Tell members that messages of these rooms cannot be kept, and why; or that they can, if `detail` is empty."""
        ...


class RoomCount(NamedTuple):
    """A room that has members."""

    key: str
    name: str
    members: int


class Presence(Protocol):
    """Unique names and correct rosters on all nodes, for rooms that are shared.

    Joins, leaves and renames come back as entries to deliver, and through `SharedRooms`. As with `Broker`, no method
    waits.
    """

    def claim(self, room: str, name: str, session: str, quiet: bool) -> Pending[None]:
        """Give a name in an open room to a member that is about to join, if it is free or the session's own.

        `session` is empty for a member that cannot resume. `quiet` says that the join is not shown.
        """
        ...

    def release(self, room: str, key: str, reason: str, quiet: bool) -> None:
        """Free the name of a member here that has left."""
        ...

    def rename(self, room: str, key: str, entry: NameChanged, session: str) -> Pending[None]:
        """Give a member here another name; `entry` says which, and is delivered in the room's order."""
        ...

    def whisper(self, room: str, key: str, whisper: Whisper, about: str) -> Pending[None]:
        """Deliver a whisper to a member of another node; whispers with the same `about`, if any, are delivered once.

        Fails with `NotDelivered`.
        """
        ...

    def rooms(self) -> Pending[Sequence[RoomCount]]:
        """Return every room that has members on any node, in no order."""
        ...


class Broker(Protocol):
    """A broker, as the rooms of a chat need it.

    All methods except `run` are synchronous and never wait. A call that takes time returns a `Pending`, whose result is
    set on the event loop that `run` was started on, at once or later. It fails with `Refused` unless the method says
    otherwise.
    """

    keeps: bool
    """Whether the broker keeps entries that a room's own log forgets, so that `read` and `sent` can find them."""

    @property
    def secret(self) -> bytes:
        """The 16 to 64 random bytes that sign session keys: the same after each restart and on each node.

        They are there once `run` has called `started`. They are empty if sessions end with the process.
        """
        ...

    @property
    def presence(self) -> Presence | None:
        """The names and rosters of rooms that are shared with other nodes; None if they are not shared."""
        ...

    def attach(self, rooms: SharedRooms) -> None:
        """Set the rooms that the broker delivers to. Called once, before anything else."""
        ...

    async def run(self, started: Callable[[], None]) -> None:
        """Do the work that takes time, until cancelled; call `started` when all other methods can be called.

        Raises an error if the broker cannot start. When it is cancelled, it delivers or refuses everything submitted.
        """
        ...

    def collect(self) -> None:
        """Deliver results that have come, and begin with entries that were submitted, if they are processed together.

        Called on the event loop, at the beginning and the end of every round, and soon after `Rooms.wake_threadsafe`.
        """
        ...

    def open(self, room: str, name: str, epoch: str, messages: int, max_bytes: int) -> Pending[Past]:
        """Open a room, and return its state.

        `name` and `epoch` are for a room that has no log so far. The tail is what `read` would return: entries with
        `messages` messages, and about `max_bytes`.
        """
        ...

    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        """Take entries of an open room; deliver or refuse each one once, and deliver in the order submitted.

        Only a `KeptEntry` can be refused.
        """
        ...

    def read(self, room: str, before: int, messages: int, max_bytes: int) -> Pending[Sequence[AnyKept]]:
        """Return the newest entries of an open room with a number below `before`, oldest first, none missing.

        They hold `messages` messages, and about `max_bytes`. The first and the last run may hold more messages than
        are needed, of which the caller takes its part.
        """
        ...

    def sent(self, room: str, session: str) -> Pending[Mapping[str, Sent]]:
        """Return the ids that a session has used in this open room, and maybe in others, with their positions.

        Ids older than `Limits.remember` seconds need not be there. The empty id stands for the session itself, if the
        broker remembers it although it has sent nothing.
        """
        ...

    def close(self, room: str) -> None:
        """Close a room. Everything that it submitted has been delivered or refused."""
        ...


def unavailable(detail: str, *, sure: bool = True) -> Refused:
    """Return the refusal of a broker that cannot keep or give anything now; without `sure`, it may have kept it."""
    return Refused(RefusalCode.UNAVAILABLE, detail, sure=sure)
