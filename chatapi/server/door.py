"""What makes one door different from another: how it opens, and how it says no."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

from ..core.handshake import Handshake
from ..errors import Refused
from ..protocol.parser import BadLine, Nickname, State
from ..protocol.text.rendering import TextStyle

if TYPE_CHECKING:
    from ..limits import Limits
    from .connection import Connection

Opening: TypeAlias = Handshake | Nickname | BadLine
"""What a session yields before its member has joined."""


class Door(Protocol):
    """A listener's protocol, up to the point where a member is in its room; from there on all doors are alike."""

    opens_with: State
    """What the first bytes are."""
    style: TextStyle
    """How the server speaks until the member has said how it wants to be spoken to."""
    telnet: bool
    """Whether IAC sequences are understood."""

    def seconds(self, limits: Limits) -> float:
        """How long the opening may take."""
        ...

    def greet(self, connection: Connection) -> None:
        """Somebody connected."""
        ...

    def admit(self, connection: Connection, step: Opening) -> None:
        """Somebody said who they are: let the connection `join`; raises `Refused`."""
        ...

    def refuse(self, connection: Connection, refused: Refused) -> None:
        """Say why; end the connection, or ask again."""
        ...
