"""A selector of sockets for the poller: epoll with little work for each event, or the system's default."""

from __future__ import annotations

import select
import selectors
import socket
import sys
from collections.abc import Callable
from typing import Final, Protocol

READ: Final = 1
WRITE: Final = 2


class Pollable(Protocol):
    """An object that is told what its transport can do now."""

    @property
    def is_new(self) -> bool:
        """Whether it is still on its way in: members are served first."""
        ...

    def readable(self, now: float) -> object:
        """Receive: there are bytes, or the end of the stream."""
        ...

    def writable(self, now: float) -> None:
        """Send: there is room for bytes."""
        ...

    def crashed(self) -> None:
        """Handle an exception that one of these has raised; it can be logged as the current one."""
        ...


class Selector(Protocol):
    """Tells which of its sockets can be read or written. A socket without an owner only ends the waiting."""

    def register(self, sock: socket.socket, mask: int, owner: Pollable | None, /) -> object:
        """Begin to watch a socket for `mask`, `READ` or `WRITE` or both."""
        ...

    def modify(self, sock: socket.socket, mask: int, owner: Pollable | None, /) -> object:
        """Watch a socket for another mask."""
        ...

    def unregister(self, sock: socket.socket, /) -> object:
        """Watch a socket no more."""
        ...

    def select(self, timeout: float | None = None, /) -> list[tuple[Pollable | None, int]]:
        """Return the owners of the sockets that are ready, each with the part of its mask that is possible now."""
        ...

    def fileno(self) -> int | None:
        """Return a descriptor that is readable while a socket is ready; None if the system has none."""
        ...

    def close(self) -> None:
        """Watch nothing any more."""
        ...


class _Any:
    """The selector of the standard library that suits the system best."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.register = self._selector.register
        self.modify = self._selector.modify
        self.unregister = self._selector.unregister
        self.close = self._selector.close

    def select(self, timeout: float | None = None, /) -> list[tuple[Pollable | None, int]]:
        return [(key.data, mask) for key, mask in self._selector.select(timeout)]

    def fileno(self) -> int | None:
        fileno = getattr(self._selector, "fileno", None)
        return None if fileno is None else int(fileno())


if sys.platform == "linux":
    _IN: Final = select.EPOLLIN
    _OUT: Final = select.EPOLLOUT

    class _Epoll:
        """epoll: the same as `selectors.EpollSelector`, in a third of the time."""

        def __init__(self) -> None:
            self._epoll = select.epoll()
            self._watched: dict[int, tuple[Pollable | None, int]] = {}
            self.fileno = self._epoll.fileno
            self.close = self._epoll.close

        def register(self, sock: socket.socket, mask: int, owner: Pollable | None, /) -> None:
            descriptor = sock.fileno()
            self._epoll.register(descriptor, _events(mask))
            self._watched[descriptor] = owner, mask

        def modify(self, sock: socket.socket, mask: int, owner: Pollable | None, /) -> None:
            descriptor = sock.fileno()
            self._epoll.modify(descriptor, _events(mask))
            self._watched[descriptor] = owner, mask

        def unregister(self, sock: socket.socket, /) -> None:
            descriptor = sock.fileno()
            del self._watched[descriptor]
            self._epoll.unregister(descriptor)

        def select(self, timeout: float | None = None, /) -> list[tuple[Pollable | None, int]]:
            ready = []
            for descriptor, event in self._epoll.poll(timeout, len(self._watched) or 1):
                owner, mask = self._watched[descriptor]
                # a hang-up or an error is found out by reading or writing
                ready.append((owner, READ if event == _IN else mask & (READ * (event != _OUT) | WRITE)))
            return ready

    def _events(mask: int) -> int:
        return (_IN if mask & READ else 0) | (_OUT if mask & WRITE else 0)

    new_selector: Callable[[], Selector] = _Epoll
    """Makes the selector that costs least on this system."""
else:
    new_selector: Callable[[], Selector] = _Any
