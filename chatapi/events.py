"""The public events of a room, as a bot gets them from ``async for``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Message:
    """Somebody said something to the room."""

    seq: int
    """The message's number in its room's log: 1, 2, 3 … without a hole."""
    ts: int
    """When the log took it: microseconds since 1970, growing from message to message."""
    name: str
    text: str
    """Its text, without control characters; from a program it may have more than one line."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Somebody came into the room."""

    seq: int
    """The `seq` of the last message before it."""
    name: str


@dataclass(frozen=True, slots=True)
class Left:
    """Somebody left the room."""

    seq: int
    """The `seq` of the last message before it."""
    name: str
    reason: str
    """A code of `chatapi.DISCONNECTS`, or ``"moved"`` if the member went to another room."""


@dataclass(frozen=True, slots=True)
class Renamed:
    """A member has another name from here on. A member is told of its own rename too."""

    seq: int
    """The `seq` of the last message before it."""
    name: str
    to: str


@dataclass(frozen=True, slots=True)
class Whisper:
    """Somebody said something to this member alone."""

    ts: int
    """When it was said: microseconds since 1970."""
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """A message was deleted: it keeps its number, and its text is gone."""

    seq: int
    """The deletion's own number in its room's log: it counts like a message."""
    ts: int
    """When the log took it: microseconds since 1970."""
    name: str
    """The name that deleted it."""
    target: int
    """The `seq` of the message."""


@dataclass(frozen=True, slots=True)
class History:
    """A piece of a room's history."""

    messages: tuple[Message, ...]
    """In the room's order, the oldest first."""
    more: bool
    """Whether there are older ones; ``before=messages[0].seq`` asks for them."""


Event: TypeAlias = Message | Joined | Left | Renamed | Whisper | Deleted
"""Everything that ``async for event in bot`` can yield."""
