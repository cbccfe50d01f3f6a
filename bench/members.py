"""Members in Python, for what the load generator does not do: come back, move, leave in every way, check numbers.

One thread, one selector, sockets that never block. That may be slower than the server: whoever measures with it says
what share of a core it took.
"""

from __future__ import annotations

import json
import selectors
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Final

from .load import LoadFailed

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE
_RESET: Final = struct.pack("ii", 1, 0)
_ASKED: Final = "are you there?"


class Member:
    """A name in a room, its connection, and what it was shown."""

    __slots__ = (
        "answered", "began", "came_in", "connection", "doubled", "epoch", "history", "json", "lines", "lost", "missed",
        "name", "past", "present", "received", "recovered", "room", "seq", "session", "ts", "unsent",
    )  # fmt: skip

    def __init__(self, name: str, room: str, *, json: bool = True) -> None:
        self.name = name
        self.room = room
        self.json = json
        """Whether it speaks JSON; text otherwise."""
        self.connection: socket.socket | None = None
        self.present = False
        """Whether it has been let in, and nothing has ended since."""
        self.answered = True
        """Whether the server has answered what it was asked last."""
        self.session = self.epoch = ""
        self.seq = self.ts = 0
        """Of the newest message that it has seen."""
        self.history = False
        """Whether it has asked for history, …"""
        self.past = 0
        """… and the newest message of that."""
        self.recovered: bool | None = None
        """What the last welcome said of that."""
        self.began = self.came_in = 0.0
        """When it connected last, and when it was let in."""
        self.lines = 0
        """Messages of others that it got."""
        self.missed = 0
        """Messages said while it was away, as its welcomes tell, …"""
        self.lost = self.doubled = 0
        """… and those that were left out, or came again: by their numbers, which have no holes."""
        self.received = self.unsent = b""


class Crowd:
    """Members of one server. Nothing here waits but `look` and what is built on it; raises `LoadFailed`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._selector = selectors.DefaultSelector()
        self.present = 0
        """How many have been let in, and are still connected."""
        self.departures = 0
        """How often a JSON member was told that somebody left."""

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._selector.get_map().values()):
            key.data.connection.close()
        self._selector.close()

    # What members do

    def connect(self, member: Member, **more: Any) -> None:
        """Connect and say who it is; `more` goes into the handshake."""
        connection = member.connection = socket.socket()
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        member.began = time.monotonic()
        member.history, member.past = "history" in more, 0
        member.received = member.unsent = b""
        self._selector.register(connection, READ, member)
        connection.connect_ex(("127.0.0.1", self._port))
        protocol = {"protocol": "json"} if member.json else {}
        self._send(member, _frame(name=member.name, room=member.room, **protocol, **more))
        if not member.json:
            self.ask(member)

    def come_back(self, member: Member) -> None:
        """Connect again, and resume behind the last message it has seen."""
        position = {"epoch": member.epoch, "seq": member.seq, "ts": member.ts, "session": member.session}
        self.connect(member, resume=position)

    def say(self, member: Member, text: str) -> None:
        """Say one line."""
        self._send(member, _frame(type="message", text=text) if member.json else f"{text}\n".encode())

    def whisper(self, member: Member, to: str, text: str) -> None:
        """Say something to one other alone."""
        self._send(member, _frame(type="whisper", to=to, text=text) if member.json else f"@{to} {text}\n".encode())

    def rename(self, member: Member, name: str) -> None:
        """Take another name."""
        self._send(member, _frame(type="rename", to=name) if member.json else f"/nick {name}\n".encode())
        member.name = name

    def move(self, member: Member, room: str) -> None:
        """Go to another room."""
        self._send(member, _frame(type="join", room=room) if member.json else f"/join {room}\n".encode())
        member.room = room

    def ask(self, member: Member) -> None:
        """Ask something whose answer shows that all before it was done: `answered` tells."""
        member.answered = False
        if member.json:
            self._send(member, _frame(type="ping"))
        else:
            self.whisper(member, member.name, _ASKED)

    def bye(self, member: Member) -> None:
        """Leave as one should; the server ends the connection."""
        self._send(member, _frame(type="bye") if member.json else b"/bye\n")

    def end(self, member: Member) -> None:
        """End the stream; the server ends its own then."""
        if member.connection is not None:
            member.connection.shutdown(socket.SHUT_WR)

    def drop(self, member: Member, *, reset: bool) -> None:
        """Be gone at once."""
        if member.connection is not None:
            if reset:
                member.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._gone(member)

    # What comes back

    def look(self, seconds: float = 0) -> None:
        """Take what has come, and wait for it so long at most."""
        for key, mask in self._selector.select(seconds):
            if mask & WRITE:
                self._send(key.data, b"")
            if mask & READ:
                self._receive(key.data)

    def until(
        self, condition: Callable[[], bool], what: str, seconds: float = 30, doing: Callable[[], None] | None = None
    ) -> None:
        """Look, and do something between two looks, until a condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise LoadFailed(f"{what} took more than {seconds:g} s")
            self.look(0.01)
            if doing is not None:
                doing()

    def _send(self, member: Member, data: bytes) -> None:
        connection = member.connection
        if connection is None:
            raise LoadFailed(f"the server has disconnected {member.name}")
        data = member.unsent + data
        try:
            sent = connection.send(data) if data else 0
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise LoadFailed(f"{member.name} cannot reach the server: {error.strerror}") from None
        waits, member.unsent = bool(member.unsent), data[sent:]
        if waits != bool(member.unsent):
            self._selector.modify(connection, READ | WRITE if member.unsent else READ, member)

    def _receive(self, member: Member) -> None:
        if member.connection is None:
            return
        try:
            data = member.connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._gone(member)
            return
        *lines, member.received = (member.received + data).split(b"\n")
        take = self._take_frame if member.json else self._take_line
        for line in lines:
            take(member, line)

    def _gone(self, member: Member) -> None:
        if member.connection is not None:
            self._selector.unregister(member.connection)
            member.connection.close()
            member.connection = None
        self.present -= member.present
        member.present = False

    def _let_in(self, member: Member) -> None:
        member.came_in = time.monotonic()
        self.present += not member.present
        member.present = True

    def _take_line(self, member: Member, line: bytes) -> None:
        if not line.startswith(b"* "):
            if line.startswith(b"{"):
                raise LoadFailed(f"{member.name} was refused: {line.decode()}")
            member.lines += 1
        elif line.endswith(_ASKED.encode()):
            member.answered = True
            if not member.present:
                self._let_in(member)

    def _take_frame(self, member: Member, line: bytes) -> None:
        frame = json.loads(line)
        kind = frame["type"]
        if kind == "message" or (kind == "ack" and frame["seq"] is not None):
            member.lines += kind == "message"
            if frame["seq"] > member.past:
                self._count(member, frame["seq"], frame["ts"])
        elif kind == "welcome":
            member.recovered = frame["recovered"]
            if member.recovered:
                member.missed += frame["seq"] - member.seq
            else:
                member.seq, member.ts = frame["seq"], frame["ts"]
                member.past = member.seq if member.history else 0
            member.session, member.epoch = frame["session"], frame["epoch"]
            self._let_in(member)
        elif kind == "pong":
            member.answered = True
        elif kind == "left":
            self.departures += 1
        elif kind == "error":
            raise LoadFailed(f"{member.name} was refused: {frame['detail']}")

    def _count(self, member: Member, seq: int, ts: int) -> None:
        if seq <= member.seq:
            member.doubled += 1
            return
        member.lost += seq - member.seq - 1
        member.seq, member.ts = seq, ts


def _frame(**fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\n"
