"""Addresses as people type them: ``localhost:8989``, ``:8989``, ``[::1]:8989``."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final, NamedTuple

from .errors import AddressError
from .limits import Limits

DEFAULT_ADDRESS: Final = "localhost:8989"

_NO_SUCH_FAMILY: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)
_FORM: Final = "an address is HOST:PORT, such as localhost:8989, :8989 or [::1]:8989"


class Address(NamedTuple):
    """A host (empty for all of this machine's addresses) and a port (0 for any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the address that `text` gives. Raises `AddressError`."""
    host, colon, port = text.strip().rpartition(":")
    if not colon:
        raise AddressError(f"{text!r} has no port; {_FORM}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise AddressError(f"{text!r}: an IPv6 address must be in brackets; {_FORM}")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise AddressError(f"{text!r}: {port!r} is not a port from 0 to 65535; {_FORM}")
    return Address(host, int(port))


def shown(sockaddr: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """Return a peer's address for a log: an IPv4 address inside an IPv6 address is shown as IPv4."""
    return str(Address(sockaddr[0].removeprefix("::ffff:"), sockaddr[1]))


def bind(address: Address, limits: Limits) -> list[socket.socket]:
    """Return listening sockets for every address of the host, separate ones for IPv4 and IPv6.

    A family that this machine lacks is skipped. Raises `AddressError` if the host is not known, and `OSError` if an
    address cannot be used, for example because it is in use; its `filename` is the address.
    """
    try:
        found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else "not a host name"
        raise AddressError(f"{str(address)!r}: the host {address.host!r} is not known ({reason})") from None
    sockets: list[socket.socket] = []
    skipped: OSError | None = None
    port = address.port
    try:
        for family, _, _, _, sockaddr in dict.fromkeys(found):
            try:
                sock = _listen(family, (sockaddr[0], port, *sockaddr[2:]), limits)
            except OSError as error:
                error.filename = str(address)
                if error.errno not in _NO_SUCH_FAMILY:
                    raise
                skipped = error
                continue
            sockets.append(sock)
            port = sock.getsockname()[1]  # the other family gets the same port if any free one was asked for
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    if not sockets:
        raise skipped or AddressError(f"{str(address)!r}: this machine does not have this address")
    return sockets


def free_descriptors() -> int | None:
    """Return how many more descriptors this process may open; None if that is not known."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most == resource.RLIM_INFINITY:
        return None
    try:
        return most - len(os.listdir("/dev/fd"))
    except OSError:
        return most


def configure(sock: socket.socket, limits: Limits) -> None:
    """Set the options of every connection: no delay, small buffers on both sides, a dead peer noticed in a minute."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.send_buffer_bytes)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, limits.receive_buffer_bytes)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


_KEEPALIVE: Final = {"TCP_KEEPIDLE": 25, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 5, "TCP_USER_TIMEOUT": 50_000}


def _listen(family: int, sockaddr: tuple[object, ...], limits: Limits) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        configure(sock, limits)  # Linux hands these on to every connection that is accepted
        sock.bind(sockaddr)
        sock.listen(4096)
    except BaseException:
        sock.close()
        raise
    return sock


def reason(error: BaseException) -> str:
    """Return the system's text about an error, without the texts that libraries put around it."""
    while isinstance(error.__cause__, OSError | BaseExceptionGroup):  # anyio tries several addresses
        error = error.__cause__
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[-1]
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)  # asyncio replaces this text by "Connect call failed" and an address
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
