"""Transports: one connection's bytes as send, receive and close. Nothing here waits; the poller tells when to retry."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Protocol

from .selector import READ, WRITE, Pollable, Selector


class Send(Protocol):
    """What sends bytes: a non-blocking socket's own method."""

    def __call__(self, data: bytes | memoryview, /) -> int:
        """Send what can be sent now, and return the number of its bytes.

        Raises `BlockingIOError` if nothing can be sent, and another `OSError` if the connection is broken.
        """
        ...


class Transport(Protocol):
    """What a connection needs from its transport."""

    def attach(self, owner: Pollable) -> None:
        """Set the object that is told; called once, before anything else."""
        ...

    def send(self, data: bytes | memoryview, /) -> int:
        """Send as `Send` does."""
        ...

    def receive(self, most: int, /) -> bytes | None:
        """Return at most so many bytes that are there now; empty at the end of the stream, None if there are none.

        Raises `OSError` if the connection broke, once the bytes that had come before were received.
        """
        ...

    def watch(self, read: bool, write: bool) -> None:
        """Tell the owner when it can receive or send; if neither is wanted, do not look at the socket at all."""
        ...

    def shut(self) -> None:
        """End the stream to the other side; receiving goes on. Never raises."""
        ...

    def give_up(self) -> None:
        """Have `close` destroy the bytes that the other side has not taken: they would stay there. Never raises."""
        ...

    def close(self) -> None:
        """Close the socket; never raises. Input that was not received destroys the bytes that are on their way out."""
        ...


class SocketTransport:
    """A non-blocking TCP socket, registered with a selector under the owner that is told."""

    __slots__ = ("_mask", "_owner", "_selector", "_socket", "send")

    def __init__(self, sock: socket.socket, selector: Selector) -> None:
        self._socket = sock
        self.send: Send = sock.send
        self._selector = selector
        self._mask = 0
        self._owner: Pollable | None = None

    def attach(self, owner: Pollable) -> None:
        """Set the object that is told."""
        self._owner = owner

    def receive(self, most: int) -> bytes | None:
        """Return the bytes that are there now."""
        try:
            return self._socket.recv(most)
        except (BlockingIOError, InterruptedError):
            return None

    def watch(self, read: bool, write: bool) -> None:
        """Register for what is wanted; unregister if nothing is, because epoll would report a hang-up for ever."""
        mask = (READ if read else 0) | (WRITE if write else 0)
        if mask == self._mask:
            return
        if not mask:
            self._selector.unregister(self._socket)
        elif self._mask:
            self._selector.modify(self._socket, mask, self._owner)
        else:
            self._selector.register(self._socket, mask, self._owner)
        self._mask = mask

    def shut(self) -> None:
        """Shut down writing."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other side was faster

    def give_up(self) -> None:
        """Have `close` send a reset, because otherwise a full send buffer stays for `TCP_USER_TIMEOUT`."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        """Unregister and close."""
        self.watch(read=False, write=False)
        self._socket.close()
        self._owner = None  # break the reference cycle
