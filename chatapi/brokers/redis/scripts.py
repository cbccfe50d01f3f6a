"""The Lua scripts that run in Redis: their sources, the keys of a room, and one room's part of a script call."""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

ROOM: Final = "room"
NODES: Final = "nodes"
_FILES: Final = {ROOM: ("room_log", "room_roster", "room"), NODES: ("nodes",)}

Value: TypeAlias = str | bytes | int
"""An argument of a command or a script."""


class Keys:
    """The keys of a room in Redis. The part in braces keeps them together on one shard of a cluster."""

    __slots__ = ("_room", "channel", "tag")

    def __init__(self, prefix: str, tag: str, db: int) -> None:
        self.tag: str = tag
        self._room = f"{prefix}:{{{tag}}}"
        self.channel: str = f"{self._room}:{db}" if db else self._room  # all databases share the channels

    def common(self) -> list[str]:
        """Return the keys that every command of the script gets."""
        room = self._room
        return [f"{room}:meta", f"{room}:log", f"{room}:mended", f"{room}:who", self.channel, f"{room}:sent:"]

    def sent(self, session: str) -> str:
        """Return the key of the ids that a session, given by its hash, has used."""
        return f"{self._room}:sent:{session}"


class Section(NamedTuple):
    """One room's part of a call of the script of rooms."""

    command: str
    keys: Sequence[str]
    arguments: Sequence[Value]
    answer_bytes: int = 0
    """Approximate size of the answer, if it may be large."""


def source(name: str) -> str:
    """Return the source of a script, whose files are joined in their order."""
    folder = importlib.resources.files("chatapi.brokers.redis").joinpath("lua")
    return "".join(folder.joinpath(f"{file}.lua").read_text() for file in _FILES[name])
