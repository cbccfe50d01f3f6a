"""The telnet door, for people: it asks for a nickname and tells what goes on in the room."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..core.handshake import Handshake
from ..core.names import OURS, Naming
from ..errors import RefusalCode, Refused
from ..protocol.parser import BadLine, Nickname, State
from ..protocol.text.handler import who_is_here
from ..protocol.text.rendering import TELNET
from . import entrance
from .door import Opening

if TYPE_CHECKING:
    from ..limits import Limits
    from .connection import Connection

_PROMPT: Final = b"Nickname: "
_ASK_AGAIN: Final = (RefusalCode.BAD_NAME, RefusalCode.NAME_TAKEN)


class TelnetDoor:
    """A room for whoever comes by with ``telnet`` or ``nc``.

    Raises `Refused` (``bad_room``) where `lobby` cannot be a room's name.
    """

    opens_with = State.NICKNAME
    style = TELNET
    telnet = True

    def __init__(self, lobby: str = "lounge", naming: Naming = OURS) -> None:
        self.lobby: str = naming.room(lobby)

    def seconds(self, limits: Limits) -> float:
        """How long a person may take to find a nickname."""
        return limits.nickname_seconds

    def greet(self, connection: Connection) -> None:
        """Say where one is, and ask."""
        connection.tell(f"welcome to MaChat; you are about to join {self.lobby}")
        connection.write(_PROMPT)

    def admit(self, connection: Connection, step: Opening) -> None:
        """Let whoever gave a nickname in; raises `Refused`."""
        if isinstance(step, BadLine):
            raise Refused(RefusalCode.BAD_NAME, step.why)
        assert isinstance(step, Nickname)
        naming = connection.hub.naming
        if not step.text and naming.allows_empty:
            raise Refused(RefusalCode.BAD_NAME, "a nickname has at least one character")
        fields = {"name": naming.name(step.text), "room": self.lobby, "notices": True}
        handshake = Handshake.model_validate(fields, context=naming)
        entrance.admit(connection, handshake, lambda handshake: _let_in(connection, handshake))

    def refuse(self, connection: Connection, refused: Refused) -> None:
        """Say why and ask again; or end, where no other nickname would help."""
        if refused.code in _ASK_AGAIN:
            connection.tell(refused.detail)
            connection.write(_PROMPT)
            connection.fault()
        else:
            connection.refuse(refused, TELNET.line(f"{refused.code}: {refused.detail}"))


def _let_in(connection: Connection, handshake: Handshake) -> None:
    client = entrance.join(connection, handshake.name, handshake.room, TELNET, echo=None, commands=None)
    assert client.room is not None
    connection.tell(who_is_here(client.room, f"hello {client.name}; in {client.room.name}"))
    if connection.session.commands:
        connection.tell("type a line to say it to everybody; /help lists what else there is")
