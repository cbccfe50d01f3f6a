"""A connection without a socket, for tests."""

from __future__ import annotations

from collections import deque

from ..server.selector import Pollable


class MemoryTransport:
    """A connection without a socket: it buffers up to `capacity` bytes from the server until the test takes them."""

    def __init__(self, capacity: int = 1 << 30) -> None:
        self.capacity = capacity
        """Bytes that the client's buffer accepts before the server's sends are refused; a test may change it."""
        self.sent: bytearray = bytearray()
        """Bytes from the server that the test has not taken yet."""
        self.reading: bool = False
        self.writing: bool = False
        self.ended: bool = False
        """Whether the server ended its stream."""
        self.given_up: bool = False
        """Whether the server gave the connection up, which destroys bytes that the client has not taken."""
        self.closed: bool = False
        """Whether the server closed the connection."""
        self.discarded: int = 0
        """Unread bytes when the server closed the connection; a real socket would have sent a reset."""
        self._incoming: deque[bytes] = deque()
        self._broken = self._unreported = False
        self._owner: Pollable | None = None

    # For the server

    def attach(self, owner: Pollable) -> None:
        """Set the object to call when the connection is readable or writable."""
        self._owner = owner

    def send(self, data: bytes | memoryview) -> int:
        """Accept the bytes that fit; return their number."""
        self._report()
        if self.ended or self._broken or self.closed:
            raise BrokenPipeError("the stream was ended")
        room = max(0, self.capacity - len(self.sent))
        if not room:
            raise BlockingIOError("the buffer is full")
        self.sent += data[:room]
        return min(room, len(data))

    def receive(self, most: int) -> bytes | None:
        """Return received bytes, also after a reset, as Linux does; then raise the error, once; then return the end."""
        if self._incoming:
            data = self._incoming.popleft()
            if len(data) > most or not data:  # further calls get the end of the stream too
                self._incoming.appendleft(data[most:])
            return data[:most]
        self._report()
        return b"" if self._broken else None

    def _report(self) -> None:
        if self._unreported:
            self._unreported = False
            raise ConnectionResetError("the connection is broken")

    def watch(self, read: bool, write: bool) -> None:
        """Store which of reading and writing the server waits for."""
        self.reading, self.writing = read, write

    def shut(self) -> None:
        """End the server's stream."""
        self.ended = True

    def give_up(self) -> None:
        """Destroy the bytes that the client has not taken."""
        self.given_up = True

    def close(self) -> None:
        """Close the connection."""
        self.discarded = sum(map(len, self._incoming))
        self.closed = self.ended = True
        self.reading = self.writing = False
        self._owner = None

    # For the test

    def feed(self, data: bytes) -> None:
        """Send bytes to the server; empty ones end the stream."""
        self._incoming.append(data)

    def reset(self) -> None:
        """Break the connection; the server can still receive what was sent before."""
        self._broken = self._unreported = True

    def take(self, most: int | None = None) -> bytes:
        """Take bytes from the server, at most `most`."""
        taken = bytes(self.sent[:most])
        del self.sent[:most]
        return taken

    def poll(self, now: float) -> bool:
        """Call the owner as the poller would; return whether the connection was readable or writable."""
        owner = self._owner
        assert owner is not None
        readable = self.reading and (bool(self._incoming) or self._broken)
        writable = self.writing and (len(self.sent) < self.capacity or self._broken)
        if readable:
            owner.readable(now)
        if writable and self.writing:
            owner.writable(now)
        return readable or writable
