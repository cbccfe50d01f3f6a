"""The protocol objects of a connection as parsers: bytes in, steps out, without a connection."""

from __future__ import annotations

from enum import Enum, auto
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from chatapi.core.client import Client
from chatapi.core.sessions import Session
from chatapi.errors import RefusalCode, Refused
from chatapi.limits import Limits
from chatapi.protocol.connection_protocol import ConnectionProtocol, Conversation
from chatapi.protocol.handshake import HandshakeProtocol
from chatapi.protocol.json.protocol import JsonProtocol
from chatapi.protocol.text.protocol import BadLine, TextProtocol
from chatapi.protocol.text.rendering import TEXT
from chatapi.protocol.text.telnet import NicknameProtocol
from chatapi.testing import ChatKit


class State(Enum):
    """What the next bytes are."""

    HANDSHAKE = auto()
    NICKNAME = auto()
    LINES = auto()
    FRAMES = auto()


class Nickname(NamedTuple):
    """A line where a nickname was asked for."""

    text: str


class Parser:
    """A connection's protocol object, and those that take its place."""

    def __init__(self, limits: Limits, state: State = State.HANDSHAKE) -> None:
        self._connection = cast("Conversation", SimpleNamespace(hub=ChatKit(limits).hub))
        self._protocol: ConnectionProtocol = HandshakeProtocol(self._connection)
        if state is State.NICKNAME:
            self._protocol = NicknameProtocol(self._connection, "lounge")
        elif state is State.LINES:
            self.open(commands=True)
        elif state is State.FRAMES:
            self.open_frames()

    def feed(self, data: bytes) -> None:
        """Receive bytes, without the telnet door's filter."""
        self._protocol.received.feed(data)

    def end(self) -> None:
        self._protocol.receive_eof()

    @property
    def waiting(self) -> int:
        return self._protocol.received.waiting

    def open(self, commands: bool) -> None:
        self._protocol = TextProtocol(self._connection, self._protocol.received, TEXT, commands)

    def open_frames(self) -> None:
        self._protocol = protocol = JsonProtocol(self._connection, self._protocol.received)
        nothing_was_said = SimpleNamespace(count_new=len, is_new=bool)
        protocol.session = cast("Session[Client]", nothing_was_said)

    def step(self, most: int) -> Any:
        if not isinstance(self._protocol, NicknameProtocol):
            return self._protocol.next_step(most)
        try:
            nickname = self._protocol.next_step(most)
        except Refused as refused:
            if refused.code == RefusalCode.BAD_NAME:
                return BadLine(refused.detail)
            raise
        return None if nickname is None else Nickname(nickname)
