"""The telnet door, for people: it asks for a nickname, and then the member joins the lobby."""

from __future__ import annotations

from typing import Final

from ...core.client import Client
from ...core.handshake import Handshake, handshake_of
from ...core.names import OURS, Naming
from ...core.style import Style
from ...errors import ChatError, RefusalCode, Refused
from ...limits import Limits
from ...text import clean, find_fault
from ..connection_protocol import ConnectionProtocol, Conversation, Door
from ..framing import ReceiveBuffer
from ..telnet import TelnetFilter
from ..wrong_protocol import Stranger, find_stranger
from .protocol import TextProtocol, who_is_here
from .rendering import TELNET

_PROMPT: Final = b"Nickname: "
_ASK_AGAIN: Final = (RefusalCode.BAD_NAME, RefusalCode.NAME_TAKEN)


def telnet_door(lobby: str = "lounge", naming: Naming = OURS) -> Door:
    """Return the door to a room for people with ``telnet`` or ``nc``. Raises `Refused` (``bad_room``)."""
    room = naming.room(lobby)
    return lambda connection: NicknameProtocol(connection, room)


class NicknameProtocol(ConnectionProtocol):
    """Asks for a nickname until one is accepted, and gives way to `TelnetProtocol`."""

    __slots__ = ("_filter", "_lobby")

    style: Style = TELNET

    def __init__(self, connection: Conversation, lobby: str) -> None:
        super().__init__(connection)
        self._lobby = lobby
        self._filter = TelnetFilter()

    def opening_seconds(self, limits: Limits) -> float:
        """Return how long a person may take to find a nickname."""
        return limits.nickname_seconds

    def connected(self) -> None:
        """Say which room this is, and ask."""
        greeting = TELNET.line(f"welcome to MaChat; you are about to join {self._lobby}")
        self.connection.write(greeting + _PROMPT)

    def receive_data(self, data: bytes) -> None:
        """Take the text out of a telnet stream, and answer what else is in it."""
        _receive(self, self._filter, data)

    def next_step(self, most: int) -> str | None:
        """Return the nickname in the next line. Raises `Refused`."""
        received = self.received
        if (stranger := find_stranger(received.data[received.at :])) is not None:
            raise stranger
        if not received.lines_end(None):  # a line is kept whole, because it may be a request of HTTP
            return None
        end = received.data.index(b"\n", received.at) + 1
        line = received.data[received.at : end]
        received.advance(end)
        if (fault := find_fault(line, self.connection.hub.limits.line_bytes)) is not None:
            raise Refused(RefusalCode.BAD_NAME, fault.why)
        return clean(line).decode().strip()

    def handle(self, step: str) -> None:
        """Have the person join the lobby under this nickname. Raises `Refused`."""
        naming = self.connection.hub.naming
        if not step and naming.allows_empty:
            raise Refused(RefusalCode.BAD_NAME, "a nickname must have at least one character")
        fields = {"name": step, "room": self._lobby, "notices": True}
        self.connection.admit(handshake_of(fields, naming), self._protocol_of)

    def _protocol_of(self, handshake: Handshake) -> ConnectionProtocol:
        return TelnetProtocol(self.connection, self.received, handshake.commands, self._filter)

    def refuse(self, error: ChatError) -> None:
        """Say why and ask again; or end the connection, if no other nickname would help."""
        assert isinstance(error, Refused)
        if error.code in _ASK_AGAIN:
            self.connection.write(TELNET.line(error.detail) + _PROMPT)
            self.connection.fault()
        else:
            answer = (
                error.answer(self.connection.hub.listening) if isinstance(error, Stranger) else TELNET.line(str(error))
            )
            self.connection.refuse(error, answer)


class TelnetProtocol(TextProtocol):
    """`TextProtocol` in a telnet stream; newcomers are greeted."""

    __slots__ = ("_filter",)

    def __init__(
        self, connection: Conversation, received: ReceiveBuffer, commands: bool | None, telnet: TelnetFilter
    ) -> None:
        super().__init__(connection, received, TELNET, commands)
        self._filter = telnet

    def receive_data(self, data: bytes) -> None:
        """Take the text out of a telnet stream, and answer what else is in it."""
        _receive(self, self._filter, data)

    def joined(self, client: Client) -> None:
        """Greet the newcomer."""
        super().joined(client)
        assert client.room is not None
        self.tell(who_is_here(client.room, f"hello {client.name}; in {client.room.name}"))
        if self.commands:
            self.tell("type a line to send it to everybody; /help lists the commands")


def _receive(protocol: ConnectionProtocol, telnet: TelnetFilter, data: bytes) -> None:
    text, answer = telnet.feed(data)
    protocol.received.wasted += len(data) - len(text)
    protocol.received.feed(text)
    protocol.connection.write(answer)
