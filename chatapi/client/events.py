"""The client library's own events, beside those of the room, and the errors that only the client library raises.

::

    ChatError
    ├── Unreachable      no server answered at the address, or it did not answer the handshake
    ├── SendRefused      the server refused a request (has a `code`)
    ├── EventsUnread     too many events wait for a program that does not read them
    └── ProtocolError    the server does not follow the protocol
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from ..errors import ChatError, Disconnect
from ..events import Event


class State(str, Enum):
    """The stage of a connection."""

    CONNECTING = "connecting"
    """Before the first welcome."""
    CONNECTED = "connected"
    """In its room."""
    RECONNECTING = "reconnecting"
    """The connection was lost, and is being made again."""
    CLOSED = "closed"
    """Ended for good."""

    __str__ = str.__str__


@dataclass(frozen=True, slots=True)
class Welcome:
    """This member is in a room: the first event of a connection, and the answer to a `join`."""

    name: str
    """The member's own name, as it is shown."""
    room: str
    """The room's name, as it is shown."""
    epoch: str
    """Names one life of the room's log: a `seq` means the same message only within one epoch."""
    seq: int
    """The number of the newest message in the room; 0 if there is none."""
    ts: int
    """That message's `ts`: microseconds since 1970."""
    members: tuple[str, ...]
    """The members of the room, this one included: sorted, at most 100 of them."""
    count: int
    """The number of members of the room."""
    limits: Mapping[str, object] = field(default_factory=dict, hash=False)
    """The server's limits, by name."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection broke and is being made again; `Recovered` or `Gap` follows, or the iteration raises."""

    reason: Disconnect
    """A row of `chatapi.DISCONNECTS`, such as ``connection_lost``."""
    detail: str
    """The reason, as text for people."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """The connection is back, and every missed message follows, none twice.

    Missed joins, leaves and renames do not follow: `welcome` has the present members.
    """

    welcome: Welcome


@dataclass(frozen=True, slots=True)
class Gap:
    """The connection is back, but messages may be missing: the events go on after ``welcome.seq``."""

    reason: str
    """``unknown_epoch`` (the room has another log), ``trimmed`` (the missed messages are not kept any more) or
    ``diverged`` (the log has lost the last message that this client saw)."""
    seq: int
    """The number of the last message that this client saw, in the old epoch."""
    welcome: Welcome


@dataclass(frozen=True, slots=True)
class Notice:
    """The server cannot keep messages for now, or can again: for people to read; a program need not act on it.

    The server has sent this notice, or it has refused a message of this client, and then kept it.
    """

    code: str
    """``unavailable`` (messages wait) or ``available``."""
    detail: str
    """The reason, as text for people."""


News: TypeAlias = Event | Welcome | Lost | Recovered | Gap | Notice
"""Everything that ``async for event in room`` can yield."""


class Unreachable(ChatError):
    """No server could be reached at the address, or it did not answer the handshake."""


class SendRefused(ChatError):
    """The server refused a request: `code` is the reason for programs, `detail` the text for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class EventsUnread(ChatError):
    """Too many events wait to be read, so the client no longer waits for the answer behind them.

    It is unknown whether the message was kept. A program that only sends connects with ``events=False``.
    """


class ProtocolError(ChatError):
    """The server sent something that does not follow the protocol: it may be another kind of server."""
