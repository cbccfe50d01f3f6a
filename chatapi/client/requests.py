"""What a client has asked of the server and not yet heard about, so that a lost connection loses none of it.

Every request has a key of ours, its `id` or `ref`. What was not answered when a connection broke goes out again under
its old key, in the old order, before anything new.

A message that the server could not keep (``unavailable``) waits here until it can be kept. From that refusal on no
message is written until those in flight are answered; then, after a pause, the first in the order of the calls is
tried, again and again, and once it is kept the others follow. So only what was in flight already can overtake it. The
server keeps a message once however often it comes, and it means the same some minutes later; a whisper, a new name,
another room or a question is about now, so whoever asked for it is told instead.

A server remembers the ids of messages and whispers for a limited time, at most so many of one session, and for no
longer than the session lives. Its welcome says how long and how many. What is written here obeys that:

- What was written once is written again only while the server is sure to know its id. After that, and when the welcome
  has the key of another session, it is unknown whether it was kept: whoever waits for it is told that.
- A new message or whisper waits while so many ids were written after an unanswered one that the server could forget
  that one.
- Nothing is written behind a join that is not answered: it would be unknown in which room it was said.
- Only a few of those that are written again are in flight at once, so that a server which reads slowly reads each of
  them within the margin that `resend_within` leaves.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, Final

from pydantic_core import to_json

from ..errors import DISCONNECTS, ChatError, Disconnected, Refused, TextTooLong
from ..limits import CHUNK_BYTES

FRAME_BYTES: Final = 64 * 1024
"""Bytes of one frame to the server at most, where its welcome does not say."""
MOST_IN_FLIGHT: Final = 1024
"""Requests that may be in flight at most."""
REMEMBER: Final = 300.0
"""Seconds for which the server remembers ids, where its welcome does not say."""
REMEMBER_IDS: Final = 1024
"""Ids of one session that the server remembers at most, where its welcome does not say."""
MARGIN: Final = 10.0
"""Seconds that a message may take from here until the server has read it."""
RESEND_WITHIN: Final = REMEMBER - MARGIN
"""Seconds for which a message waits that the server could not keep."""
AGAIN_AT_ONCE: Final = 8
"""Messages and whispers in flight at most that were written before."""

_SAID: Final = {"message": "kept", "whisper": "delivered"}
"""What has an id, and what is unknown of it where the answer is missing."""


def resend_within(remember: float) -> float:
    """Seconds after its first writing in which a message may be written again, for a server that remembers its id for
    `remember` seconds."""
    return remember - min(MARGIN, remember / 2)


def _nothing() -> None:
    pass


class Request:
    """Something that was asked of the server, and what came of it."""

    __slots__ = (
        "abandoned", "again", "done", "error", "fields", "frame", "held", "index", "key", "kind", "number", "oldest",
        "settled", "until", "value", "written",
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
        self.again: bool = False
        """Whether it is to be written again, or was."""
        self.until: float = inf
        """When it is not to be written again any more."""
        self.index: int = 0
        """How many ids had been written when it was first written, its own included; 0 before that."""
        self.oldest: int = 0
        """The smallest `index` of those that were unanswered then: the server may see any of them after this one."""
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
        self._remember, self._remember_ids = REMEMBER, REMEMBER_IDS
        self._prefix, self._count = prefix, 0
        self._most_in_flight = most_in_flight
        self._waiting: deque[Request] = deque()  # in the order of the calls
        self._in_flight: dict[str, Request] = {}
        self._unanswered: dict[str, Request] = {}  # what has an id and was written, in the order of the first writing
        self._ids = 0  # how many ids were ever written
        self._join: Request | None = None  # the join that is in flight
        self._pause = pause
        self._refusal: Refused | None = None  # why a message was not kept, until one is
        self._tries = 0
        self._try_at = -inf  # infinity until all that was in flight is answered

    def obey(self, *, frame_bytes: int, remember: float, remember_ids: int) -> None:
        """Keep to the limits that a welcome has named."""
        self.frame_bytes, self._remember, self._remember_ids = frame_bytes, remember, remember_ids
        for request in self._unanswered.values():
            if request.written is not None:
                request.until = min(request.until, request.written + resend_within(remember))

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
            self._drop(request)

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
            if request.kind in _SAID and request.written is not None and (why := self._why_forgotten(request, now)):
                self._give_up(request, why)
                continue
            self._waiting.remove(request)
            self._note_writing(request, now)
            request.error = None
            self._in_flight[request.key] = request
            frames.append(request.frame)
            size += len(request.frame)
        return frames

    def _note_writing(self, request: Request, now: float) -> None:
        if request.kind == "join":
            self._join = request
        if request.written is not None:
            return
        request.written = now
        if request.kind in _SAID:
            self._ids += 1
            request.index, request.until = self._ids, now + resend_within(self._remember)
            self._unanswered[request.key] = request
            request.oldest = next(iter(self._unanswered.values())).index

    def _why_forgotten(self, request: Request, now: float) -> str:
        """Why the server may have forgotten the id of what was written before; empty where it knows it for sure."""
        if now >= request.until:
            return "the connection was lost for too long"
        if self._ids - request.oldest >= self._remember_ids:
            return "the server remembers too few messages"
        return ""

    def _may_write(self, request: Request) -> bool:
        """Whether the server will still know all the ids that it may be shown again."""
        if request.kind not in _SAID:
            return True
        if request.written is not None:
            again = [one for one in self._in_flight.values() if one.again]
            return len(again) < AGAIN_AT_ONCE
        first = next(iter(self._unanswered.values()), None)
        return first is None or self._ids + 1 - first.oldest < self._remember_ids

    def due(self, now: float) -> float:
        """When to `take` again though nothing has happened; infinity for never."""
        return self._try_at if now < self._try_at else inf

    def _next(self, now: float) -> Request | None:
        """The first that may be written now."""
        if self._join is not None:
            return None
        may_say = self._refusal is None or (now >= self._try_at and not self._saying)
        held = False
        for request in self._waiting:
            if request.kind == "message" and not may_say:
                held = True
            elif request.kind == "join" and (held or self._saying):
                return None  # what was said before it belongs into this room, and may have to be said again
            else:
                return request if self._may_write(request) else None
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
            elif now - since > RESEND_WITHIN or now >= request.until:
                self._give_up(request, "the server could not keep it for too long")
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
            self._drop(request)
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
        if self._in_flight.pop(request.key, None) is not None:
            self._put_back(request)
        return True

    def try_again(self) -> None:
        """The server may be able to keep messages again: the pause is over."""
        self._try_at = -inf

    def lost(self) -> None:
        """The connection has ended: what was in flight is to be written again, in the order of the calls."""
        in_flight, self._in_flight = self._in_flight, {}
        for request in in_flight.values():
            self._put_back(request)
        self._join = None
        self.try_again()

    def session_lost(self) -> None:
        """The server does not know the session any more: it cannot tell what it has kept of it."""
        for request in list(self._unanswered.values()):
            self._give_up(request, "the server does not know this session any more")

    def moved(self, name: str, room: str, value: Any) -> None:
        """A rename or join whose answer was lost is seen to have taken place, where no other one stands before it."""
        for kind, field, now in (("rename", "to", name), ("join", "room", room)):
            first = next((r for r in self._waiting if r.kind == kind and r.written is not None), None)
            if first is not None and first.fields.get(field) == now:
                self._drop(first)
                first.settle(value)

    def fail(self, error: Callable[[], ChatError]) -> None:
        """Nobody gets an answer any more, to anything; of what the server refused last, that is the reason."""
        for request in [*self._in_flight.values(), *self._waiting]:
            request.abandoned = True
            request.settle(error=request.error or _unsure(request, error()))
        for request in list(self._waiting):
            self._drop(request)

    def _drop(self, request: Request) -> None:
        """Nothing more is to be done for it."""
        self._unanswered.pop(request.key, None)
        if request is self._join:
            self._join = None
        if self._in_flight.pop(request.key, None) is None:
            self._waiting.remove(request)

    def _put_back(self, request: Request) -> None:
        """It is to be written again, in the order of the calls, if somebody still waits for it."""
        if request.abandoned:
            self._unanswered.pop(request.key, None)
        else:
            request.again = True
            insort(self._waiting, request, key=_number)

    def _give_up(self, request: Request, why: str) -> None:
        """It may have been kept, and is not written again."""
        self._drop(request)
        lost = Disconnected(DISCONNECTS["connection_lost"], why)
        request.settle(error=request.error or _unsure(request, lost))


def _number(request: Request) -> int:
    return request.number


def _unsure(request: Request, error: ChatError) -> ChatError:
    """The error for a request that may have been carried out all the same, which it says."""
    if request.written is None or request.kind not in _SAID or not isinstance(error, Disconnected):
        return error
    detail = f"{error.detail}; it is unknown whether this {request.kind} was {_SAID[request.kind]}"
    unsure = Disconnected(error.reason, detail, sure=False)
    unsure.__cause__ = error.__cause__
    return unsure
