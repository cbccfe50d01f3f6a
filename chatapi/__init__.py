"""MaChat for Python: rooms that people and programs talk in. See docs/embedding.md for how to use it."""

from .addresses import Address
from .bots import Bot
from .broker import Broker
from .chat import ChatAPI, Listening
from .clients import Client
from .clock import Clock
from .errors import (
    DISCONNECTS,
    AddressError,
    ChatError,
    Disconnect,
    Disconnected,
    NotDelivered,
    RefusalCode,
    Refused,
    TextTooLong,
)
from .events import Event, Joined, Left, Message, Renamed, Whisper
from .handshake import Handshake
from .limits import Limits
from .rooms import Room

__all__ = [
    "DISCONNECTS",
    "Address",
    "AddressError",
    "Bot",
    "Broker",
    "ChatAPI",
    "ChatError",
    "Client",
    "Clock",
    "Disconnect",
    "Disconnected",
    "Event",
    "Handshake",
    "Joined",
    "Left",
    "Limits",
    "Listening",
    "Message",
    "NotDelivered",
    "RefusalCode",
    "Refused",
    "Renamed",
    "Room",
    "TextTooLong",
    "Whisper",
]

__version__ = "0.1.0"
