"""What the client library tells its program beside the room's own events, and the errors that it alone raises.

::

    ChatError
    ├── Unreachable      no server answered at the address, or it did not answer the handshake
    ├── SendRefused      the server turned down what was sent (has a `code`)
    ├── EventsUnread     too many events wait for a program that does not read them
    └── ProtocolError    what came is not what the protocol says
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from ..errors import ChatError, Disconnect
from ..events import Event


class State(str, Enum):
    """Where a connection is in its life."""

    CONNECTING = "connecting"
    """Not yet welcomed for the first time."""
    CONNECTED = "connected"
    """In its room."""
    RECONNECTING = "reconnecting"
    """The connection was lost, and is being made again."""
    CLOSED = "closed"
    """It has ended for good."""

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
    """The number of the newest message in the room; 0 where there is none."""
    ts: int
    """That message's `ts`: microseconds since 1970."""
    members: tuple[str, ...]
    """Who is in the room, this member included: sorted, at most 100 of them."""
    count: int
    """How many are in the room."""
    limits: Mapping[str, object] = field(default_factory=dict, hash=False)
    """The server's limits, by name."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The connection broke and is being made again; `Recovered` or `Gap` follows, or the iteration raises."""

    reason: Disconnect
    """A row of `chatapi.DISCONNECTS`, such as ``connection_lost``."""
    detail: str
    """What happened, for a person."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """The connection is back, and every message that was missed follows, none twice.

    Joins, leaves and renames are not made up for: `welcome` says who is there now.
    """

    welcome: Welcome


@dataclass(frozen=True, slots=True)
class Gap:
    """The connection is back, but what was said in between is unknown: the events go on after ``welcome.seq``."""

    reason: str
    """``unknown_epoch`` (the room's log is another one), ``trimmed`` (what was missed is not kept any more) or
    ``diverged`` (the log lost what was last seen)."""
    seq: int
    """The last message that was seen, in the old epoch."""
    welcome: Welcome


@dataclass(frozen=True, slots=True)
class Notice:
    """The server cannot keep what is said for now, or can again: worth telling people; no program has to act on it.

    The server has said so itself, or it has refused a message of one's own, and then kept it.
    """

    code: str
    """``unavailable`` (what is sent waits) or ``available``."""
    detail: str
    """What happened, for a person."""


News: TypeAlias = Event | Welcome | Lost | Recovered | Gap | Notice
"""Everything that ``async for event in room`` can yield."""


class Unreachable(ChatError):
    """No server could be reached at the address, or what is there did not answer the handshake."""


class SendRefused(ChatError):
    """The server turned down what was sent; `code` says why, `detail` says it to a person."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class EventsUnread(ChatError):
    """So many events wait to be read that the answer behind them is not waited for any longer.

    Whether what was sent has been kept is unknown. A program that only sends connects with ``events=False``.
    """


class ProtocolError(ChatError):
    """What the server sent is not what the protocol says: what is there may be another kind of server."""
