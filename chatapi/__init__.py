"""MaChat for Python: rooms that people and programs talk in. See docs/embedding.md for how to use it.

Only what is used is imported: a program that connects loads nothing of the server, and one that serves nothing of the
client library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .addresses import Address
from .clock import Clock
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
from .limits import Limits
from .news import (
    EventsUnread,
    Gap,
    Lost,
    News,
    Notice,
    ProtocolError,
    Recovered,
    SendRefused,
    State,
    Unreachable,
    Welcome,
)

if TYPE_CHECKING:
    from .blocking import BlockingConnection, connect_sync
    from .bots import Bot
    from .broker import Broker
    from .chat import ChatAPI, Listening
    from .clients import Client
    from .connection import Connection, connect
    from .handshake import Handshake
    from .hooks import Admit, Hooks, OnMessage, OnPresence
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
    "Notice",
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

_WHERE = {
    "Admit": "hooks",
    "BlockingConnection": "blocking",
    "Bot": "bots",
    "Broker": "broker",
    "ChatAPI": "chat",
    "Client": "clients",
    "Connection": "connection",
    "Handshake": "handshake",
    "Hooks": "hooks",
    "Listening": "chat",
    "OnMessage": "hooks",
    "OnPresence": "hooks",
    "Room": "rooms",
    "connect": "connection",
    "connect_sync": "blocking",
}


if not TYPE_CHECKING:  # to a type checker it would mean that any name may exist

    def __getattr__(name: str) -> Any:
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f".{_WHERE[name]}", __name__), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
