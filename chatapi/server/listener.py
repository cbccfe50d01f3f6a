"""A listening socket and its door: accepts connections, and closes some if there are too many."""

from __future__ import annotations

import errno
import logging
import socket
import sys
from typing import Final, cast

from ..addresses import configure, free_descriptors, shown
from ..core.hub import TOLD, Hub
from ..core.openings import CHANCE, SHORT_CHANCE
from ..errors import RefusalCode, Refused
from ..limits import TICK
from ..protocol.connection_protocol import Door
from .connection import Connection
from .selector import READ, Selector
from .transport import SocketTransport, Transport

_logger = logging.getLogger("chatapi")

_AT_ONCE: Final = 32
"""Connections accepted before other sockets have a turn."""
_RETRY: Final = 0.5
"""Seconds between two tries if the system has no more descriptors or memory for sockets."""
_RESERVE: Final = 64
"""Descriptors that connections leave to the rest of the program: for a store, for Redis, for its own files."""
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def keep_reserve(hub: Hub) -> None:
    """Bound the connections by the descriptors that are free, and log that if these are too few for the limit."""
    limits, free = hub.limits, free_descriptors()
    if free is None:
        return
    hub.most_sockets = min(limits.connections + TOLD, max(2, free - min(_RESERVE, free // 4)))
    hub.most_connections = min(limits.connections, hub.most_sockets - min(TOLD, hub.most_sockets // 8))
    if hub.most_connections < limits.connections:
        _logger.info("descriptors are enough for %d connections, not for %d", hub.most_connections, limits.connections)


def open_connection(hub: Hub, door: Door, transport: Transport, address: str) -> Connection | None:
    """Begin a connection, if necessary in the place of one that has no member; return None if it was closed at once."""
    if hub.openings.full:
        make_way(hub)
    while (full := len(hub.connections) >= hub.most_connections) and make_way(hub, SHORT_CHANCE):
        pass  # more than one may have to: those that are told that these are too many stand above the limit
    if full and len(hub.connections) >= hub.most_sockets:
        transport.close()
        hub.refusals[RefusalCode.SERVER_FULL] += 1
        return None
    try:
        connection = Connection(hub, door, transport, address)
    except BaseException:  # the door is a fault of the program's
        transport.close()
        raise
    if full:
        why = f"the server is full; connections allowed: {hub.most_connections:,}"
        connection.turn_away(Refused(RefusalCode.SERVER_FULL, why))
    elif (too_many := hub.openings.one_too_many(connection.rate_limit.origin)) is not None:
        _give_way(hub, cast("Connection", too_many))
    return connection


def make_way(hub: Hub, chance: float = CHANCE) -> bool:
    """Close the connection without a member that is the first to give way; return False if there is none."""
    oldest = hub.openings.oldest(hub.timers.counted(hub.clock.monotonic()), chance)
    if oldest is not None:
        _give_way(hub, cast("Connection", oldest))
    return oldest is not None


def _give_way(hub: Hub, connection: Connection) -> None:
    """Close a connection now. Its client is told why, if the socket takes that at once."""
    why = "the server has too many connections that have not joined a room"
    connection.turn_away(Refused(RefusalCode.SERVER_FULL, why))
    connection.run(hub.clock.monotonic())
    if connection in hub.connections:
        connection.abort("connection_lost")


class Listener:
    """Accepts connections for a door. If the system has run out of descriptors, it pauses and tries again."""

    is_new = False

    def __init__(self, sock: socket.socket, door: Door, hub: Hub, selector: Selector) -> None:
        self._socket = sock
        self._door = door
        self._hub = hub
        self._selector = selector
        self._told = False
        self._listening = True
        selector.register(sock, READ, self)

    def readable(self, now: float) -> None:
        """Accept the connections that wait."""
        if not self._listening:
            return
        for _ in range(_AT_ONCE):
            if self._hub.openings.full and self._hub.openings.oldest(self._hub.timers.counted(now)) is None:
                self._pause(now + TICK)  # the others wait in the system's queue until these have had their chance
                return
            try:
                sock, sockaddr = self._socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED and not make_way(self._hub, SHORT_CHANCE):
                    self._say(error)
                    self._pause(now + _RETRY)
                    return
                continue  # that connection was gone before it was accepted (accept(2), "Error handling")
            try:
                self._open(sock, sockaddr)
            except Exception:  # also between slices, where nobody else would catch it
                self.crashed()
        # what is left is still readable in the next round

    def writable(self, now: float) -> None:
        """Never called, because a listening socket is only watched for reading."""

    def crashed(self) -> None:
        """Log that one connection could not be set up; the others are not affected."""
        _logger.exception("a connection could not be set up")

    def close(self) -> None:
        """Accept no more."""
        if self._listening:
            self._selector.unregister(self._socket)
        self._hub.timers.clear(self)
        self._listening = False
        self._socket.close()

    def _open(self, sock: socket.socket, sockaddr: tuple[str, int]) -> None:
        try:
            sock.setblocking(False)
            if sys.platform != "linux":
                configure(sock, self._hub.limits)
        except OSError:
            sock.close()  # gone already
            return
        open_connection(self._hub, self._door, SocketTransport(sock, self._selector), shown(sockaddr))

    def _say(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            _logger.error("cannot accept connections for now: %s; open connections are not affected", error.strerror)

    def _pause(self, until: float) -> None:
        self._selector.unregister(self._socket)
        self._listening = False
        self._hub.timers.set(self, until, self._resume)

    def _resume(self, now: float) -> None:
        self._selector.register(self._socket, READ, self)
        self._listening = True
        self.readable(now)
        if self._listening and self._told:
            self._told = False
            _logger.warning("accepting connections again")
