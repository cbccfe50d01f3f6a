"""`Room` and `Client` as a program sees them: views of the objects of the core with these names.

A view has the methods that are meant for programs, and leads to no other.
"""

from __future__ import annotations

from ..events import Message
from ..pending import Pending
from . import client as clients
from . import room as rooms
from .member import Member


class Client:
    """A member of a room: that of a connection or the program's own. Views of the same member are equal.

    None of its methods waits, and all of them belong on the event loop that the chat runs on.
    """

    __slots__ = ("_client",)

    def __init__(self, client: Member) -> None:
        assert isinstance(client, clients.Client)
        self._client = client

    def __repr__(self) -> str:
        return repr(self._client)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Client) and self._client is other._client

    def __hash__(self) -> int:
        return hash(self._client)

    @property
    def id(self) -> int:
        """A number that no other client of this chat has or had."""
        return self._client.id

    @property
    def name(self) -> str:
        """Its name, as it is shown."""
        return self._client.name

    @property
    def room(self) -> Room | None:
        """The room that it is in; None once it has left."""
        return None if self._client.room is None else Room(self._client.room)

    @property
    def address(self) -> str:
        """The host that it is connected from; empty for a program's own member."""
        return self._client.address

    def post(self, text: str) -> None:
        """Say one message, of any number of lines, without waiting for anybody.

        The text is cleaned (docs/reference/protocol.md, Text); an empty one is dropped. If the broker refuses the
        message later, the member is told, or it is logged if the member cannot be told. Raises `TextTooLong` and
        `Disconnected`.
        """
        self._client.post(text)

    def whisper(self, to: str, text: str) -> None:
        """Whisper to one member of the room, which is shown the text after everything that was delivered before.

        If the member is on another server that shares the room, this does not tell whether it got the whisper. Raises
        `NotDelivered` if nobody has that name or its lane is full, `TextTooLong` and `Disconnected`.
        """
        _raise_error_of(self._client.ask_whisper(to, text))

    def rename(self, name: str) -> None:
        """Take another name; everybody is told, and later messages have it.

        If several servers share the room, this takes effect later, or not at all. Raises `Refused` (``bad_name``,
        ``name_taken``) and `Disconnected`.
        """
        _raise_error_of(self._client.ask_rename(name))

    def disconnect(self, code: str, detail: str = "") -> None:
        """Remove it from the chat for a reason of `DISCONNECTS`, which it is told; without effect if it has left.

        Raises `KeyError` for a code that is not in the table.
        """
        self._client.disconnect(code, detail)


class Room:
    """A room of the chat. Views of the same room are equal until the room is closed and opened again."""

    __slots__ = ("_room",)

    def __init__(self, room: rooms.Room) -> None:
        self._room = room

    def __repr__(self) -> str:
        return repr(self._room)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Room) and self._room is other._room

    def __hash__(self) -> int:
        return hash(self._room)

    def __len__(self) -> int:
        return len(self._room)

    def __bool__(self) -> bool:
        return True  # also if nobody is in it: ``if chat.room(name)`` asks whether there is one

    @property
    def name(self) -> str:
        """Its name, as it was spelled first."""
        return self._room.name

    @property
    def epoch(self) -> str:
        """Identifies the log that the numbers belong to."""
        return self._room.epoch

    @property
    def seq(self) -> int:
        """The `seq` of its newest message or deletion; 0 before the first."""
        return self._room.seq

    @property
    def ts(self) -> int:
        """The `ts` of its newest message or deletion, in microseconds since 1970; 0 before the first."""
        return self._room.ts

    @property
    def members(self) -> list[Client]:
        """The members that are in the room through this server, sorted by name."""
        return [Client(member) for member in self._room.members]

    def member(self, name: str) -> Client | None:
        """Return the member with this name, in any spelling, if it is in the room through this server."""
        member = self._room.member(name)
        return None if member is None else Client(member)

    def first_members(self, most: int, after: str | None = None) -> list[str]:
        """Return the first `most` names behind `after`, sorted, of all members; also those of other servers."""
        return self._room.first_members(most, after)

    def history(self, messages: int) -> list[Message]:
        """Return the last `messages` messages, oldest first, as far as the room's own log still holds them.

        `ChatAPI.history` also returns older messages that a durable broker keeps.
        """
        return self._room.history(messages)


def _raise_error_of(pending: Pending[None]) -> None:
    """Raise the error, if it is there already."""
    if pending.error is not None:
        raise pending.error
