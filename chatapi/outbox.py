"""What a client has asked of the server and not yet heard about, so that a lost connection loses none of it.

Every request has a key of ours, its `id` or `ref`. What was not answered when a connection broke goes out again under
its old key, in the old order, before anything new.

A message that the server could not keep (``unavailable``) waits here until it can be kept. From that refusal on no
message is written until those in flight are answered; then, after a pause, the first in the order of the calls is
tried, again and again, and once it is kept the others follow. So only what was in flight already can overtake it. The
server keeps a message once however often it comes, and it means the same some minutes later; a whisper, a new name,
another room or a question is about now, so whoever asked for it is told instead.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, Final

from pydantic_core import to_json

from .errors import DISCONNECTS, ChatError, Disconnected, Refused, TextTooLong
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

    __slots__ = (
        "abandoned", "done", "error", "fields", "frame", "held", "key", "kind", "number", "settled", "value", "written",
    )  # fmt: skip

    def __init__(self, kind: str, number: int, key: str, fields: dict[str, Any]) -> None:
        self.kind: str = kind
        self.number: int = number
        """Its place in the order of the calls."""
        self.key: str = key
        self.fields: dict[str, Any] = fields
        self.frame: bytes = to_json({"type": kind, **fields, "id" if kind in _SAID else "ref": key}) + b"\n"
        self.written: float | None = None
        """When it was first handed over to be written."""
        self.held: float | None = None
        """When it was first held back, if it had not been written by then."""
        self.abandoned: bool = False
        """Whether nobody waits for it any more."""
        self.done: bool = False
        self.value: Any = None
        """The answer."""
        self.error: ChatError | None = None
        """Why there is none; before it is done, why the server has not kept it so far."""
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
    not yet answered. `pause` makes the seconds before another try (0, 1, 2 …) of what the server could not keep.
    """

    def __init__(self, prefix: str, most_in_flight: int, pause: Callable[[int], float]) -> None:
        self.frame_bytes: int = FRAME_BYTES
        """Bytes that the server takes in one frame."""
        self._prefix, self._count = prefix, 0
        self._most_in_flight = most_in_flight
        self._waiting: deque[Request] = deque()  # in the order of the calls
        self._in_flight: dict[str, Request] = {}
        self._pause = pause
        self._refusal: Refused | None = None  # why a message was not kept, until one is
        self._tries = 0
        self._try_at = -inf  # infinity until all that was in flight is answered

    @property
    def pending(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._waiting) or any(not request.abandoned for request in self._in_flight.values())

    @property
    def holds_back(self) -> bool:
        """Whether messages wait since the server could not keep one."""
        return self._refusal is not None

    def ask(self, kind: str, fields: dict[str, Any]) -> Request:
        """Put in a request, without the fields that are None. Raises `TextTooLong` and `ValueError`."""
        self._count += 1
        given = {name: value for name, value in fields.items() if value is not None}
        request = Request(kind, self._count, f"{self._prefix}-{self._count}", given)
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
        if self._refusal is not None:
            self._hold_back(self._refusal, now)
        frames: list[bytes] = []
        size = 0
        while len(self._in_flight) < self._most_in_flight and size < CHUNK_BYTES:
            request = self._next(now)
            if request is None:
                break
            self._waiting.remove(request)
            if request.written is None:
                request.written = now
            elif request.kind in _SAID and now - request.written > RESEND_WITHIN:
                _give_up(request)
                continue
            request.error = None
            self._in_flight[request.key] = request
            frames.append(request.frame)
            size += len(request.frame)
        return frames

    def due(self, now: float) -> float:
        """When to `take` again though nothing has happened; infinity for never."""
        return self._try_at if now < self._try_at else inf

    def _next(self, now: float) -> Request | None:
        """The first that may be written now."""
        may_say = self._refusal is None or (now >= self._try_at and not self._saying)
        held = False
        for request in self._waiting:
            if request.kind == "message" and not may_say:
                held = True
            elif request.kind == "join" and (held or self._saying):
                return None  # what was said before it belongs into this room, and may have to be said again
            else:
                return request
        return None

    @property
    def _saying(self) -> bool:
        """Whether a message is in flight."""
        return any(request.kind == "message" for request in self._in_flight.values())

    def _hold_back(self, refusal: Refused, now: float) -> None:
        """The server keeps nothing: give up what has waited for too long, and see when to try again."""
        waits = False
        for request in [request for request in self._waiting if request.kind == "message"]:
            since = request.written if request.held is None else request.held
            if since is None:
                request.held, request.error = now, Refused(refusal.code, refusal.detail)
            elif now - since > RESEND_WITHIN:
                self._waiting.remove(request)
                _give_up(request)
                continue
            waits = True
        if self._saying:
            return
        if not waits:
            self._let_go()
        elif self._try_at == inf:
            self._try_at = now + self._pause(self._tries)
            self._tries += 1

    def _let_go(self) -> None:
        """Nothing is held back any more."""
        self._refusal, self._tries, self._try_at = None, 0, -inf

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
            if self._refusal is not None and request.kind == "message" and error is None:
                if self._saying:
                    self.try_again()
                else:
                    self._let_go()
            request.settle(value, error)
        return request

    def not_kept(self, key: object, refusal: Refused) -> bool:
        """The server is not able to do this now: a message is put off, which is True; anything else has its answer."""
        request = self.find(key)
        if request is None or request.kind != "message":
            self.answered(key, error=refusal)
            return False
        request.error = self._refusal = refusal
        self._try_at = inf
        if self._in_flight.pop(request.key, None) is not None and not request.abandoned:
            insort(self._waiting, request, key=_number)
        return True

    def try_again(self) -> None:
        """The server may be able to keep messages again: the pause is over."""
        self._try_at = -inf

    def lost(self) -> None:
        """The connection has ended: what was in flight is to be written again, in the order of the calls."""
        for request in self._in_flight.values():
            if not request.abandoned:
                insort(self._waiting, request, key=_number)
        self._in_flight.clear()
        self.try_again()

    def moved(self, name: str, room: str, value: Any) -> None:
        """A rename or join whose answer was lost is seen to have taken place, where no other one stands before it."""
        for kind, field, now in (("rename", "to", name), ("join", "room", room)):
            first = next((r for r in self._waiting if r.kind == kind and r.written is not None), None)
            if first is not None and first.fields.get(field) == now:
                self._waiting.remove(first)
                first.settle(value)

    def fail(self, error: Callable[[], ChatError]) -> None:
        """Nobody gets an answer any more, to anything; of what the server refused last, that is the reason."""
        for request in [*self._in_flight.values(), *self._waiting]:
            request.abandoned = True
            request.settle(error=request.error or error())
        self._waiting.clear()


def _number(request: Request) -> int:
    return request.number


def _give_up(request: Request) -> None:
    detail = "the connection was lost for too long to say whether this was kept"
    request.settle(error=request.error or Disconnected(DISCONNECTS["connection_lost"], detail))
