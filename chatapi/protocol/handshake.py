"""The opening of a TCP connection: one JSON object has the client's name, its room and its protocol."""

from __future__ import annotations

from typing import Any, Final

from pydantic_core import from_json

from ..core.handshake import EXAMPLE, Handshake, handshake_of
from ..core.names import OURS, Naming
from ..core.style import Style
from ..errors import ChatError, RefusalCode, Refused
from ..text import one_line
from .connection_protocol import ConnectionProtocol, Conversation
from .framing import ObjectScanner
from .json.protocol import JsonProtocol
from .json.rendering import frame
from .text.protocol import TextProtocol
from .text.rendering import TEXT, TEXT_WITH_NOTICES
from .wrong_protocol import Stranger, find_stranger, how_people_connect, may_become_stranger

_BLANKS: Final = b" \t\r\n"
_MARKS: Final = {
    b"\xef\xbb\xbf": "a byte order mark; leave it out",
    b"\xff\xfe": "the byte order mark of UTF-16",
    b"\xfe\xff": "the byte order mark of UTF-16",
    b"\0": "a NUL byte, as UTF-16 text may",
}


class HandshakeProtocol(ConnectionProtocol):
    """Reads the handshake and gives way to `TextProtocol` or `JsonProtocol`. A refusal is one line of JSON."""

    __slots__ = ("_scanner",)

    style: Style = TEXT

    def __init__(self, connection: Conversation) -> None:
        super().__init__(connection)
        self._scanner: ObjectScanner | None = None

    def next_step(self, most: int) -> Handshake | None:
        """Return the handshake once it is whole. Raises `Refused`; no step can follow that."""
        received = self.received
        if self._scanner is None:
            received.data = received.data.lstrip(_BLANKS)
            if received.data:
                if received.data[0] != 0x7B:
                    self._refuse_opening()
                    return None
                self._scanner = ObjectScanner()
        data = received.data
        end = self._scanner.end(data) if self._scanner else 0
        limit, naming = self.connection.hub.limits.handshake_bytes, self.connection.hub.naming
        if (end or len(data)) > limit:
            raise Refused(RefusalCode.HANDSHAKE_TOO_LARGE, f"the handshake has more than {limit:,} bytes")
        if not end:
            if received.ended and data:
                raise Refused(
                    RefusalCode.BAD_HANDSHAKE, f"the stream ended within the handshake; it looks like {EXAMPLE}"
                )
            return None
        if b"\0" in data[:end]:
            raise Refused(
                RefusalCode.BAD_HANDSHAKE,
                f"the handshake has NUL bytes, as UTF-16 has; it must be JSON in UTF-8 such as {EXAMPLE}",
            )
        handshake = parse_handshake(data[:end], naming)
        received.advance(end)
        if not naming.allows_empty or received.waiting:  # in Go a line end that comes later is a blank line
            received.drop_line_end()
        return handshake

    def _refuse_opening(self) -> None:
        """Refuse what does not begin like a handshake, once it is known what it is; until then wait for more."""
        data = self.received.data + b"\n" if self.received.ended else self.received.data
        if (stranger := find_stranger(data)) is not None:
            raise stranger
        if may_become_stranger(data):
            return
        start = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
        start = start or ascii(chr(data[0]))  # no more of it: this goes into the log
        raise Refused(
            RefusalCode.BAD_HANDSHAKE,
            f"the handshake must be a JSON object in UTF-8 such as {EXAMPLE}; yours starts with {start}",
        )

    def handle(self, step: Handshake) -> None:
        """Have the client join the room."""
        self.connection.admit(step, self._protocol_of)

    def _protocol_of(self, handshake: Handshake) -> ConnectionProtocol:
        if handshake.protocol == "json":
            return JsonProtocol(self.connection, self.received)
        style = TEXT_WITH_NOTICES if handshake.notices else TEXT
        return TextProtocol(self.connection, self.received, style, handshake.commands)

    def refuse(self, error: ChatError) -> None:
        """Say why in JSON, which a program reads as easily as a person, and end the connection."""
        assert isinstance(error, Refused)
        hub = self.connection.hub
        if isinstance(error, Stranger):
            self.connection.refuse(error, error.answer(hub.listening))
            return
        after = {} if error.after is None else {"after": round(error.after, 1)}
        detail, people = error.detail, how_people_connect(hub.listening)
        if error.code == RefusalCode.BAD_HANDSHAKE and people:
            detail += f"; people can connect with: {people}"
        self.connection.refuse(error, frame("error", code=error.code, detail=one_line(detail), **after))


def parse_handshake(data: bytes, naming: Naming = OURS) -> Handshake:
    """The handshake that `data` says. Keys match without regard to case, as in Go.

    Raises `Refused` with ``bad_handshake`` (not JSON, not an object, a field that is missing or of a wrong type: the
    detail names it), ``bad_name`` or ``bad_room``.
    """
    try:
        value: Any = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise Refused(
            RefusalCode.BAD_HANDSHAKE, f"the handshake is not JSON: {error}; it looks like {EXAMPLE}"
        ) from None
    if not isinstance(value, dict):
        raise Refused(RefusalCode.BAD_HANDSHAKE, f"the handshake is not a JSON object; it looks like {EXAMPLE}")
    fields = {key.lower(): field for key, field in value.items()}
    if naming.allows_empty:
        fields |= {key: "" for key in ("name", "room") if fields.get(key) is None}
    return handshake_of(fields, naming)
