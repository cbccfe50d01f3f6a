"""The client's side of the JSON protocol, without I/O: where we are in the room, and what is not yet answered.

::

    handshake() ──▶ SHAKING ── welcome ──▶ LIVE ── lost() ──▶ SHAKING again, with `resume`
                    (a refusal raises)     receive() yields news, outgoing() says what to write

The position is that of the last kept event that was *given out* by `receive`, not of the last byte that came in: what
a broken connection leaves unparsed is asked for again. A message's number must be the next one, so that none can be
missing or come twice unnoticed; whatever else comes is a `ProtocolError`, and a reason to connect again from here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias, cast

from pydantic_core import from_json, to_json

from ..errors import DISCONNECTS, ChatError, Disconnect, Disconnected, NotDelivered, RefusalCode, Refused, TextTooLong
from ..events import Deleted, Joined, Left, Message, Renamed, Whisper
from .events import Gap, News, Notice, ProtocolError, Recovered, SendRefused, Welcome
from .requests import FRAME_BYTES, REMEMBER, REMEMBER_IDS, Outbox, Request

MAX_FRAME: Final = 16 * 1024 * 1024
"""Bytes of one frame from the server at most; a page of history with 100 long messages is the largest."""

_SHOWN: Final = 60  # characters of what another kind of server says

_Frame: TypeAlias = dict[str, Any]


class Dialogue:
    """One member's conversation with the server, over as many connections as it takes.

    `prefix`, `pause` and `most_in_flight` are its `Outbox`'s.
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
        most_in_flight: int = 256,
    ) -> None:
        self.name: str = name
        self.room: str = room
        self.outbox: Outbox = Outbox(prefix, most_in_flight, pause)
        self.leaving: bool = False
        """Set it to say goodbye once everything is answered."""
        self.said_bye: bool = False
        """Whether the goodbye was handed over to be written on this connection."""
        self.live: bool = False
        """Whether this connection was welcomed."""
        self.bye: Disconnected | None = None
        """The server's last words on this connection."""
        self.seq: int = 0
        """The number of the last kept event that was given out."""
        self._ts = 0
        self._epoch = ""
        self._session = ""
        self._floor = 0  # right after a welcome, messages after this one may still be replayed
        self._fresh = False  # whether nothing of such a replay has come yet
        self._welcomed = False
        self._echo, self._history, self._token = echo, history, token
        self._ping = False
        self._state = ""  # what is known of the server on this connection: unavailable, refusing, available
        self._notice: Notice | None = None  # one that is still to be given out
        self._lines: deque[bytes] = deque()
        self._rest = bytearray()

    # What we say

    def handshake(self) -> bytes:
        """The first bytes of a new connection."""
        self.lost()
        said: dict[str, Any] = {"name": self.name, "room": self.room, "protocol": "json"}
        said["echo"] = self._echo
        if self._token is not None:
            said["token"] = self._token
        if self._history and (self._fresh or not self._welcomed):
            said["history"] = self._history
        if self._welcomed:
            place = ("", 0, 0) if self._fresh else (self._epoch, self.seq, self._ts)
            said["resume"] = {**dict(zip(("epoch", "seq", "ts"), place, strict=True)), "session": self._session}
        return to_json(said) + b"\n"

    def ask(self, kind: str, **fields: Any) -> Request:
        """Ask something of the server, when `outgoing` gets to it.

        Raises `TextTooLong` where the frame is larger than the server takes, and `ValueError` where a text is not
        Unicode (it has half a surrogate pair).
        """
        return self.outbox.ask(kind, fields)

    def ping(self) -> None:
        """Have the server say something; nobody waits for it."""
        self._ping = True

    def outgoing(self, now: float) -> bytes:
        """What is to be written next, or nothing; `now` in seconds of a clock that only grows."""
        if not self.live or self.said_bye:
            return b""
        frames = [b'{"type":"ping"}\n'] if self._ping else []
        self._ping = False
        frames += self.outbox.take(now)
        if self.leaving and not self.outbox.pending:
            self.said_bye = True
            frames.append(b'{"type":"bye"}\n')
        return b"".join(frames)

    def lost(self) -> None:
        """The connection has ended: what was not answered is to be sent again."""
        self.live = self.said_bye = self._ping = False
        self.bye = self._notice = None
        self._state = ""
        self._lines.clear()
        self._rest.clear()
        self.outbox.lost()

    # What we hear

    def receive(self, data: bytes) -> Iterator[News]:
        """What the bytes tell. Parses no further than it is iterated; what is left comes with the next call.

        Raises `Refused` where the handshake is, and `ProtocolError`.
        """
        first, *others = data.split(b"\n")
        self._rest += first
        if others:
            self._lines.append(bytes(self._rest))
            self._lines.extend(others[:-1])
            self._rest[:] = others[-1]
        if len(self._rest) > MAX_FRAME:
            raise ProtocolError(f"a frame of more than {MAX_FRAME:,} bytes" if self.live else _foreign(self._rest))
        while self._lines and self.bye is None:
            line = self._lines.popleft()
            if line.strip() and (news := self._hear(line)) is not None:
                yield news
            if self._notice is not None:
                notice, self._notice = self._notice, None
                yield notice

    @property
    def foreign(self) -> str:
        """The end of a sentence about a server that sent no welcome: it quotes the first bytes. Empty if none came."""
        said = self._rest.strip()
        return "" if self.live or not said or said.startswith(b"{") else _foreign(said)

    def _hear(self, line: bytes) -> News | None:
        try:
            frame: Any = from_json(line, allow_inf_nan=False)
        except ValueError as error:
            raise ProtocolError(f"not JSON: {error}: {line[:60]!r}" if self.live else _foreign(line)) from None
        if not isinstance(frame, dict):
            raise ProtocolError(f"not a JSON object: {line[:60]!r}" if self.live else _foreign(line))
        kind = frame.get("type")
        try:
            if not self.live:
                return self._first(kind, frame)
            handler = _HANDLERS.get(kind) if isinstance(kind, str) else None
            return (handler or Dialogue._unknown)(self, frame)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            where = "" if self.live else "answers with "
            raise ProtocolError(f"{where}a {kind!r} that lacks something ({error!r}): {line[:200]!r}") from None

    def _first(self, kind: object, frame: _Frame) -> News | None:
        if kind == "welcome":
            return self._welcome(frame)
        if kind == "bye":
            self._bye(frame)
            return None
        if kind == "error":
            after = frame.get("after")
            raise _refused(frame, float(after) if isinstance(after, int | float) else None)
        raise ProtocolError(f"answers with a frame {str(kind)[:60]!r} where a welcome was expected")

    def _welcome(self, frame: _Frame) -> News:
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
        self.outbox.obey(
            frame_bytes=int(_limit(here, "frame_bytes", FRAME_BYTES)),
            remember=_limit(here, "remember", REMEMBER),
            remember_ids=int(_limit(here, "remember_ids", REMEMBER_IDS)),
        )
        if self.live:  # we went to another room, which replays nothing
            self._stand(here, 0)
            self._answer(frame, here)
            return here
        again, self.live, self._welcomed = self._welcomed, True, True
        if not again:
            self._stand(here, self._history)
            return here
        self.outbox.moved(here.name, here.room, here)
        if self._session != session:
            self.outbox.session_lost()
        return self._back(here, frame)

    def _back(self, here: Welcome, frame: _Frame) -> Recovered | Gap:
        """Welcomed again: either we go on from where we were, or from where the room is."""
        before, same, fresh = self.seq, here.epoch == self._epoch, self._fresh
        if fresh:
            self._stand(here, self._history)
            if same and here.seq == before:
                return Recovered(here)
        elif frame.get("recovered") is True:
            if not same or here.seq < before:
                raise ProtocolError(f"recovered after {before}, but at {here.seq} of another log")
            return Recovered(here)
        else:
            self._stand(here, 0)
        reason = "trimmed" if fresh and same else str(frame.get("reason") or "unknown_epoch")
        return Gap(reason, before, here)

    def _stand(self, here: Welcome, replayed: int) -> None:
        """Go on from where the room is, or from the first of at most so many messages before that."""
        self._epoch, self.seq, self._ts = here.epoch, here.seq, here.ts
        self._floor = max(0, here.seq - replayed)
        self._fresh = self._floor < here.seq

    def _message(self, frame: _Frame) -> News | None:
        message = Message(_int(frame, "seq"), _int(frame, "ts"), _str(frame, "name"), _str(frame, "text"))
        self._advance(message.seq, message.ts)
        own = self.outbox.answered(frame.get("id"), message)
        self._kept()
        return message if self._echo or own is None else None

    def _ack(self, frame: _Frame) -> None:
        if frame["seq"] is None:  # a whisper has no place in the stream
            self.outbox.answered(frame.get("id"))
            return
        seq, ts = _int(frame, "seq"), _int(frame, "ts")
        if frame.get("duplicate") is not True:
            self._advance(seq, ts)
        request = self.outbox.find(frame.get("id"))
        if request is not None:
            name, text = frame.get("name", self.name), frame.get("text", request.fields.get("text", ""))
            self.outbox.answered(request.key, Message(seq, ts, str(name), str(text)))
            self._kept()

    def _advance(self, seq: int, ts: int) -> None:
        """The next kept event; right after a welcome with history, the first of the replay."""
        if seq != self.seq + 1 and not self._floor < seq <= self.seq:
            raise ProtocolError(f"event {seq} came after {self.seq}")
        self.seq = self._floor = seq
        self._ts = ts
        self._fresh = False

    def _deleted(self, frame: _Frame) -> Deleted:
        deleted = Deleted(_int(frame, "seq"), _int(frame, "ts"), _str(frame, "name"), _int(frame, "target"))
        self._advance(deleted.seq, deleted.ts)
        return deleted

    def _renamed(self, frame: _Frame) -> Renamed:
        renamed = Renamed(_int(frame, "seq"), _str(frame, "name"), _str(frame, "to"))
        own = self._answer(frame, renamed)
        if own or renamed.name == self.name:
            self.name = renamed.to
        return renamed

    def _error(self, frame: _Frame) -> Notice | None:
        code, detail = _str(frame, "code"), str(frame.get("detail", ""))
        key = frame.get("id") or frame.get("ref")
        error: ChatError
        if code == RefusalCode.UNAVAILABLE:
            if not self.outbox.not_kept(key, _refused(frame, None)) or self._state in ("unavailable", "refusing"):
                return None
            self._state = "refusing"
            return Notice("unavailable", detail)
        if code == "text_too_long":
            error = TextTooLong(detail)
        elif code == "not_delivered":
            error = NotDelivered(detail)
        elif code in list(RefusalCode):
            error = _refused(frame, None)
        else:
            error = SendRefused(code, detail)
        self.outbox.answered(key, error=error)
        return None

    def _heard_notice(self, frame: _Frame) -> Notice | None:
        notice = Notice(_str(frame, "code"), str(frame.get("detail", "")))
        before = self._state
        if notice.code in ("unavailable", "available"):
            self._state = notice.code
        if notice.code == "available":
            self.outbox.try_again()
        told = notice.code == before or (notice.code == "unavailable" and before == "refusing")
        return None if told else notice

    def _kept(self) -> None:
        """A message was kept: news, where one of ours was refused and the server says nothing of itself."""
        if self._state == "refusing" and not self.outbox.holds_back:
            self._state, self._notice = "available", Notice("available", "messages are kept again")

    def _answer(self, frame: _Frame, value: Any = None) -> bool:
        """Whether this answers something of ours."""
        return self.outbox.answered(frame.get("ref"), frame if value is None else value) is not None

    def _answered(self, frame: _Frame) -> None:
        self._answer(frame)

    def _bye(self, frame: _Frame) -> None:
        code, detail, after = _str(frame, "code"), str(frame.get("detail", "")), frame.get("after")
        known = DISCONNECTS.get(code)
        wait = max(0.0, float(after)) if isinstance(after, int | float) else 0.0
        reason = Disconnect(code, detail, frame.get("reconnect") is True, wait, known.websocket if known else 4000)
        self.bye = Disconnected(reason, detail)

    def _unknown(self, frame: _Frame) -> None:
        """Of a kind that came later than this library: not for us, but it may have a place in the stream."""
        seq, ts = frame.get("seq"), frame.get("ts")
        if isinstance(seq, int) and isinstance(ts, int) and seq == self.seq + 1:
            self._advance(seq, ts)


def _refused(frame: _Frame, after: float | None) -> Refused:
    code = _str(frame, "code")
    known = RefusalCode(code) if code in list(RefusalCode) else cast("RefusalCode", code)  # a later server's own
    return Refused(known, str(frame.get("detail", "")), after)


def _foreign(said: bytes | bytearray) -> str:
    """That a server speaks something else: what is wrong with it, and what it said, as it can be shown to people."""
    shown = "".join(filter(str.isprintable, said[: 4 * _SHOWN].decode(errors="replace")))
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
    return (
        "answers with lines, not with the JSON protocol: it may be a telnet door, MaChat in Go or another server;"
        f" it said '{shown}'"
    )


def _limit(welcome: Welcome, name: str, default: float) -> float:
    """A limit of the server, or `default` where it does not name it."""
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


_HANDLERS: Final[dict[str, Callable[[Dialogue, _Frame], News | None]]] = {
    "welcome": Dialogue._welcome,
    "message": Dialogue._message,
    "ack": Dialogue._ack,
    "joined": lambda _, frame: Joined(_int(frame, "seq"), _str(frame, "name")),
    "left": lambda _, frame: Left(_int(frame, "seq"), _str(frame, "name"), str(frame.get("reason", ""))),
    "renamed": Dialogue._renamed,
    "deleted": Dialogue._deleted,
    "whisper": lambda _, frame: Whisper(_int(frame, "ts"), _str(frame, "name"), _str(frame, "text")),
    "members": Dialogue._answered,
    "rooms": Dialogue._answered,
    "history": Dialogue._answered,
    "pong": Dialogue._answered,
    "error": Dialogue._error,
    "notice": Dialogue._heard_notice,
    "bye": Dialogue._bye,
}
