"""The telnet protocol: takes its commands out of a stream, and answers them."""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

_SE, _AYT, _SB, _WILL, _WONT, _DO, _DONT, _IAC = b"\xf0", b"\xf6", b"\xfa", b"\xfb", b"\xfc", b"\xfd", b"\xfe", b"\xff"


_REFUSAL: Final = {_WILL: _DONT, _DO: _WONT}


_ANSWERS: Final = 64


"""Answers to one read at most: a client asks for about twenty options, once."""


_SUBNEGOTIATION: Final = re.compile(rb"(?:[^\xff]++|\xff[^\xf0])*+")  # up to its IAC SE, or an IAC at the end


_SEQUENCE: Final = re.compile(
    rb"""\xff(?:
        (\xff)                                         # a byte of data
      | ([\xfb\xfd].|\xf6)                            # WILL or DO with its option, AYT: these are answered
      | [\xfc\xfe].                                   # WONT or DONT
      | \xfa(?:[^\xff]++|\xff[^\xf0])*+\xff\xf0      # a subnegotiation
      | [^\xf6\xfa-\xff]                              # any other command
      | ([\xfb-\xfe]?\Z|\xfa(?:[^\xff]++|\xff[^\xf0])*+\xff?\Z)  # cut off
    )""",
    re.DOTALL | re.VERBOSE,
)


class TelnetFilter:
    """Takes the IAC sequences out of a telnet stream (RFC 854) and refuses every option (RFC 855).

    A stream without a 0xFF byte passes as it is, so that ``nc`` works as well. No Python code runs for each sequence:
    a stream of nothing else costs little more than one of text.
    """

    __slots__ = ("_carriage_return", "_cut", "_negotiating")

    def __init__(self) -> None:
        self._cut = b""  # a sequence of which the rest has not come, its first two bytes at most
        self._negotiating = False  # within a subnegotiation
        self._carriage_return = b""  # one whose meaning the next byte tells

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """The text in `data`, and what must be answered: at most a few hundred bytes."""
        replies = b""
        if self._cut or self._negotiating or _IAC in data:
            data, replies = self._take_out(self._cut + data)
        data = self._carriage_return + data
        self._carriage_return = b"\r" if data.endswith(b"\r") else b""
        data = data.removesuffix(b"\r")
        # a new line is a carriage return with a line feed, or with a NUL (RFC 854, "The NVT Printer and Keyboard")
        return data.replace(b"\r\0", b"\n"), replies

    def _take_out(self, data: bytes) -> tuple[bytes, bytes]:
        self._cut = b""
        if self._negotiating:
            end = _end_of_subnegotiation(data)
            if len(data) - end < 2:  # all of it, or all but an IAC
                self._cut = data[end:]
                return b"", b""
            self._negotiating = False
            data = data[end + 2 :]
        # text, a byte of data, what is answered, what is cut off, text, …
        parts = _SEQUENCE.split(data)
        if len(parts) > 1 and (cut := parts[-2]) is not None:
            self._negotiating = cut.startswith(_SB)
            self._cut = cut[_end_of_subnegotiation(cut, 1) :] if self._negotiating else _IAC + cut
            parts[-2] = None
        asked = islice(filter(None, parts[2::4]), _ANSWERS)
        replies = b"".join(
            b"\r\n[yes]\r\n" if request == _AYT else _IAC + _REFUSAL[request[:1]] + request[1:] for request in asked
        )
        del parts[2::4]
        return b"".join(filter(None, parts)), replies


def _end_of_subnegotiation(data: bytes, at: int = 0) -> int:
    """Where its IAC SE begins, or an IAC that is the last byte, or the end of `data`."""
    found = _SUBNEGOTIATION.match(data, at)
    assert found is not None  # it matches anything
    return found.end()
