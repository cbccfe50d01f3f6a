"""Requests to one Redis server besides the sections of rooms: commands, and calls of scripts."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from ...core.broker import unavailable
from ...errors import Refused
from ...pending import Pending
from .scripts import Value

_logger = logging.getLogger("chatapi")

MOST_ANSWER_BYTES: Final = 8 * 1024 * 1024
"""Approximate bytes of answers in one round trip: Redis disconnects a subscriber that has 32 MB to read, by default."""


class Request:
    """A command, or a call of the script that `script` names."""

    __slots__ = ("answer", "answer_bytes", "arguments", "keys", "script")

    def __init__(self, arguments: Sequence[Value], script: str, keys: Sequence[str], answer_bytes: int) -> None:
        self.arguments: Sequence[Value] = arguments
        self.script: str = script
        self.keys: Sequence[str] = keys
        self.answer_bytes: int = answer_bytes
        """Approximate size of the answer, if it may be large."""
        self.answer: Pending[Any] = Pending()

    def settle(self, answer: Any) -> None:
        """Set the answer, or a `Refused`. An error of ours is logged, because it must not break the connection."""
        try:
            if isinstance(answer, Refused):
                self.answer.fail(answer)
            else:
                self.answer.resolve(answer)
        except Exception:
            _logger.exception("an error inside the server, with an answer of Redis")

    def fail(self) -> None:
        """Refuse the request, because it cannot be sent or its answer is lost."""
        self.settle(unavailable("Redis does not answer"))

    def command(self, hashes: dict[str, bytes]) -> list[Any]:
        """Return the words of the command; `hashes` are those of the scripts."""
        if self.script:
            return [b"EVALSHA", hashes[self.script], len(self.keys), *self.keys, *self.arguments]
        name, *arguments = self.arguments
        return [str(name).encode(), *arguments]


class Requests:
    """The requests that wait, and those that are sent and have no answer so far."""

    def __init__(self) -> None:
        self._waiting: deque[Request] = deque()
        self._sent: deque[Request] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, request: Request) -> None:
        """Have a request wait for the next round trip."""
        self._waiting.append(request)

    def take(self) -> list[Request]:
        """Return the requests for the next round trip. Large answers come last, and only a bounded amount of them."""
        small, large, later = list[Request](), list[Request](), deque[Request]()
        answer_bytes = 0
        for request in self._waiting:
            answer_bytes += request.answer_bytes
            if not request.answer_bytes:
                small.append(request)
            elif answer_bytes <= MOST_ANSWER_BYTES or not large:
                large.append(request)
            else:
                later.append(request)
        self._waiting = later
        self._sent = deque(small + large)
        return small + large

    def answered(self, answer: Any) -> None:
        """Settle the request that was sent first, with an answer or a `Refused`."""
        self._sent.popleft().settle(answer)

    def fail_sent(self) -> None:
        """Fail the requests that were sent, because their answers are lost."""
        failed, self._sent = self._sent, deque()
        for request in failed:
            request.fail()

    def fail_waiting(self) -> None:
        """Fail the requests that wait."""
        failed, self._waiting = self._waiting, deque()
        for request in failed:
            request.fail()
