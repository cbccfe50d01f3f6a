"""The states of a connection, in one table.

Theory of operation. A connection has a life, and its two directions end independently of each other: TCP can be
half-closed, and a peer that reads nothing more may have sent lines that are still to be said. A `State` is therefore
three values: the life, whether the other side may still send (`receiving`), and whether it still hears (`sending`).
Nothing but an `Event` changes them, by the table `_EVENTS`::

    OPENING ──JOIN──▶ JOINED ──FINISH──▶ FLUSHING ──FLUSHED──▶ LINGERING ──CLOSE──▶ CLOSED
       └───────────────FINISH───────────────▲          CLOSE is possible in every state

- OPENING has no member yet. It ends by a deadline, or after `Limits.opening_bytes`.
- JOINED handles steps, as long as it does not wait. A connection waits for one thing at most (`Waiting`).
- FLUSHING sends what the member is still to be shown and the last words; LINGERING has ended its stream and waits for
  the other side's end: to close with unread input would make a reset that destroys what is in flight (RFC 1122,
  4.2.2.13). Both discard what they receive, and end by a deadline.
- If sending fails, the bytes that had come before are received to their end and handled. All that is sent is dropped.
- A connection that `is_over` has nothing more to send or to receive: close it.

An event that the table does not have for a state raises `KeyError`: it is a fault of the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum, auto
from functools import cache
from types import MappingProxyType
from typing import Final, NamedTuple


class Life(IntEnum):
    """How far a connection has come."""

    OPENING = 0
    JOINED = 1
    FLUSHING = 2
    LINGERING = 3
    CLOSED = 4


class Receiving(Enum):
    """Whether the other side may still send."""

    OPEN = auto()
    ENDED = auto()


class Sending(Enum):
    """Whether the other side still hears: not once sending has failed, or the server has ended its stream."""

    OPEN = auto()
    BROKEN = auto()
    SHUT = auto()


class Waiting(Enum):
    """The one thing that a connection waits for before it handles its next step. It receives nothing until then."""

    NOTHING = auto()
    RESULT = auto()
    """A `Pending`: what the broker or a hook answers, or that everything before this step was kept and shown."""
    ROOM = auto()
    """Its room, which waits for slow members or for the broker."""
    RATE = auto()
    """The time from which it may say more lines."""
    READER = auto()
    """The other side, which has to read its answers before it gets more."""
    TURN = auto()
    """Its turn: what it waited for is there, and the hub calls `Connection.run`."""


class Event(Enum):
    """An event that changes the state of a connection."""

    JOIN = auto()
    FINISH = auto()
    """The last words are chosen: after a goodbye, a refusal, a disconnect or the other side's end of stream."""
    FLUSHED = auto()
    """Everything was sent, the last words included, and the stream is ended."""
    PEER_ENDED = auto()
    SEND_FAILED = auto()
    CLOSE = auto()


class State(NamedTuple):
    """The state of a connection. Equal states are one object (`after`)."""

    life: Life
    receiving: Receiving
    sending: Sending
    has_joined: bool
    """Whether it was ever JOINED."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more can be sent or received."""
        return self.life is Life.LINGERING and (self.receiving is Receiving.ENDED or self.sending is Sending.BROKEN)


class _Change(NamedTuple):
    """The effect of an event: the new life, for each life in which it is possible, and the new end of a direction."""

    life: Mapping[Life, Life]
    receiving: Receiving | None = None
    sending: Sending | None = None


_SAME: Final[Mapping[Life, Life]] = {life: life for life in Life if life is not Life.CLOSED}

_EVENTS: Final = MappingProxyType(
    {
        Event.JOIN: _Change({Life.OPENING: Life.JOINED}),
        Event.FINISH: _Change(dict.fromkeys((Life.OPENING, Life.JOINED, Life.FLUSHING), Life.FLUSHING)),
        Event.FLUSHED: _Change({Life.FLUSHING: Life.LINGERING}, sending=Sending.SHUT),
        Event.PEER_ENDED: _Change(_SAME, receiving=Receiving.ENDED),
        Event.SEND_FAILED: _Change(_SAME, sending=Sending.BROKEN),
        Event.CLOSE: _Change(dict.fromkeys(_SAME, Life.CLOSED)),
    }
)

FIRST: Final = State(Life.OPENING, Receiving.OPEN, Sending.OPEN, has_joined=False)
"""The state of each connection that was accepted."""


@cache
def after(state: State, event: Event) -> State:
    """Return the state that follows. Raises `KeyError` if the event is not possible."""
    change = _EVENTS[event]
    return State(
        change.life[state.life],
        change.receiving or state.receiving,
        state.sending if state.sending is Sending.BROKEN else change.sending or state.sending,
        state.has_joined or event is Event.JOIN,
    )
