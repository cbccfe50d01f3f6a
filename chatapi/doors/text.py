"""The text door: a JSON handshake, then lines. A refusal is one line of JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ..errors import Refused
from ..handshake import Handshake
from ..render import TEXT, TEXT_WITH_NOTICES
from ..session import State
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
        style = TEXT_WITH_NOTICES if step.notices else TEXT
        connection.join(step.name, step.room, style, echo=step.echo, commands=step.commands, history=step.history)

    def refuse(self, connection: Connection, refused: Refused) -> None:
        """Say why in JSON, which a program reads as easily as a person, and end."""
        error = {"type": "error", "code": str(refused.code), "detail": refused.detail}
        line = json.dumps(error, ensure_ascii=False, separators=(",", ":")) + "\n"
        connection.refuse(refused, line.encode(errors="replace"))
