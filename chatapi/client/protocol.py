"""The client's side of the JSON protocol, without I/O: its position in the room, and the unanswered requests.

::

    handshake() ──▶ OPENING ── welcome ──▶ IN ROOM ── connection_lost() ──▶ OPENING again, with `resume`
                    (a refusal raises)     receive_data() yields events, data_to_send() returns frames

The position is that of the last kept event that `receive_data` *yielded*, not of the last byte received. After a
connection has broken, the client asks again for everything behind that position, also for what was received and not
parsed. The number of each message must be the next one, so no message can be missing or come twice unnoticed.
Everything else is a `ProtocolError`; then the client connects again and goes on from its position.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias, cast

from pydantic_core import from_json, to_json

from ..errors import DISCONNECTS, ChatError, Disconnect, Disconnected, NotDelivered, RefusalCode, Refused, TextTooLong
from ..events import Deleted, Joined, Left, Message, Renamed, Whisper
from .events import Gap, News, Notice, ProtocolError, Recovered, SendRefused, Welcome
from .requests import FRAME_BYTES, REMEMBER, REMEMBER_IDS, PendingRequests, Request

MAX_FRAME: Final = 16 * 1024 * 1024
"""The largest frame from the server, in bytes; the largest ones are pages of history with 100 long messages."""

_QUOTED_CHARS: Final = 60  # of the first bytes from a server of another kind

_Frame: TypeAlias = dict[str, Any]


class ClientProtocol:
    """One member's conversation with the server, over one connection after the other.

    `PendingRequests` explains `prefix`, `pause` and `max_in_flight`.
    """

    def __init__(
        self,
        name: str,
        room: str,
        *,
        prefix: str,
        pause: Callable[[int], float],
        echo: bool = False,
        history: int = 0,
        token: str | None = None,
        max_in_flight: int = 256,
    ) -> None:
        self.name: str = name
        self.room: str = room
        self.requests: PendingRequests = PendingRequests(prefix, max_in_flight, pause)
        self.leaving: bool = False
        """Set this to say goodbye when everything is answered."""
        self.bye_sent: bool = False
        """Whether `data_to_send` has returned the goodbye on this connection."""
        self.in_room: bool = False
        """Whether the server has sent a welcome on this connection."""
        self.bye: Disconnected | None = None
        """The goodbye of the server on this connection."""
        self.seq: int = 0
        """The number of the last kept event that was yielded."""
        self._ts = 0
        self._epoch = ""
        self._session = ""
        self._replay_floor = 0  # after a welcome, later messages may be replayed
        self._replay_expected = False  # whether no message of that replay has come yet
        self._was_in_room = False
        self._echo, self._history, self._token = echo, history, token
        self._ping_due = False
        self._availability = (
            ""  # of the server, on this connection: unavailable, refusing or available; empty if unknown
        )
        self._queued_notice: Notice | None = None  # to be yielded next
        self._lines: deque[bytes] = deque()
        self._unfinished = bytearray()

    # From the client

    def handshake(self) -> bytes:
        """Return the first bytes of a new connection."""
        self.connection_lost()
        said: dict[str, Any] = {"name": self.name, "room": self.room, "protocol": "json"}
        said["echo"] = self._echo
        if self._token is not None:
            said["token"] = self._token
        if self._history and (self._replay_expected or not self._was_in_room):
            said["history"] = self._history
        if self._was_in_room:
            place = ("", 0, 0) if self._replay_expected else (self._epoch, self.seq, self._ts)
            said["resume"] = {**dict(zip(("epoch", "seq", "ts"), place, strict=True)), "session": self._session}
        return to_json(said) + b"\n"

    def ask(self, kind: str, **fields: Any) -> Request:
        """Add a request, which `data_to_send` returns in its turn.

        Raises `TextTooLong` if the frame is larger than the server accepts, and `ValueError` if a text is not Unicode
        (it has half a surrogate pair).
        """
        return self.requests.add(kind, fields)

    def ping(self) -> None:
        """Have the server send something; no call waits for the answer."""
        self._ping_due = True

    def data_to_send(self, now: float) -> bytes:
        """Return the bytes to write next, if there are any; `now` is in seconds of a monotonic clock."""
        if not self.in_room or self.bye_sent:
            return b""
        frames = [b'{"type":"ping"}\n'] if self._ping_due else []
        self._ping_due = False
        frames += self.requests.next_frames(now)
        if self.leaving and not self.requests.awaited:
            self.bye_sent = True
            frames.append(b'{"type":"bye"}\n')
        return b"".join(frames)

    def connection_lost(self) -> None:
        """Forget the state of the connection, because it has ended; unanswered requests are to be sent again."""
        self.in_room = self.bye_sent = self._ping_due = False
        self.bye = self._queued_notice = None
        self._availability = ""
        self._lines.clear()
        self._unfinished.clear()
        self.requests.connection_lost()

    # From the server

    def receive_data(self, data: bytes) -> Iterator[News]:
        """Yield the events in the bytes.

        It parses no further than it is iterated; the next call yields the rest. Raises `Refused` if the server refuses
        the handshake, and `ProtocolError`.
        """
        first, *others = data.split(b"\n")
        self._unfinished += first
        if others:
            self._lines.append(bytes(self._unfinished))
            self._lines.extend(others[:-1])
            self._unfinished[:] = others[-1]
        if len(self._unfinished) > MAX_FRAME:
            raise ProtocolError(
                f"the server sent a frame of more than {MAX_FRAME:,} bytes"
                if self.in_room
                else _describe_wrong_server(self._unfinished)
            )
        while self._lines and self.bye is None:
            line = self._lines.popleft()
            if line.strip() and (event := self._handle(line)) is not None:
                yield event
            if self._queued_notice is not None:
                notice, self._queued_notice = self._queued_notice, None
                yield notice

    @property
    def wrong_server(self) -> str:
        """The end of a sentence about a server that sent no welcome: it quotes its first bytes. Empty without any."""
        said = self._unfinished.strip()
        return "" if self.in_room or not said or said.startswith(b"{") else _describe_wrong_server(said)

    def _handle(self, line: bytes) -> News | None:
        try:
            frame: Any = from_json(line, allow_inf_nan=False)
        except ValueError as error:
            raise ProtocolError(
                f"not JSON: {error}: {line[:60]!r}" if self.in_room else _describe_wrong_server(line)
            ) from None
        if not isinstance(frame, dict):
            raise ProtocolError(f"not a JSON object: {line[:60]!r}" if self.in_room else _describe_wrong_server(line))
        kind = frame.get("type")
        try:
            if not self.in_room:
                return self._on_opening(kind, frame)
            handler = _HANDLERS.get(kind) if isinstance(kind, str) else None
            return (handler or ClientProtocol._on_unknown)(self, frame)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            where = "the server sent" if self.in_room else "answers with"
            raise ProtocolError(
                f"{where} a {kind!r} with a missing or wrong field ({error!r}): {line[:200]!r}"
            ) from None

    def _on_opening(self, kind: object, frame: _Frame) -> News | None:
        if kind == "welcome":
            return self._on_welcome(frame)
        if kind == "bye":
            self._on_bye(frame)
            return None
        if kind == "error":
            after = frame.get("after")
            raise _refused(frame, float(after) if isinstance(after, int | float) else None)
        raise ProtocolError(f"answers with a frame {str(kind)[:60]!r} where a welcome was expected")

    def _on_welcome(self, frame: _Frame) -> News:
        here = Welcome(
            _str(frame, "name"),
            _str(frame, "room"),
            _str(frame, "epoch"),
            _int(frame, "seq"),
            _int(frame, "ts"),
            tuple(map(str, frame.get("members") or ())),
            _int(frame, "count"),
            dict(frame.get("limits") or {}),
        )
        session, self._session = self._session, _str(frame, "session")
        self.name, self.room = here.name, here.room
        self.requests.set_limits(
            frame_bytes=int(_limit(here, "frame_bytes", FRAME_BYTES)),
            remember=_limit(here, "remember", REMEMBER),
            remember_ids=int(_limit(here, "remember_ids", REMEMBER_IDS)),
        )
        if self.in_room:  # the answer to a `join`; it replays nothing
            self._set_position(here, 0)
            self._settle(frame, here)
            return here
        again, self.in_room, self._was_in_room = self._was_in_room, True, True
        if not again:
            self._set_position(here, self._history)
            return here
        self.requests.settle_moves(here.name, here.room, here)
        if self._session != session:
            self.requests.session_lost()
        return self._on_return(here, frame)

    def _on_return(self, here: Welcome, frame: _Frame) -> Recovered | Gap:
        """Go on after a welcome on a new connection: from the client's position, or from that of the room."""
        before, same, fresh = self.seq, here.epoch == self._epoch, self._replay_expected
        if fresh:
            self._set_position(here, self._history)
            if same and here.seq == before:
                return Recovered(here)
        elif frame.get("recovered") is True:
            if not same or here.seq < before:
                raise ProtocolError(f"the server resumed at seq {here.seq} of another log, not after seq {before}")
            return Recovered(here)
        else:
            self._set_position(here, 0)
        reason = "trimmed" if fresh and same else str(frame.get("reason") or "unknown_epoch")
        return Gap(reason, before, here)

    def _set_position(self, here: Welcome, replayed: int) -> None:
        """Take the position of the room, or of the first of at most `replayed` messages before it."""
        self._epoch, self.seq, self._ts = here.epoch, here.seq, here.ts
        self._replay_floor = max(0, here.seq - replayed)
        self._replay_expected = self._replay_floor < here.seq

    def _on_message(self, frame: _Frame) -> News | None:
        message = Message(_int(frame, "seq"), _int(frame, "ts"), _str(frame, "name"), _str(frame, "text"))
        self._advance(message.seq, message.ts)
        own = self.requests.settle(frame.get("id"), message)
        self._note_kept()
        return message if self._echo or own is None else None

    def _on_ack(self, frame: _Frame) -> None:
        if frame["seq"] is None:  # a whisper has no number
            self.requests.settle(frame.get("id"))
            return
        seq, ts = _int(frame, "seq"), _int(frame, "ts")
        if frame.get("duplicate") is not True:
            self._advance(seq, ts)
        request = self.requests.find(frame.get("id"))
        if request is not None:
            name, text = frame.get("name", self.name), frame.get("text", request.fields.get("text", ""))
            self.requests.settle(request.key, Message(seq, ts, str(name), str(text)))
            self._note_kept()

    def _advance(self, seq: int, ts: int) -> None:
        """Move to the next kept event; after a welcome with history, that is the first of the replay."""
        if seq != self.seq + 1 and not self._replay_floor < seq <= self.seq:
            raise ProtocolError(f"the server sent seq {seq} after seq {self.seq}")
        self.seq = self._replay_floor = seq
        self._ts = ts
        self._replay_expected = False

    def _on_deleted(self, frame: _Frame) -> Deleted:
        deleted = Deleted(_int(frame, "seq"), _int(frame, "ts"), _str(frame, "name"), _int(frame, "target"))
        self._advance(deleted.seq, deleted.ts)
        return deleted

    def _on_renamed(self, frame: _Frame) -> Renamed:
        renamed = Renamed(_int(frame, "seq"), _str(frame, "name"), _str(frame, "to"))
        own = self._settle(frame, renamed)
        if own or renamed.name == self.name:
            self.name = renamed.to
        return renamed

    def _on_error(self, frame: _Frame) -> Notice | None:
        code, detail = _str(frame, "code"), str(frame.get("detail", ""))
        key = frame.get("id") or frame.get("ref")
        error: ChatError
        if code == RefusalCode.UNAVAILABLE:
            if not self.requests.on_unavailable(key, _refused(frame, None)) or self._availability in (
                "unavailable",
                "refusing",
            ):
                return None
            self._availability = "refusing"
            return Notice("unavailable", detail)
        if code == "text_too_long":
            error = TextTooLong(detail)
        elif code == "not_delivered":
            error = NotDelivered(detail)
        elif code in list(RefusalCode):
            error = _refused(frame, None)
        else:
            error = SendRefused(code, detail)
        self.requests.settle(key, error=error)
        return None

    def _on_notice(self, frame: _Frame) -> Notice | None:
        notice = Notice(_str(frame, "code"), str(frame.get("detail", "")))
        before = self._availability
        if notice.code in ("unavailable", "available"):
            self._availability = notice.code
        if notice.code == "available":
            self.requests.retry_now()
        told = notice.code == before or (notice.code == "unavailable" and before == "refusing")
        return None if told else notice

    def _note_kept(self) -> None:
        """Queue a notice after a kept message, if one was refused before and the server sent no notice of its own."""
        if self._availability == "refusing" and not self.requests.holds_back:
            self._availability, self._queued_notice = "available", Notice("available", "messages can be kept again")

    def _settle(self, frame: _Frame, value: Any = None) -> bool:
        """Settle the request that this frame answers; return whether there is one."""
        return self.requests.settle(frame.get("ref"), frame if value is None else value) is not None

    def _on_answer(self, frame: _Frame) -> None:
        self._settle(frame)

    def _on_bye(self, frame: _Frame) -> None:
        code, detail, after = _str(frame, "code"), str(frame.get("detail", "")), frame.get("after")
        known = DISCONNECTS.get(code)
        wait = max(0.0, float(after)) if isinstance(after, int | float) else 0.0
        reason = Disconnect(code, detail, frame.get("reconnect") is True, wait, known.websocket if known else 4000)
        self.bye = Disconnected(reason, detail)

    def _on_unknown(self, frame: _Frame) -> None:
        """Ignore a frame of a type that is newer than this library, except for its number."""
        seq, ts = frame.get("seq"), frame.get("ts")
        if isinstance(seq, int) and isinstance(ts, int) and seq == self.seq + 1:
            self._advance(seq, ts)


def _refused(frame: _Frame, after: float | None) -> Refused:
    code = _str(frame, "code")
    known = RefusalCode(code) if code in list(RefusalCode) else cast("RefusalCode", code)  # of a newer server
    return Refused(known, str(frame.get("detail", "")), after)


def _describe_wrong_server(said: bytes | bytearray) -> str:
    """Return an error text about a server with another protocol, with a printable quote of what it sent."""
    shown = "".join(filter(str.isprintable, said[: 4 * _QUOTED_CHARS].decode(errors="replace")))
    shown = shown if len(shown) <= _QUOTED_CHARS else f"{shown[:_QUOTED_CHARS]}…"
    return (
        "answers with lines, not with the JSON protocol: it may be a telnet door, MaChat in Go or another server;"
        f" it said '{shown}'"
    )


def _limit(welcome: Welcome, name: str, default: float) -> float:
    """Return a limit of the server, or `default` if its welcome does not name it."""
    limit = welcome.limits.get(name)
    return limit if isinstance(limit, int | float) and limit >= 0 else default


def _str(frame: _Frame, key: str) -> str:
    if not isinstance(value := frame[key], str):
        raise TypeError(f"{key!r} is not a string")
    return value


def _int(frame: _Frame, key: str) -> int:
    if not isinstance(value := frame[key], int):
        raise TypeError(f"{key!r} is not an integer")
    return value


_HANDLERS: Final[dict[str, Callable[[ClientProtocol, _Frame], News | None]]] = {
    "welcome": ClientProtocol._on_welcome,
    "message": ClientProtocol._on_message,
    "ack": ClientProtocol._on_ack,
    "joined": lambda _, frame: Joined(_int(frame, "seq"), _str(frame, "name")),
    "left": lambda _, frame: Left(_int(frame, "seq"), _str(frame, "name"), str(frame.get("reason", ""))),
    "renamed": ClientProtocol._on_renamed,
    "deleted": ClientProtocol._on_deleted,
    "whisper": lambda _, frame: Whisper(_int(frame, "ts"), _str(frame, "name"), _str(frame, "text")),
    "members": ClientProtocol._on_answer,
    "rooms": ClientProtocol._on_answer,
    "history": ClientProtocol._on_answer,
    "pong": ClientProtocol._on_answer,
    "error": ClientProtocol._on_error,
    "notice": ClientProtocol._on_notice,
    "bye": ClientProtocol._on_bye,
}
