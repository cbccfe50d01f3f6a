"""What a connection has yet to send: what its socket refused, what its client is to be shown, and the last words."""

from __future__ import annotations

from ..core.client import Client, Part
from ..core.style import Batch, Style
from ..events import Whisper
from ..limits import CHUNK_BYTES
from .transport import Wire


class Feed:
    """The bytes on their way out. It holds one chunk at most: everything behind it waits in the log and the lane.

    Its methods raise `OSError` where the connection is broken.
    """

    __slots__ = ("_unsent", "_wire", "deaf", "last")

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._unsent: bytes | memoryview | None = None
        self.deaf: bool = False
        """Whether the other side is known to hear nothing any more: all that is sent is dropped."""
        self.last: bytes = b""
        """The very last words, behind everything else."""

    @property
    def stalled(self) -> bool:
        """Whether the socket has yet to take something."""
        return bool(self._unsent)

    @property
    def waiting(self) -> int:
        """Bytes that the socket has yet to take."""
        return len(self._unsent) if self._unsent else 0

    def keep(self, data: bytes | memoryview) -> None:
        """Hold what the socket refused, as a view of what all share."""
        self._unsent = data

    def add(self, data: bytes) -> None:
        """Put bytes behind what waits, for a connection that has no client yet."""
        self._unsent = bytes(self._unsent or b"") + data

    def pump(self, client: Client | None, style: Style, last: bool) -> bool:
        """Send until nothing is left, the last words included if so wished; False where the socket takes no more."""
        if self.deaf:
            self._unsent = None
            if client is not None:
                client.skip()
            return True
        while True:
            if self._unsent:
                try:
                    sent = self._wire.send(self._unsent)
                except BlockingIOError:
                    return False
                if sent < len(self._unsent):
                    self._unsent = memoryview(self._unsent)[sent:]
                    return False
            self._unsent = None
            part = client.read(CHUNK_BYTES) if client is not None else None
            if part is not None and client is not None:
                self._unsent = _render(part, client, style)
            elif last and self.last:
                self._unsent, self.last = self.last, b""
            else:
                return True

    def clear(self) -> None:
        """Let go of everything."""
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
