"""Cutting a stream of bytes into what it says: where a JSON object ends, which lines are whole and clean, and
what of a telnet stream is text. Everything here works on whole blocks at C speed and keeps no more than it must.
"""

from __future__ import annotations

import re
from typing import Final

_STRUCTURE: Final = re.compile(rb'["\\{}\[\]]')


class ObjectScanner:
    """Finds the end of a JSON object that arrives in any number of pieces, looking at every byte once."""

    __slots__ = ("_at", "_depth", "_in_string")

    def __init__(self) -> None:
        self._at = 0
        self._depth = 0
        self._in_string = False

    def end(self, data: bytes) -> int:
        """The index behind the object's closing brace, or 0 while it is not there.

        `data` is everything so far, from the opening brace on. What the object says is not checked here.
        """
        at = self._at
        while found := _STRUCTURE.search(data, at):
            at = found.end()
            char = data[at - 1]
            if self._in_string:
                if char == 0x5C:  # a backslash takes the next byte with it
                    at += 1
                elif char == 0x22:
                    self._in_string = False
            elif char == 0x22:
                self._in_string = True
            elif char in b"{[":
                self._depth += 1
            elif char in b"}]":
                self._depth -= 1
                if self._depth <= 0:
                    return at
        self._at = max(at, len(data))
        return 0
