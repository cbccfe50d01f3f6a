"""Transports: one connection's bytes as send, receive and close. Nothing here waits; the poller tells when to retry."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
from typing import Protocol


class Pollable(Protocol):
    """Who is told what its wire can do now."""

    @property
    def is_new(self) -> bool:
        """Whether it is still on its way in: who is in goes first."""
        ...

    def readable(self, now: float) -> None:
        """There are bytes to receive, or the end of the stream."""
        ...

    def writable(self, now: float) -> None:
        """There is room for bytes to send."""
        ...

    def crashed(self) -> None:
        """An exception came out of one of these; it is being handled and can be logged."""
        ...


class Send(Protocol):
    """What sends bytes: a non-blocking socket's own method."""

    def __call__(self, data: bytes | memoryview, /) -> int:
        """Send what can be sent now, and return how many bytes that were.

        Raises `BlockingIOError` where nothing can be sent, and another `OSError` where the connection is broken.
        """
        ...


class Transport(Protocol):
    """What a connection needs from its transport."""

    def attach(self, owner: Pollable) -> None:
        """Learn who is to be told; called once, before anything else."""
        ...

    def send(self, data: bytes | memoryview, /) -> int:
        """As `Send` says."""
        ...

    def receive(self, most: int, /) -> bytes | None:
        """At most so many bytes that are there now; empty at the end of the stream, None where there are none.

        Raises `OSError` where the connection broke, once what had come before was received.
        """
        ...

    def watch(self, read: bool, write: bool) -> None:
        """Say which of the two can be tried again when it is possible; neither means not to look at all."""
        ...

    def shut(self) -> None:
        """End the stream to the other side; receiving goes on. Never raises."""
        ...

    def give_up(self) -> None:
        """Have `close` destroy what the other side has not taken, which would stay in the kernel. Never raises."""
        ...

    def close(self) -> None:
        """Give the socket back; never raises. What was received and not read destroys what is on its way out."""
        ...


class SocketTransport:
    """A non-blocking TCP socket, registered with a selector under whoever is to be told."""

    __slots__ = ("_mask", "_owner", "_selector", "_socket", "send")

    def __init__(self, sock: socket.socket, selector: selectors.BaseSelector) -> None:
        self._socket = sock
        self.send: Send = sock.send
        self._selector = selector
        self._mask = 0
        self._owner: Pollable | None = None

    def attach(self, owner: Pollable) -> None:
        """Learn who is to be told."""
        self._owner = owner

    def receive(self, most: int) -> bytes | None:
        """Bytes that are there now."""
        try:
            return self._socket.recv(most)
        except (BlockingIOError, InterruptedError):
            return None

    def watch(self, read: bool, write: bool) -> None:
        """Register for what is wanted; with a mask of 0 epoll would report a hang-up for ever, so that unregisters."""
        mask = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
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
        """Have `close` send a reset: else a full send buffer stays for `TCP_USER_TIMEOUT`, for nobody."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        """Unregister and close."""
        self.watch(read=False, write=False)
        self._socket.close()
        self._owner = None  # break the reference cycle
