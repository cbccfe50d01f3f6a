"""The names that a program needs to write a door of its own (docs/how-to/doors.md). All of them are public API."""

from .core.entries import Arrived, Deletion, Departed, NameChanged, Said
from .core.handshake import Handshake, handshake_of
from .core.style import Style
from .pending import Pending
from .protocol.connection_protocol import ConnectionProtocol, Conversation, Door
from .protocol.framing import LineTooLong, ReceiveBuffer
from .protocol.text.rendering import TextStyle
from .protocol.wrong_protocol import refuse_strangers
from .text import one_line

__all__ = [
    "Arrived",
    "ConnectionProtocol",
    "Conversation",
    "Deletion",
    "Departed",
    "Door",
    "Handshake",
    "LineTooLong",
    "NameChanged",
    "Pending",
    "ReceiveBuffer",
    "Said",
    "Style",
    "TextStyle",
    "handshake_of",
    "one_line",
    "refuse_strangers",
]
