"""Interfaces: members as a room needs them (`Member`), and connections and bots as members need them (`Outlet`)."""

from __future__ import annotations

from typing import Protocol

from ..errors import Disconnect, Refused
from ..events import Whisper
from .entries import NameChanged, Said
from .log import Log
from .style import Style


class Outlet(Protocol):
    """The owner of a client: a connection, or a bot of the program. The client tells it what happens."""

    @property
    def peer(self) -> Peer | None:
        """This object if it is a connection, which fan-out passes serve; None for a program's own member."""
        ...

    def wake(self) -> None:
        """Note that `Client.read` has something to return."""
        ...

    def ended(self, reason: Disconnect, detail: str) -> None:
        """Note that the client has been removed from its room."""
        ...

    def notice(self, code: str, detail: str) -> None:
        """Tell the member whether the server is ``unavailable`` or ``available`` now."""
        ...

    def not_kept(self, said: Said, reason: Refused) -> None:
        """Tell the member that the broker refused its messages."""
        ...


class Peer(Outlet, Protocol):
    """A connection. Its methods do not wait."""

    def send(self, data: bytes, /) -> int:
        """Send with the socket's own method `send`. Fan-out passes call this for members that are up to date."""
        ...

    def buffer(self, data: bytes | memoryview) -> None:
        """Hold the bytes that the socket refused, to send them first when it takes bytes again."""
        ...

    def broken(self) -> None:
        """Note that sending has failed."""
        ...

    def crashed(self) -> None:
        """End the connection because of the exception that is being handled, and log that."""
        ...

    def already_sent(self, said: Said) -> None:
        """Tell the member that its session has sent this message before, under the same id; `said` has that place."""
        ...

    def replaced(self) -> None:
        """Read nothing more from the client: another connection has taken it over."""
        ...

    def shows_past(self, messages: int, size: int) -> None:
        """Note that the client is about to be shown so many messages again, of about `size` bytes."""
        ...


class Member(Protocol):
    """A member as its room knows it: a `Client`."""

    id: int
    name: str
    key: str
    address: str
    style: Style
    echo: bool
    away: bool
    position: int
    outlet: Outlet
    peer: Peer | None

    @property
    def room(self) -> object:
        """The room that it is in; None before it has joined and once it has left."""
        ...

    @property
    def oldest(self) -> int:
        """The oldest position of the log that is still to be shown to it."""
        ...

    def enter(self, log: Log) -> None:
        """Read this log from its head on."""
        ...

    def part(self) -> None:
        """Be in no room any more; entries that the log holds now are still read."""
        ...

    def awaits(self, renamed: NameChanged) -> None:
        """Note its rename, which may have no place in the log yet."""
        ...

    def hear(self, whisper: Whisper) -> str:
        """Take a whisper into the lane, or return why it cannot be taken."""
        ...

    def disconnect(self, code: str, detail: str = "") -> None:
        """Leave the room for a reason of the table `DISCONNECTS`."""
        ...
