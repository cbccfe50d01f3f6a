"""Clients of other protocols, HTTP and TLS, told by the first thing they send, so that they get a plain answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ..addresses import Address
from ..core.handshake import EXAMPLE
from ..errors import RefusalCode, Refused
from .framing import ReceiveBuffer

_TLS: Final = b"\x16\x03"  # a record of the type handshake, of SSL 3.0 or any TLS (RFC 8446, 5.1)
_METHOD: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token (RFC 9110, 9.1 and 5.6.2)
_VERSION: Final = re.compile(rb"HTTP/[0-9]+(?:\.[0-9]+)?")
_PIECE: Final = re.compile(rb"[A-Z]{1,32}(?: .*)?\Z|\x16\Z", re.DOTALL)
_LOOKED_AT: Final = 64  # bytes of a piece that is not a whole line: enough to tell a method


class Stranger(Refused):
    """A client that speaks HTTP or TLS; it is refused as any other bad handshake, in its own way."""

    def __init__(self, protocol: str, *, body: bool = True) -> None:
        super().__init__(RefusalCode.BAD_HANDSHAKE, f"this is {protocol}, which this port does not speak")
        self.protocol: str = protocol
        self._body = body

    def answer(self, listening: Mapping[str, Address]) -> bytes:
        """Return its answer: for HTTP a response that says how to connect, and that a browser uses for nothing else."""
        if self.protocol == "TLS":
            return b"this port does not speak TLS; connect to it without encryption\n"
        people, programs = how_people_connect(listening), listening.get("text")
        where = "connect" if programs is None else f"connect to {_place(programs, ':')}"
        help_lines = ["This is a MaChat chat server. It uses plain TCP, not HTTP."]
        if people:
            help_lines.append(f"People: {people}")
        help_lines.append(f"Programs: {where}, send {EXAMPLE}, and then lines of text.")
        body = "".join(f"{line}\n" for line in help_lines).encode(errors="replace")
        head = (
            "HTTP/1.1 400 Bad Request\r\n"
            "Content-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\n"
            "Connection: close\r\n"
            "Cache-Control: no-store\r\n"
            "X-Content-Type-Options: nosniff\r\n"
            "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"
            "Cross-Origin-Resource-Policy: same-origin\r\n"
            "\r\n"
        )
        return head.encode() + (body if self._body else b"")


def find_stranger(data: bytes) -> Stranger | None:
    """Return the refusal if `data` begins with the hello of TLS or with a whole request line of HTTP, of any version.

    ``METHOD TARGET HTTP/VERSION`` is such a line, and so is the preface of HTTP/2. Similar lines are not.
    """
    if data.startswith(_TLS):
        return Stranger("TLS")
    end = data.find(b"\n")
    if end < 0:
        return None
    method, _, rest = data[:end].rstrip().partition(b" ")
    target, _, version = rest.rpartition(b" ")
    if target.strip() and _VERSION.fullmatch(version) and _METHOD.fullmatch(method):
        return Stranger("HTTP", body=method != b"HEAD")
    return None


def may_become_stranger(data: bytes) -> bool:
    """Whether `data` may be the beginning of something that `find_stranger` knows: more must come to tell."""
    return _PIECE.match(data[:_LOOKED_AT]) is not None and b"\n" not in data


def refuse_strangers(received: ReceiveBuffer) -> bool:
    """Raise `Stranger` if a client speaks HTTP or TLS; return whether more bytes must come to tell.

    A door of lines calls it before each line that it takes out for a client that has not joined.
    """
    data = received.data[received.at :]
    if (stranger := find_stranger(data + b"\n" if received.ended else data)) is not None:
        received.advance(len(received.data))
        raise stranger
    return not received.ended and may_become_stranger(data)


def how_people_connect(listening: Mapping[str, Address]) -> str:
    """Return the command with which people connect; empty if no door is for them."""
    return f"telnet {_place(address, ' ')}" if (address := listening.get("telnet")) is not None else ""


def _place(address: Address, between: str) -> str:
    """Return an address to connect to; HOST stands for a server that listens on all of its addresses."""
    host, port = address
    if host in ("", "0.0.0.0", "::"):
        host = "HOST"
    return f"[{host}]{between}{port}" if ":" in host and between == ":" else f"{host}{between}{port}"
