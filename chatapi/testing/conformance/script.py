"""The server's side of a conformance run: a listening socket and connections that a case scripts step by step."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

from ...core.handshake import handshake_of
from ...errors import Refused

Frame = dict[str, Any]

POLL: Final = 0.05
"""Seconds between two looks at whether the client has ended meanwhile."""
_LIMITS: Final = {"line_bytes": 8192, "frame_bytes": 65536, "remember": 300, "remember_ids": 1024, "reserve": 5}
_QUESTIONS: Final = ("ping", "history", "members", "rooms")
"""Frames that a client may send at any time; the script answers them by itself."""


class Failed(Exception):
    """The client did not do what a case expects."""

    def __init__(self, expected: str, seen: str) -> None:
        super().__init__(f"expected {expected}; seen: {seen}")
        self.expected: str = expected
        self.seen: str = seen


def ts(seq: int) -> int:
    """Return the time of a message, which is made from its number."""
    return 1_700_000_000_000_000 + seq * 1_000


def said(seq: int, text: str, name: str = "Zoe") -> Frame:
    """Return the frame for a message of another member."""
    return {"type": "message", "seq": seq, "ts": ts(seq), "name": name, "text": text}


def encode(*frames: Frame) -> bytes:
    """Return frames as bytes: UTF-8 without escapes, one line each."""
    return b"".join(json.dumps(frame, ensure_ascii=False).encode() + b"\n" for frame in frames)


def show(frame: Frame) -> str:
    """Return a frame for a report, cut to one readable line."""
    text = json.dumps(frame, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]} …"


class Peer:
    """The server's side of one connection; every wait ends after `timeout` seconds with `Failed`."""

    def __init__(self, sock: socket.socket, timeout: float, client: Callable[[], str]) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.handshake: Frame = {}
        self._socket = sock
        self._timeout = timeout
        self._client = client
        self._buffer = b""

    # From the client

    def read_handshake(self) -> Frame:
        """Read the handshake and check it as the server does."""
        expected = "a handshake: one JSON object with `name`, `room` and `protocol`"
        decoder = json.JSONDecoder()
        while True:
            try:
                text = self._buffer.decode()
                blanks = len(text) - len(text.lstrip())
                fields, end = decoder.raw_decode(text, blanks)
                break
            except ValueError:
                if not self._receive(expected) or len(self._buffer) > 8192:
                    raise Failed(expected, self._unfinished()) from None
        if len(text[:end].encode()) > 8192:
            raise Failed("a handshake of at most 8,192 bytes", f"{len(text[:end].encode()):,} bytes")
        self._buffer = text[end:].encode()
        if not isinstance(fields, dict):
            raise Failed(expected, repr(fields))
        try:
            handshake_of(fields)
        except Refused as refused:
            raise Failed("a handshake that the server accepts", f"{show(fields)}; {refused}") from None
        if fields.get("protocol") != "json":
            raise Failed('a handshake with "protocol": "json"', show(fields))
        self.handshake = fields
        return fields

    def frame(self, expected: str) -> Frame | None:
        """Return the client's next frame except questions, which it answers; None at the client's end of stream."""
        while True:
            while b"\n" not in self._buffer:
                if not self._receive(expected):
                    return None
            line, _, self._buffer = self._buffer.partition(b"\n")
            if not line.strip():
                continue
            try:
                frame = json.loads(line)
            except ValueError:
                frame = None
            if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
                raise Failed("one JSON object with a `type` in each line", repr(line[:200]))
            if frame["type"] not in _QUESTIONS:
                return frame
            self._answer(frame)

    def message(self, text: str | None = None) -> Frame:
        """Return the client's next frame, which must be a message, with this text if one is given."""
        expected = "a message" if text is None else f"a message with the text {_quote(text)}"
        frame = self.frame(expected)
        if frame is None:
            raise Failed(expected, self._unfinished())
        if frame["type"] != "message" or (text is not None and frame.get("text") != text):
            raise Failed(expected, show(frame))
        key = frame.get("id")
        if not isinstance(key, str) or not 1 <= len(key) <= 64:
            raise Failed("a message with an `id` of 1 to 64 characters", show(frame))
        return frame

    def message_again(self, first: Frame) -> Frame:
        """Return the client's next frame, which must be the same message as `first`, under its id."""
        again = self.message(first["text"])
        if again["id"] != first["id"]:
            raise Failed(f"the same message again, under its id {first['id']!r}", show(again))
        return again

    def until_end(self, *, only: str = "") -> list[Frame]:
        """Return all frames up to the client's end of stream; the first goodbye among them is answered.

        If `only` is given, `Failed` is raised for a frame of another type.
        """
        frames: list[Frame] = []
        while (frame := self.frame("the end of this connection")) is not None:
            if only and frame["type"] != only:
                raise Failed(f"no further frame except `{only}`", show(frame))
            if frame["type"] == "bye" and not any(one["type"] == "bye" for one in frames):
                self.send({"type": "bye", "code": "bye", "detail": "goodbye", "reconnect": False, "after": 0})
                self.end()
            frames.append(frame)
        return frames

    # To the client

    def send(self, *frames: Frame) -> None:
        """Send frames in one piece."""
        self.send_bytes(encode(*frames))

    def send_bytes(self, data: bytes) -> None:
        """Send bytes; a client that is gone is noticed by the next read."""
        self._socket.settimeout(self._timeout)
        try:
            self._socket.sendall(data)
        except TimeoutError:
            raise Failed("the client reads what the server sends", "it reads nothing") from None
        except OSError:
            pass

    def welcome(self, seq: int = 0, *, limits: Frame | None = None, **fields: Any) -> None:
        """Let the client in; `seq` is the number of the room's newest message."""
        self.send(self.welcome_frame(seq, limits=limits, **fields))

    def welcome_frame(self, seq: int = 0, *, limits: Frame | None = None, **fields: Any) -> Frame:
        """Return the frame of `welcome`."""
        name = self.handshake["name"]
        frame = {"type": "welcome", "name": name, "room": self.handshake["room"], "session": "key-1", "epoch": "one"}
        frame |= {"seq": seq, "ts": ts(seq) if seq else 0, "members": [name, "Zoe"], "count": 2, "recovered": None}
        return frame | fields | {"limits": _LIMITS | (limits or {})}

    def ack(self, message: Frame, seq: int, *, echo: bool = False, **fields: Any) -> None:
        """Acknowledge a message by an `ack`, or by the client's own message if the handshake asks for `echo`.

        `echo` is what the server does if the handshake asks for nothing.
        """
        asked = self.handshake.get("echo")
        if echo if asked is None else asked:
            self.send(said(seq, message["text"], self.handshake["name"]) | {"id": message["id"]})
        else:
            self.send({"type": "ack", "id": message["id"], "seq": seq, "ts": ts(seq), **fields})

    def bye(self, code: str, *, reconnect: bool, after: float = 0) -> None:
        """Send a goodbye and end the stream."""
        self.send({"type": "bye", "code": code, "detail": "the script says so", "reconnect": reconnect, "after": after})
        self.close()

    def refuse(self, code: str, **fields: Any) -> None:
        """Refuse the handshake and end the connection."""
        self.send({"type": "error", "code": code, "detail": "the script says so", **fields})
        self.close()

    def end(self) -> None:
        """End the server's stream."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        """End the stream, and close the connection once the client has ended its side."""
        self.end()
        self._socket.settimeout(self._timeout)
        try:
            while self._socket.recv(1 << 16):
                pass
        except TimeoutError:
            raise Failed("the client closes a connection that the server has ended", "it is still open") from None
        except OSError:
            pass
        self._socket.close()

    def reset(self) -> None:
        """Break the connection: bytes in flight are lost."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
        self._socket.close()

    # Inside

    def _receive(self, expected: str) -> bool:
        self._socket.settimeout(self._timeout)
        try:
            data = self._socket.recv(1 << 16)
        except TimeoutError:
            raise Failed(expected, f"nothing for {self._timeout:g} seconds; {self._client()}") from None
        except OSError:
            data = b""
        self._buffer += data
        return bool(data)

    def _unfinished(self) -> str:
        rest = f" after {self._buffer[:200]!r}" if self._buffer else ""
        return f"the client ended the connection{rest}; {self._client()}"

    def _answer(self, frame: Frame) -> None:
        answers: dict[str, Frame] = {
            "ping": {"type": "pong"},
            "history": {"type": "history", "messages": [], "more": False},
            "members": {"type": "members", "members": [self.handshake["name"], "Zoe"], "count": 2},
            "rooms": {"type": "rooms", "rooms": [{"name": self.handshake["room"], "count": 2}], "count": 1},
        }
        ref = {"ref": frame["ref"]} if "ref" in frame else {}
        self.send(answers[frame["type"]] | ref)


class Listener:
    """A listening socket on loopback, which can go away and come back under the same address."""

    def __init__(self) -> None:
        self._socket: socket.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]

    def accept(self, timeout: float, expected: str, client: Callable[[], str], ended: Callable[[], bool]) -> Peer:
        """Return the next connection; `Failed` if none comes in time, or if the client ends instead."""
        until = monotonic() + timeout
        while True:
            gone = ended()
            self._socket.settimeout(POLL)
            try:
                sock, _ = self._socket.accept()
            except TimeoutError:
                if gone or monotonic() > until:
                    seen = "no connection" if gone else f"no connection for {timeout:g} seconds"
                    raise Failed(expected, f"{seen}; {client()}") from None
                continue
            return Peer(sock, timeout, client)

    def close(self) -> None:
        """Listen no longer."""
        self._socket.close()

    def open(self) -> None:
        """Listen again, on the same port."""
        self._socket = socket.create_server(("127.0.0.1", self.port))


def _quote(text: str) -> str:
    return json.dumps(text if len(text) <= 60 else f"{text[:60]}…", ensure_ascii=False)
