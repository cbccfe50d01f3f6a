"""The requests of a client that are not answered yet, kept so that a lost connection loses none of them.

Each request has a key that the client chose, its `id` or `ref`. After a connection has broken, unanswered requests are
sent again with their old keys, in their old order, before new ones.

A message that the server could not keep (``unavailable``) waits here. After such a refusal the client sends no message
until the messages in flight are answered; then, after a pause, it sends the first waiting message, repeatedly if
necessary; when that one is kept, the others follow. So only messages that were in flight already can overtake it. Only
messages are sent again after such a refusal: the server keeps a message once, however often it is sent, and its meaning
does not change within minutes. Whispers, renames, joins and questions depend on the moment, so the caller gets the
error.

A server remembers the ids of messages and whispers for a limited time, a limited number for each session, and no longer
than the session exists. Its welcome names both limits. This module obeys them:

- A request that was written is written again only while the server is sure to remember its id. After that, or if the
  welcome has the key of another session, the outcome is unknown, and the caller gets an error that says so.
- A new message or whisper waits if so many ids were written after an unanswered one that the server could forget that
  one.
- Nothing is written after a join until the join is answered: it would be unknown to which room it belongs.
- Only a few rewritten requests are in flight at once, so that a slow server reads each of them within the margin that
  `resend_within` leaves.
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
"""The largest frame to the server, in bytes, if its welcome does not name a limit."""
MAX_IN_FLIGHT_LIMIT: Final = 1024
"""The largest number of requests in flight that a program may choose."""
REMEMBER: Final = 300.0
"""Seconds for which the server remembers ids, if its welcome does not name them."""
REMEMBER_IDS: Final = 1024
"""The number of ids of one session that the server remembers, if its welcome does not name it."""
MARGIN: Final = 10.0
"""Seconds that a message may take until the server has read it."""
RESEND_WITHIN: Final = REMEMBER - MARGIN
"""Seconds for which a message waits after the server could not keep it."""
MAX_REWRITTEN_IN_FLIGHT: Final = 8
"""The largest number of rewritten messages and whispers in flight."""

_OUTCOMES: Final = {"message": "kept", "whisper": "delivered"}
"""The requests that have an id, each with the outcome that is unknown if the answer is missing."""


def resend_within(remember: float) -> float:
    """Return the seconds after its first writing in which a message may be written again.

    `remember` is the number of seconds for which the server remembers its id.
    """
    return remember - min(MARGIN, remember / 2)


def _nothing() -> None:
    pass


class Request:
    """A request to the server and its outcome."""

    __slots__ = (
        "abandoned", "done", "error", "fields", "frame", "held_since", "id_number", "key", "kind", "number",
        "oldest_unanswered", "on_settled", "rewrite_until", "rewritten", "value", "written_at",
    )  # fmt: skip

    def __init__(self, kind: str, number: int, key: str, fields: dict[str, Any]) -> None:
        self.kind: str = kind
        self.number: int = number
        """Its position in the order of the calls."""
        self.key: str = key
        self.fields: dict[str, Any] = fields
        self.frame: bytes = to_json({"type": kind, **fields, "id" if kind in _OUTCOMES else "ref": key}) + b"\n"
        self.written_at: float | None = None
        """When it was first written."""
        self.rewritten: bool = False
        """Whether it waits to be written again, or was."""
        self.rewrite_until: float = inf
        """The last time at which it may be written again."""
        self.id_number: int = 0
        """The number of ids written up to and including its own; 0 before it is written."""
        self.oldest_unanswered: int = 0
        """The smallest `id_number` that was unanswered then: the server may read those requests after this one."""
        self.held_since: float | None = None
        """When it was first held back, if it had not been written before."""
        self.abandoned: bool = False
        """Whether its caller no longer waits for the answer."""
        self.done: bool = False
        self.value: Any = None
        """The answer."""
        self.error: ChatError | None = None
        """The error in place of an answer; before `done`, the reason why the server has not kept it so far."""
        self.on_settled: Callable[[], None] = _nothing
        """Called when it is done."""

    def settle(self, value: Any = None, error: ChatError | None = None) -> None:
        """Set the answer or the error, and call `on_settled`."""
        if not self.done:
            self.done, self.value, self.error = True, value, error
            self.on_settled()


class PendingRequests:
    """The requests of one member: those in flight, and those that wait to be written.

    Args:
        prefix: The beginning of each key: not guessable, at most 40 characters.
        max_in_flight: The largest number of requests that are written and not answered.
        pause: Returns the seconds before an attempt (0, 1, 2 …) to send a message that the server could not keep.
    """

    def __init__(self, prefix: str, max_in_flight: int, pause: Callable[[int], float]) -> None:
        self.frame_bytes: int = FRAME_BYTES
        """The largest frame that the server accepts, in bytes."""
        self._remember, self._remember_ids = REMEMBER, REMEMBER_IDS
        self._prefix, self._count = prefix, 0
        self._max_in_flight = max_in_flight
        self._waiting: deque[Request] = deque()  # in the order of the calls
        self._in_flight: dict[str, Request] = {}
        self._unanswered: dict[str, Request] = {}  # written, with an id, in the order of the first writing
        self._ids_written = 0  # the number of ids ever written
        self._join: Request | None = None  # the join in flight
        self._pause = pause
        self._refusal: Refused | None = None  # why the last message was not kept; None after one was kept
        self._attempts = 0
        self._retry_at = -inf  # infinity until the messages in flight are answered

    def set_limits(self, *, frame_bytes: int, remember: float, remember_ids: int) -> None:
        """Apply the limits that a welcome has named."""
        self.frame_bytes, self._remember, self._remember_ids = frame_bytes, remember, remember_ids
        for request in self._unanswered.values():
            if request.written_at is not None:
                request.rewrite_until = min(request.rewrite_until, request.written_at + resend_within(remember))

    @property
    def awaited(self) -> bool:
        """Whether any caller waits for an answer."""
        return bool(self._waiting) or any(not request.abandoned for request in self._in_flight.values())

    @property
    def holds_back(self) -> bool:
        """Whether messages wait because the server could not keep one."""
        return self._refusal is not None

    def add(self, kind: str, fields: dict[str, Any]) -> Request:
        """Add a request, without the fields that are None. Raises `TextTooLong` and `ValueError`."""
        self._count += 1
        given = {name: value for name, value in fields.items() if value is not None}
        request = Request(kind, self._count, f"{self._prefix}-{self._count}", given)
        if len(request.frame) > self.frame_bytes:
            raise TextTooLong(f"the frame has {len(request.frame):,} bytes; at most {self.frame_bytes:,} are allowed")
        self._waiting.append(request)
        return request

    def withdraw(self, request: Request) -> None:
        """Do not write a request, or not again, because its caller no longer waits for it."""
        request.abandoned = True
        if request in self._waiting:
            self._remove(request)

    def next_frames(self, now: float) -> list[bytes]:
        """Return the frames to write next, about 64 KiB; they count as in flight from now on."""
        if self._refusal is not None:
            self._hold_back(self._refusal, now)
        frames: list[bytes] = []
        size = 0
        while len(self._in_flight) < self._max_in_flight and size < CHUNK_BYTES:
            request = self._next_writable(now)
            if request is None:
                break
            if (
                request.kind in _OUTCOMES
                and request.written_at is not None
                and (why := self._why_id_unknown(request, now))
            ):
                self._give_up(request, why)
                continue
            self._waiting.remove(request)
            self._mark_written(request, now)
            request.error = None
            self._in_flight[request.key] = request
            frames.append(request.frame)
            size += len(request.frame)
        return frames

    def _mark_written(self, request: Request, now: float) -> None:
        if request.kind == "join":
            self._join = request
        if request.written_at is not None:
            return
        request.written_at = now
        if request.kind in _OUTCOMES:
            self._ids_written += 1
            request.id_number, request.rewrite_until = self._ids_written, now + resend_within(self._remember)
            self._unanswered[request.key] = request
            request.oldest_unanswered = next(iter(self._unanswered.values())).id_number

    def _why_id_unknown(self, request: Request, now: float) -> str:
        """Return why the server may have forgotten the id of a written request; empty if it is sure to know it."""
        if now >= request.rewrite_until:
            return "the connection was lost for too long"
        if self._ids_written - request.oldest_unanswered >= self._remember_ids:
            return "the server may have forgotten its id"
        return ""

    def _may_write(self, request: Request) -> bool:
        """Whether the server will still know the ids of all requests that may have to be written again."""
        if request.kind not in _OUTCOMES:
            return True
        if request.written_at is not None:
            again = [one for one in self._in_flight.values() if one.rewritten]
            return len(again) < MAX_REWRITTEN_IN_FLIGHT
        first = next(iter(self._unanswered.values()), None)
        return first is None or self._ids_written + 1 - first.oldest_unanswered < self._remember_ids

    def next_attempt(self, now: float) -> float:
        """Return the time at which to call `next_frames` even if nothing happens; infinity for never."""
        return self._retry_at if now < self._retry_at else inf

    def _next_writable(self, now: float) -> Request | None:
        """Return the first request that may be written now."""
        if self._join is not None:
            return None
        may_say = self._refusal is None or (now >= self._retry_at and not self._message_in_flight)
        held = False
        for request in self._waiting:
            if request.kind == "message" and not may_say:
                held = True
            elif request.kind == "join" and (held or self._message_in_flight):
                return None  # messages before it belong to this room, and may have to be written again
            else:
                return request if self._may_write(request) else None
        return None

    @property
    def _message_in_flight(self) -> bool:
        """Whether a message is in flight."""
        return any(request.kind == "message" for request in self._in_flight.values())

    def _hold_back(self, refusal: Refused, now: float) -> None:
        """While the server keeps nothing: give up messages that have waited too long, and plan the next attempt."""
        waits = False
        for request in [request for request in self._waiting if request.kind == "message"]:
            since = request.written_at if request.held_since is None else request.held_since
            if since is None:
                request.held_since, request.error = now, Refused(refusal.code, refusal.detail)
            elif now - since > RESEND_WITHIN or now >= request.rewrite_until:
                self._give_up(request, "the server has refused it for too long")
                continue
            waits = True
        if self._message_in_flight:
            return
        if not waits:
            self._stop_holding_back()
        elif self._retry_at == inf:
            self._retry_at = now + self._pause(self._attempts)
            self._attempts += 1

    def _stop_holding_back(self) -> None:
        """Allow all messages to be written again."""
        self._refusal, self._attempts, self._retry_at = None, 0, -inf

    def find(self, key: object) -> Request | None:
        """Return the request with this key if the server may have read it, even if it waits to be written again."""
        if not isinstance(key, str):
            return None
        if key in self._in_flight:
            return self._in_flight[key]
        return next((r for r in self._waiting if r.key == key and r.written_at is not None), None)

    def settle(self, key: object, value: Any = None, error: ChatError | None = None) -> Request | None:
        """Settle the request with this key and return it; None if there is none."""
        request = self.find(key)
        if request is not None:
            self._remove(request)
            if self._refusal is not None and request.kind == "message" and error is None:
                if self._message_in_flight:
                    self.retry_now()
                else:
                    self._stop_holding_back()
            request.settle(value, error)
        return request

    def on_unavailable(self, key: object, refusal: Refused) -> bool:
        """Handle ``unavailable``: put a message off and return True, or settle another request with the error."""
        request = self.find(key)
        if request is None or request.kind != "message":
            self.settle(key, error=refusal)
            return False
        request.error = self._refusal = refusal
        self._retry_at = inf
        if self._in_flight.pop(request.key, None) is not None:
            self._requeue(request)
        return True

    def retry_now(self) -> None:
        """End the pause, because the server may be able to keep messages again."""
        self._retry_at = -inf

    def connection_lost(self) -> None:
        """Put the requests in flight back, to be written again in the order of the calls."""
        in_flight, self._in_flight = self._in_flight, {}
        for request in in_flight.values():
            self._requeue(request)
        self._join = None
        self.retry_now()

    def session_lost(self) -> None:
        """Give up all written messages and whispers, because the server no longer knows the session."""
        for request in list(self._unanswered.values()):
            self._give_up(request, "the server no longer knows this session")

    def settle_moves(self, name: str, room: str, value: Any) -> None:
        """Settle a rename or join without an answer if the welcome shows its effect, unless an older one waits."""
        for kind, field, now in (("rename", "to", name), ("join", "room", room)):
            first = next((r for r in self._waiting if r.kind == kind and r.written_at is not None), None)
            if first is not None and first.fields.get(field) == now:
                self._remove(first)
                first.settle(value)

    def fail_all(self, error: Callable[[], ChatError]) -> None:
        """Settle all requests with an error: the server's last refusal of each, otherwise what `error` makes."""
        for request in [*self._in_flight.values(), *self._waiting]:
            request.abandoned = True
            request.settle(error=request.error or _outcome_unknown(request, error()))
        for request in list(self._waiting):
            self._remove(request)

    def _remove(self, request: Request) -> None:
        """Forget a request."""
        self._unanswered.pop(request.key, None)
        if request is self._join:
            self._join = None
        if self._in_flight.pop(request.key, None) is None:
            self._waiting.remove(request)

    def _requeue(self, request: Request) -> None:
        """Put a request back to be written again, in the order of the calls, unless it is abandoned."""
        if request.abandoned:
            self._unanswered.pop(request.key, None)
        else:
            request.rewritten = True
            insort(self._waiting, request, key=_number)

    def _give_up(self, request: Request, why: str) -> None:
        """Settle a request that may have been kept, and that is not written again."""
        self._remove(request)
        lost = Disconnected(DISCONNECTS["connection_lost"], why)
        request.settle(error=request.error or _outcome_unknown(request, lost))


def _number(request: Request) -> int:
    return request.number


def _outcome_unknown(request: Request, error: ChatError) -> ChatError:
    """Return the error for a request that the server may have carried out; its text says so."""
    if request.written_at is None or request.kind not in _OUTCOMES or not isinstance(error, Disconnected):
        return error
    detail = f"{error.detail}; it is unknown whether this {request.kind} was {_OUTCOMES[request.kind]}"
    unsure = Disconnected(error.reason, detail, sure=False)
    unsure.__cause__ = error.__cause__
    return unsure
