"""The text door: a JSON handshake, then lines. A refusal is one line of JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.handshake import Handshake
from ..errors import RefusalCode, Refused
from ..protocol.json.rendering import frame
from ..protocol.parser import State
from ..protocol.text.rendering import TEXT, TEXT_WITH_NOTICES
from ..text import one_line
from . import entrance
from .door import Opening

if TYPE_CHECKING:
    from ..limits import Limits
    from .connection import Connection


class TextDoor:
    """MaChat's own protocol."""

    opens_with = State.HANDSHAKE
    style = TEXT
    telnet = False

    def seconds(self, limits: Limits) -> float:
        """How long the handshake may take."""
        return limits.handshake_seconds

    def greet(self, connection: Connection) -> None:
        """The client speaks first."""

    def admit(self, connection: Connection, step: Opening) -> None:
        """Let whoever has shaken hands in; raises `Refused`."""
        assert isinstance(step, Handshake)
        entrance.admit(connection, step, lambda handshake: _let_in(connection, handshake))

    def refuse(self, connection: Connection, refused: Refused) -> None:
        """Say why in JSON, which a program reads as easily as a person, and end."""
        after = {} if refused.after is None else {"after": round(refused.after, 1)}
        detail, people = refused.detail, entrance.for_people(connection.hub)
        if refused.code == RefusalCode.BAD_HANDSHAKE and people:
            detail += f"; people connect by: {people}"
        connection.refuse(refused, frame("error", code=refused.code, detail=one_line(detail), **after))


def _let_in(connection: Connection, handshake: Handshake) -> None:
    if handshake.protocol == "json":
        entrance.join_json(connection, handshake)
        return
    style = TEXT_WITH_NOTICES if handshake.notices else TEXT
    history, commands = handshake.history, handshake.commands
    entrance.join(
        connection, handshake.name, handshake.room, style, echo=handshake.echo, commands=commands, history=history
    )
