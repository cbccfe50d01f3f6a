"""A listening socket and the door behind it: accepts, and gives every connection to the poller."""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import sys
from typing import TYPE_CHECKING, Final

from ..addresses import configure, shown
from ..errors import RefusalCode, Refused
from ..wires import SocketWire
from .connection import Connection
from .door import Door

if TYPE_CHECKING:
    from ..hub import Hub

_logger = logging.getLogger("chatapi")

_AT_ONCE: Final = 32
"""Connections accepted before somebody else has a turn."""
_RETRY: Final = 0.5
"""Seconds between two tries where the system has no more descriptors or memory for sockets."""
_TOLD: Final = 256
"""Connections above the limit that are told so, and closed in good order; those above these are just closed."""
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """Accepts connections for a door; where the system has run out of descriptors it pauses, and heals by itself."""

    is_new = False

    def __init__(self, sock: socket.socket, door: Door, hub: Hub, selector: selectors.BaseSelector) -> None:
        self._socket = sock
        self._door = door
        self._hub = hub
        self._selector = selector
        self._told = False
        self._listening = True
        selector.register(sock, selectors.EVENT_READ, self)

    def readable(self, now: float) -> None:
        """Somebody connects, or may have."""
        if not self._listening:
            return
        for _ in range(_AT_ONCE):
            try:
                sock, sockaddr = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(now, error)
                    return
                continue  # that connection was gone before it was accepted (accept(2), "Error handling")
            try:
                self._open(sock, sockaddr)
            except Exception:  # also between slices, where nobody else would catch it
                self.crashed()
        # what is left is still readable in the next round

    def writable(self, now: float) -> None:
        """Never asked for."""

    def crashed(self) -> None:
        """One connection could not be set up; the others are not affected."""
        _logger.exception("a connection could not be set up")

    def close(self) -> None:
        """Accept no more."""
        if self._listening:
            self._selector.unregister(self._socket)
        self._hub.timers.clear(self)
        self._listening = False
        self._socket.close()

    def _open(self, sock: socket.socket, sockaddr: tuple[str, int]) -> None:
        limits = self._hub.limits
        if len(self._hub.connections) >= limits.connections + _TOLD:
            sock.close()
            self._hub.refusals[RefusalCode.SERVER_FULL] += 1
            return
        try:
            sock.setblocking(False)
            if sys.platform != "linux":
                configure(sock, limits)
        except OSError:
            sock.close()  # gone already
            return
        wire = SocketWire(sock, self._selector)
        full = len(self._hub.connections) >= limits.connections
        connection = Connection(self._hub, self._door, wire, shown(sockaddr))
        if full:
            why = f"the server is full; connections allowed: {limits.connections:,}"
            self._door.refuse(connection, Refused(RefusalCode.SERVER_FULL, why))

    def _pause(self, now: float, error: OSError) -> None:
        if not self._told:
            self._told = True
            _logger.error("cannot accept connections for now: %s; those that are open go on", error.strerror)
        self._selector.unregister(self._socket)
        self._listening = False
        self._hub.timers.set(self, now + _RETRY, self._resume)

    def _resume(self, now: float) -> None:
        self._selector.register(self._socket, selectors.EVENT_READ, self)
        self._listening = True
        self.readable(now)
        if self._listening and self._told:
            self._told = False
            _logger.warning("accepting connections again")
