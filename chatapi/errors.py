"""The exception tree, the codes of refusals, and the table of reasons why a connection ends.

::

    ChatError
    ├── Refused          a handshake, a name, a room, a rename or a message was turned down (has a `code`)
    ├── NotDelivered     a whisper could not be delivered
    ├── TextTooLong      a text is over the limit
    ├── StoreError       the file of a durable broker cannot be used
    ├── NoSuchMessage    there is no message of that number to delete
    └── Disconnected     a member's place in its room has ended (has a `reason` from the table)

``AddressError`` is a ``ValueError`` and no ``ChatError``, because it is about a wrong argument, not about a chat.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final


class RefusalCode(str, Enum):
    """Why a handshake (or a later join, rename or message) is refused; the `code` of its one line of JSON."""

    BAD_HANDSHAKE = "bad_handshake"
    HANDSHAKE_TOO_LARGE = "handshake_too_large"
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    BAD_NAME = "bad_name"
    BAD_ROOM = "bad_room"
    NAME_TAKEN = "name_taken"
    ROOM_FULL = "room_full"
    SERVER_FULL = "server_full"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    SERVER_ERROR = "server_error"
    UNAVAILABLE = "unavailable"
    DRAINING = "draining"

    __str__ = str.__str__


class FrameError(str, Enum):
    """Why a frame of the JSON protocol is answered by an `error`; a rename or join also gets a `RefusalCode`."""

    BAD_FRAME = "bad_frame"
    FRAME_TOO_LARGE = "frame_too_large"
    TEXT_TOO_LONG = "text_too_long"
    EMPTY_TEXT = "empty_text"
    NOT_DELIVERED = "not_delivered"

    __str__ = str.__str__


@dataclass(frozen=True, slots=True)
class Disconnect:
    """One row of the table of reasons: why a connection ends, and what its client should do then."""

    code: str
    """The word for it in the protocol, in the log and in the counters."""
    detail: str
    """One sentence for a person."""
    reconnect: bool
    """Whether a client should connect again."""
    after: float
    """Seconds to wait before connecting again."""
    websocket: int
    """The WebSocket close code (RFC 6455, section 7.4; 4000 and up are private to applications)."""


def _table(*rows: Disconnect) -> MappingProxyType[str, Disconnect]:
    return MappingProxyType({row.code: row for row in rows})


DISCONNECTS: Final = _table(
    Disconnect("bye", "goodbye", False, 0, 1000),
    Disconnect("connection_lost", "the connection broke", True, 0, 1006),
    Disconnect("slow_consumer", "you read too slowly to keep up with the room", True, 5, 4000),
    Disconnect("idle_timeout", "you sent nothing for too long", True, 0, 4001),
    Disconnect("flood", "you sent too many commands or names that were refused", True, 30, 4002),
    Disconnect("replaced", "another connection took over your name", False, 0, 4003),
    Disconnect("name_lost", "another member took your name while this server was cut off", True, 0, 4004),
    Disconnect("kicked", "you were removed from the room", False, 0, 4005),
    Disconnect("banned", "you may not use this chat", False, 0, 4006),
    Disconnect("draining", "the server is shutting down", True, 5, 1012),
    Disconnect("token_expired", "your credentials have expired", True, 0, 4007),
    Disconnect("protocol_error", "your client did not follow the protocol", False, 0, 1002),
    Disconnect("insufficient_state", "the server missed messages of this room and cannot load them", True, 0, 4008),
    Disconnect("server_error", "an error inside the server", True, 5, 1011),
)
"""Every reason why a connection ends, by code. `connection_lost` is never sent: no connection is left for it."""


class ChatError(Exception):
    """The root of everything that `chatapi` raises about a chat."""


class Refused(ChatError):
    """A handshake, join, rename or message was refused: `code` is the reason, and `detail` explains it to a person.

    `after` is the number of seconds after which it may succeed, if that is known. If `sure` is False, it may have
    succeeded: the answer of the broker is missing.
    """

    def __init__(self, code: RefusalCode, detail: str, after: float | None = None, *, sure: bool = True) -> None:
        super().__init__(f"{code}: {detail}")
        self.after: float | None = after
        self.sure: bool = sure
        self.code = code
        self.detail = detail


class NotDelivered(ChatError):
    """A whisper was not delivered: there is no such member, or it cannot take more now."""


class TextTooLong(ChatError):
    """A text has more bytes of UTF-8 than the limit `line_bytes` allows."""


class StoreError(ChatError):
    """A durable broker cannot open or read the file that has its rooms: the text says which file and why."""


class NoSuchMessage(ChatError):
    """A room has no message with this number, or the message was deleted."""


class Disconnected(ChatError):
    """A member is no longer in its room; `reason` is the row of `DISCONNECTS` that says why.

    If `sure` is False, the message or whisper that was sent may have been kept, and `detail` says so: only the client
    library raises that, if the answer is missing. The connection itself may go on.
    """

    def __init__(self, reason: Disconnect, detail: str = "", *, sure: bool = True) -> None:
        super().__init__(f"{reason.code}: {detail or reason.detail}")
        self.sure: bool = sure
        self.reason = reason
        self.detail: str = detail or reason.detail


class AddressError(ValueError):
    """An address is not of the form ``HOST:PORT``."""
