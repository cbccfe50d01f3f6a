"""MaChat for Python: rooms that people and programs talk in. See docs/how-to/embed.md for how to use it.

Modules are imported on first use: a program that only connects loads no module of the server, and a program that only
serves loads none of the client library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .addresses import Address
from .client.events import (
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

if TYPE_CHECKING:
    from .bots import Bot
    from .chat import ChatAPI, Listening
    from .client.blocking import BlockingConnection, connect_sync
    from .client.connection import Connection, connect
    from .core.broker import Broker
    from .core.handshake import Handshake
    from .core.hooks import Admit, Hooks, OnMessage, OnPresence
    from .core.views import Client, Room

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
    "Admit": "core.hooks",
    "BlockingConnection": "client.blocking",
    "Bot": "bots",
    "Broker": "core.broker",
    "ChatAPI": "chat",
    "Client": "core.views",
    "Connection": "client.connection",
    "Handshake": "core.handshake",
    "Hooks": "core.hooks",
    "Listening": "chat",
    "OnMessage": "core.hooks",
    "OnPresence": "core.hooks",
    "Room": "core.views",
    "connect": "client.connection",
    "connect_sync": "client.blocking",
}


if not TYPE_CHECKING:  # hidden from type checkers, which would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f".{_WHERE[name]}", __name__), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
