"""Redis's protocol in its oldest form, as much of it as one command on a connection of its own takes."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, BinaryIO

Reply = Any
"""Bulk strings as bytes, simple strings as str, numbers as int, None, and lists of these."""


class RedisError(Exception):
    """An error that Redis answered with, such as `MOVED 5061 127.0.0.1:7002`."""


def call(port: int, command: Sequence[str | bytes | float], timeout: float) -> Reply:
    """Return the answer of a server on this machine; raise RedisError, TimeoutError or ConnectionError if it fails."""
    words = [word if isinstance(word, bytes) else str(word).encode() for word in command]
    request = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as stream:
            return read(stream)


def read(stream: BinaryIO) -> Reply:
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError("the connection ended in a reply")
    kind, rest = line[:1], line[1:-2]
    match kind:
        case b"+":
            return rest.decode()
        case b"-":
            raise RedisError(rest.decode())
        case b":":
            return int(rest)
        case b"$":
            return None if rest == b"-1" else stream.read(int(rest) + 2)[:-2]
        case b"*":
            return None if rest == b"-1" else [read(stream) for _ in range(int(rest))]
    raise AssertionError(f"not RESP2: {line!r}")
