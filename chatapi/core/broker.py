"""The broker: the one seam between rooms and the world. It gives every message its place and brings it back.

A room hands over what its members did (`submit`) and gets it back, in the same order, each message with its `seq`
and `ts` (`Rooms.deliver`): at once from the in-process broker, later from one that has to wait for a disk or a network.
A broker may also keep what a room's own log forgets, and rooms themselves over the end of the process.
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
    """What a broker has of a room that begins to live, or goes on."""

    epoch: str
    """Names this life of its log."""
    name: str
    """The room's name in its first spelling."""
    seq: int = 0
    """The number of the newest message or deletion; 0 before the first."""
    ts: int = 0
    """Its time, in microseconds since 1970."""
    first: int = 1
    """The number of the oldest that is kept; `seq` + 1 where none is."""
    tail: Sequence[AnyKept] = ()
    """The newest ones, the oldest of them first, none missing up to `seq`."""


class Sent(NamedTuple):
    """Where that stands which a session has said under an id."""

    room: str
    """The room's key."""
    seq: int
    ts: int


class Rooms(Protocol):
    """What a broker speaks to: the rooms of a chat. Nothing here waits or raises."""

    limits: Limits
    """The numbers that bound the chat, such as how long ids are remembered."""

    def deliver(self, room: str, entries: Sequence[AnyEntry], ours: bool = True) -> None:
        """Entries of a room in their final order, each with its place: `ours`, as submitted here, or from elsewhere.

        Those from elsewhere have the hash of their session.
        """
        ...

    def refuse(self, room: str, entries: Sequence[AnyKept], reason: Refused) -> None:
        """These entries were not taken and never will be: their authors are told."""
        ...

    def known(self, room: str, said: Said, seq: int, ts: int) -> None:
        """This message was said before, under the same session and id: it has that place, and gets no other."""
        ...

    def wake(self) -> None:
        """Have `Broker.collect` called soon, if nothing is under way that ends with that."""
        ...

    def ring(self) -> None:
        """The same, from another thread: the one call here that is allowed there."""
        ...

    def trimmed(self, room: str, first: int) -> None:
        """Messages with a number below `first` are not kept any more."""
        ...


class SharedRooms(Rooms, Protocol):
    """What a broker speaks to whose rooms are shared by several chats, each of which is a *node*."""

    def elsewhere(self, room: str, key: str, name: str | None) -> None:
        """Whoever has the name of this key is on another node; nobody there has it any more where `name` is None."""
        ...

    def renamed(self, room: str, key: str, name: str) -> None:
        """The member with this key, here or elsewhere, is called `name` from here on."""
        ...

    def lost(self, room: str, key: str, code: str) -> None:
        """The name of a member here is another's now; `code` is that of `DISCONNECTS` which says how."""
        ...

    def whispered(self, room: str, key: str, whisper: Whisper) -> str:
        """A whisper for a member here; returns why it could not be handed over, or nothing."""
        ...

    def cut(self, room: str) -> None:
        """Something is missing here that cannot be had: the members here cannot go on, and the room is closed."""
        ...

    def away(self, rooms: Sequence[str], detail: str) -> None:
        """What keeps these rooms does not answer, and `detail` says so to a person; empty, it answers again."""
        ...


class RoomCount(NamedTuple):
    """A room that somebody is in."""

    key: str
    name: str
    members: int


class Presence(Protocol):
    """What a broker has besides where its rooms are shared: names that are unique, and rosters that are true, on all
    nodes. Joins, leaves and renames are told through `SharedRooms`, and come back as entries to be delivered.

    As with `Broker`, nothing here waits.
    """

    def claim(self, room: str, name: str, session: str, quiet: bool) -> Pending[None]:
        """Somebody is about to come into an open room: give them the name, if it is free or the session's own.

        `session` is empty for who cannot come back; `quiet` says that others are not told of it.
        """
        ...

    def release(self, room: str, key: str, reason: str, quiet: bool) -> None:
        """Who had this name here has left."""
        ...

    def rename(self, room: str, key: str, entry: NameChanged, session: str) -> Pending[None]:
        """Give a member here another name; `entry` says which, and is delivered where that took place."""
        ...

    def whisper(self, room: str, key: str, whisper: Whisper, about: str) -> Pending[None]:
        """Hand a whisper to a member elsewhere; whispers with the same `about`, if any, are handed over once.

        Fails with `NotDelivered`.
        """
        ...

    def rooms(self) -> Pending[Sequence[RoomCount]]:
        """Every room that somebody is in, on any node, in no order."""
        ...


class Broker(Protocol):
    """What rooms need from whoever keeps their order.

    All methods except `run` are synchronous and never wait. A call that takes time returns a `Pending`, whose result is
    set on the event loop that `run` was started on, at once or later. It fails with `Refused`, if nothing else is said.
    """

    keeps: bool
    """Whether it keeps what a room's own log forgets, so that `read` and `sent` find something."""

    @property
    def secret(self) -> bytes:
        """The bytes that sign the keys of sessions: 16 to 64 that nobody else can guess, the same in every life of the
        chat and on each of its nodes, known once `run` has called `started`. Empty if sessions end with the process."""
        ...

    @property
    def presence(self) -> Presence | None:
        """Who is there, where rooms are shared with other nodes; None where this chat has them to itself."""
        ...

    def attach(self, rooms: SharedRooms) -> None:
        """Learn whom to speak to; called once, before anything else."""
        ...

    async def run(self, started: Callable[[], None]) -> None:
        """Do what takes time, until cancelled; call `started` once everything else here can be called.

        Raises where it cannot begin. What is still on its way when it is cancelled is either delivered or refused.
        """
        ...

    def collect(self) -> None:
        """Tell what has come back meanwhile, and begin with what was submitted, if that is better done together.

        Called on the event loop, at the beginning and the end of every round, and soon after `Rooms.ring`.
        """
        ...

    def open(self, room: str, name: str, epoch: str, messages: int, max_bytes: int) -> Pending[Past]:
        """A room begins to live: tell what there is of it.

        `name` and `epoch` are for a room that nothing is known of. The tail is what `read` would give: as many entries
        as hold `messages` messages, and about `max_bytes`.
        """
        ...

    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        """Take entries of an open room; each is delivered or refused once, those delivered in the order submitted.

        Only a `KeptEntry` can be refused.
        """
        ...

    def read(self, room: str, before: int, messages: int, max_bytes: int) -> Pending[Sequence[AnyKept]]:
        """The newest entries of an open room with a number below `before`, the oldest of them first, none missing.

        As many as hold `messages` messages, and about `max_bytes`. The first and the last run may hold more than that:
        who asked takes what it needs of them.
        """
        ...

    def sent(self, room: str, session: str) -> Pending[Mapping[str, Sent]]:
        """What a session has said under which ids, within `Limits.remember` seconds: in this open room, at least.

        An empty id stands for the session itself, where it is remembered though it has said nothing.
        """
        ...

    def close(self, room: str) -> None:
        """A room is no longer looked at; it has nothing submitted that is not delivered or refused."""
        ...


def unavailable(detail: str, *, sure: bool = True) -> Refused:
    """The reason where a broker cannot take or give anything now, or (not `sure`) does not say whether it has."""
    return Refused(RefusalCode.UNAVAILABLE, detail, sure=sure)
