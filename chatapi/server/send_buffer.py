"""The bytes that a connection has yet to send: those its socket refused, and the last words behind everything else."""

from __future__ import annotations

from ..core.client import Client, Part
from ..core.style import Batch, Style
from ..events import Whisper
from ..limits import CHUNK_BYTES
from .transport import Transport


class SendBuffer:
    """Holds one chunk at most: everything behind it waits in the room's log and in the member's lane."""

    __slots__ = ("_transport", "_unsent", "last")

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._unsent: bytes | memoryview | None = None
        self.last: bytes = b""
        """The last words."""

    @property
    def stalled(self) -> bool:
        """Whether the socket has yet to take something."""
        return bool(self._unsent)

    @property
    def waiting(self) -> int:
        """Bytes that the socket has yet to take."""
        return len(self._unsent) if self._unsent else 0

    def buffer(self, data: bytes | memoryview) -> None:
        """Hold the bytes that the socket refused, as a view of those that all members share."""
        self._unsent = data

    def add(self, data: bytes) -> None:
        """Put bytes behind those that wait, for a connection that has no member yet."""
        self._unsent = bytes(self._unsent or b"") + data

    def flush(self, client: Client | None, last: bool) -> bool:
        """Send until nothing is left; return False if the socket takes no more. Raises `OSError` if it is broken.

        Args:
            client: the member, whose unread part of the log is sent too.
            last: whether to send the last words.
        """
        while True:
            if self._unsent:
                try:
                    sent = self._transport.send(self._unsent)
                except BlockingIOError:
                    return False
                if sent < len(self._unsent):
                    self._unsent = memoryview(self._unsent)[sent:]
                    return False
            self._unsent = None
            part = client.read(CHUNK_BYTES) if client is not None else None
            if part is not None and client is not None:
                self._unsent = _render(part, client, client.style)
            elif last and self.last:
                self._unsent, self.last = self.last, b""
            else:
                return True

    def clear(self) -> None:
        """Drop everything."""
        self._unsent = None
        self.last = b""


def _render(part: Part, client: Client, style: Style) -> bytes:
    if isinstance(part, bytes):
        return part
    if isinstance(part, Whisper):
        return style.whisper(part)
    if part.live:
        return Batch(part.entries).for_reader(style, client.id, client.echo)
    return b"".join(style.entry(entry) for entry in part.entries)
