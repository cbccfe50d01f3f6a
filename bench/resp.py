"""Redis, spoken to over a plain socket that waits for each answer: as much of its protocol as the studies need."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Any, Final

from .servers import ServerFailed

Word = str | bytes | int
_SECONDS: Final = 60


def request(words: Iterable[Word]) -> bytes:
    """A command as it is sent."""
    each = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(each) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in each])


class Redis:
    """A connection to a server on this machine."""

    def __init__(self, port: int) -> None:
        self.socket: socket.socket = socket.create_connection(("127.0.0.1", port), _SECONDS)
        self._stream = self.socket.makefile("rb")

    def ask(self, *words: Word) -> Any:
        """What it answers: bytes, a number, None, or a list of these. Raises `ServerFailed` for an error."""
        self.socket.sendall(request(words))
        return self._answer()

    def counters(self, section: str) -> dict[str, str]:
        """A section of what INFO says."""
        lines = self.ask("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def calls(self, command: str) -> int:
        """How often a command has been called until now, by scripts too."""
        counted = self.counters("commandstats").get(f"cmdstat_{command}", "calls=0,")
        return int(counted.partition("=")[2].partition(",")[0])

    def _answer(self) -> Any:
        line = self._stream.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._stream.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [self._answer() for _ in range(int(rest))]
        raise ServerFailed(f"Redis answered {line.decode(errors='replace').strip() or 'nothing'}")

    def __enter__(self) -> Redis:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """No more."""
        self._stream.close()
        self.socket.close()
