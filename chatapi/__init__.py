"""MaChat for Python: rooms that people and programs talk in. See docs/embedding.md for how to use it."""

from .addresses import Address
from .blocking import BlockingConnection, connect_sync
from .bots import Bot
from .broker import Broker
from .chat import ChatAPI, Listening
from .clients import Client
from .clock import Clock
from .connection import Connection, connect
from .errors import (
    DISCONNECTS,
    AddressError,
    ChatError,
    Disconnect,
    Disconnected,
    FrameError,
    NoSuchMessage,
    NotDelivered,
    RefusalCode,
    Refused,
    StoreError,
    TextTooLong,
)
from .events import Deleted, Event, History, Joined, Left, Message, Renamed, Whisper
from .handshake import Handshake
from .hooks import Admit, Hooks, OnMessage, OnPresence
from .limits import Limits
from .news import (
    EventsUnread,
    Gap,
    Lost,
    News,
    ProtocolError,
    Recovered,
    SendRefused,
    State,
    Unreachable,
    Welcome,
)
from .rooms import Room

__all__ = [
    "DISCONNECTS",
    "Address",
    "AddressError",
    "Admit",
    "BlockingConnection",
    "Bot",
    "Broker",
    "ChatAPI",
    "ChatError",
    "Client",
    "Clock",
    "Connection",
    "Deleted",
    "Disconnect",
    "Disconnected",
    "Event",
    "EventsUnread",
    "FrameError",
    "Gap",
    "Handshake",
    "History",
    "Hooks",
    "Joined",
    "Left",
    "Limits",
    "Listening",
    "Lost",
    "Message",
    "News",
    "NoSuchMessage",
    "NotDelivered",
    "OnMessage",
    "OnPresence",
    "ProtocolError",
    "Recovered",
    "RefusalCode",
    "Refused",
    "Renamed",
    "Room",
    "SendRefused",
    "State",
    "StoreError",
    "TextTooLong",
    "Unreachable",
    "Welcome",
    "Whisper",
    "connect",
    "connect_sync",
]

__version__ = "0.1.0"
