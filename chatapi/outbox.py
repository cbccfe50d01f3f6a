"""What a client has asked of the server and not yet heard about, so that a lost connection loses none of it.

Every request has a key of ours, its `id` or `ref`. What was not answered when a connection broke goes out again under
its old key, in the old order, before anything new.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from pydantic_core import to_json

from .errors import DISCONNECTS, ChatError, Disconnected, TextTooLong
from .limits import CHUNK_BYTES

FRAME_BYTES: Final = 64 * 1024
"""Bytes of one frame to the server at most, where its welcome does not say."""
MOST_IN_FLIGHT: Final = 1024
"""Requests that may be in flight at most: as many as the server remembers ids, since all of them may be sent again."""
RESEND_WITHIN: Final = 290.0
"""Seconds after which a message is not sent again: the server remembers ids for 300."""

_SAID: Final = ("message", "whisper")


def _nothing() -> None:
    pass


class Request:
    """Something that was asked of the server, and what came of it."""

    __slots__ = ("abandoned", "done", "error", "fields", "frame", "key", "kind", "settled", "value", "written")

    def __init__(self, kind: str, key: str, fields: dict[str, Any]) -> None:
        self.kind: str = kind
        self.key: str = key
        self.fields: dict[str, Any] = fields
        self.frame: bytes = to_json({"type": kind, **fields, "id" if kind in _SAID else "ref": key}) + b"\n"
        self.written: float | None = None
        """When it was first handed over to be written."""
        self.abandoned: bool = False
        """Whether nobody waits for it any more."""
        self.done: bool = False
        self.value: Any = None
        """The answer."""
        self.error: ChatError | None = None
        """Why there is none."""
        self.settled: Callable[[], None] = _nothing
        """Called once it is done."""

    def settle(self, value: Any = None, error: ChatError | None = None) -> None:
        """It has been answered, or never will be."""
        if not self.done:
            self.done, self.value, self.error = True, value, error
            self.settled()


class Outbox:
    """The requests of one member, first those that are in flight, then those that wait to be written.

    `prefix` begins every key: unguessable, and at most 40 characters. `most_in_flight` bounds how many are written and
    not yet answered.
    """

    def __init__(self, prefix: str, most_in_flight: int) -> None:
        self.frame_bytes: int = FRAME_BYTES
        """Bytes that the server takes in one frame."""
        self._prefix, self._count = prefix, 0
        self._most_in_flight = most_in_flight
        self._waiting: deque[Request] = deque()
        self._in_flight: dict[str, Request] = {}

    @property
    def pending(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._waiting) or any(not request.abandoned for request in self._in_flight.values())

    def ask(self, kind: str, fields: dict[str, Any]) -> Request:
        """Put in a request, without the fields that are None. Raises `TextTooLong` and `ValueError`."""
        self._count += 1
        given = {name: value for name, value in fields.items() if value is not None}
        request = Request(kind, f"{self._prefix}-{self._count}", given)
        if len(request.frame) > self.frame_bytes:
            raise TextTooLong(f"a frame of {len(request.frame):,} bytes; at most {self.frame_bytes:,} are allowed")
        self._waiting.append(request)
        return request

    def withdraw(self, request: Request) -> None:
        """Nobody waits for it any more: it is not written, or if it was, not written again."""
        request.abandoned = True
        if request in self._waiting:
            self._waiting.remove(request)

    def take(self, now: float) -> list[bytes]:
        """The frames to write next, some 64 KiB of them; they are in flight from here on."""
        frames: list[bytes] = []
        size = 0
        while self._waiting and len(self._in_flight) < self._most_in_flight and size < CHUNK_BYTES:
            request = self._waiting.popleft()
            if request.written is None:
                request.written = now
            elif request.kind in _SAID and now - request.written > RESEND_WITHIN:
                detail = "the connection was lost for too long to say whether this was kept"
                request.settle(error=Disconnected(DISCONNECTS["connection_lost"], detail))
                continue
            self._in_flight[request.key] = request
            frames.append(request.frame)
            size += len(request.frame)
        return frames

    def find(self, key: object) -> Request | None:
        """The request with this key, if the server may have seen it: it may answer before it is written again."""
        if not isinstance(key, str):
            return None
        if key in self._in_flight:
            return self._in_flight[key]
        return next((r for r in self._waiting if r.key == key and r.written is not None), None)

    def answered(self, key: object, value: Any = None, error: ChatError | None = None) -> Request | None:
        """The request with this key is settled, if there is one."""
        request = self.find(key)
        if request is not None:
            if self._in_flight.pop(request.key, None) is None:
                self._waiting.remove(request)
            request.settle(value, error)
        return request

    def lost(self) -> None:
        """The connection has ended: what was in flight is first in line again."""
        self._waiting.extendleft(r for r in reversed(self._in_flight.values()) if not r.abandoned)
        self._in_flight.clear()

    def moved(self, name: str, room: str, value: Any) -> None:
        """A rename or join whose answer was lost is seen to have taken place, where no other one stands before it."""
        for kind, field, now in (("rename", "to", name), ("join", "room", room)):
            first = next((r for r in self._waiting if r.kind == kind and r.written is not None), None)
            if first is not None and first.fields.get(field) == now:
                self._waiting.remove(first)
                first.settle(value)

    def fail(self, error: Callable[[], ChatError]) -> None:
        """Nobody gets an answer any more, to anything."""
        for request in [*self._in_flight.values(), *self._waiting]:
            request.abandoned = True
            request.settle(error=error())
        self._waiting.clear()
