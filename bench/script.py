"""The script of a room, called directly: what one Redis takes, whatever a node could send.

Callers stand for nodes: each has one call on its way, as a node has. What they send is made beforehand by the broker's
own code, so that next to nothing is left to do here while it is measured; this process has the load's core for itself.
"""

from __future__ import annotations

import contextlib
import secrets
import selectors
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, cast

from chatapi import Limits
from chatapi.brokers.redis import scripts
from chatapi.brokers.redis.room import Node, SharedRoom
from chatapi.brokers.redis.scripts import Keys, Section
from chatapi.brokers.redis.turns import Claiming, Releasing, Saying, Step
from chatapi.core.broker import SharedRooms
from chatapi.core.entries import Said
from chatapi.core.names import OURS, name_key
from chatapi.limits import Keep

from . import machine
from .across import core
from .load import LoadFailed
from .resp import Redis, Word, request
from .servers import Failure, ServerFailed, running
from .subjects import Subject
from .watch import cpu_seconds

CALLERS: Final = 8
LISTENERS: Final = 2
"""Nodes that are told of each batch."""
_CYCLE: Final = 16
"""Calls that are made beforehand; then they are sent anew."""
_WARM: Final = 0.1
_STUCK: Final = 5.0
_READ: Final = 1 << 18
_ROUND: Final = b"@@@@@@@@"
"""In an id, what becomes another number each time."""
_NUMBER: Final = b"7000000000000"
"""In a call that was made before, where the number of a turn belongs."""
_DONE: Final = b"$2\r\nok\r\n"
_REFUSALS: Final = (b"-ERR", b"error\r\n", b"again\r\n", b"epoch\r\n", b"fenced\r\n", b"late\r\n")
TEXT: Final = b"x" * 64 + b"\n"
_LIMITS: Final = Limits(room_members=1_000_000)
_KEEP: Final = Keep(days=30, messages=1000)
"""Little, so that as much is forgotten as comes, as in a room that has been there for a while."""


class Caller:
    """A node, as far as Redis can tell."""

    def __init__(self, redis: Redis, keep: Keep = _KEEP) -> None:
        self.id: str = secrets.token_urlsafe(9)
        self._redis = redis
        self._sha = redis.ask("SCRIPT", "LOAD", scripts.source(scripts.ROOM))
        rooms = cast(SharedRooms, SimpleNamespace(limits=_LIMITS, remote_member_changed=_nothing))
        self._node = Node(
            id=self.id, rooms=rooms, publish="PUBLISH", keep=keep, replicas=0, schedule=_nothing, forget=_nothing
        )
        self._numbers = iter(range(1, 1 << 60))

    def room(self, tag: str) -> SharedRoom:
        """A room that is open here."""
        room = SharedRoom(tag, tag, secrets.token_urlsafe(16), (0, 0), self._node, keys(tag))
        section = room.next_section(0, 0)
        assert section is not None
        room.answered(self._redis.ask(*self.call([section]))[0])
        return room

    def turn(self, room: SharedRoom, steps: Sequence[Step]) -> Section:
        """What is asked in a room."""
        for step in steps:
            room.add(step)
        section = room.next_section(int(_NUMBER), 0)
        assert section is not None
        room.answered([b"ok", b"0", b"0", b""])
        return section

    def call(self, sections: Sequence[Section]) -> list[Word]:
        """One call of the script."""
        all_keys = [key for section in sections for key in section.keys]
        words: list[Word] = ["EVALSHA", self._sha, len(all_keys), *all_keys, sections[0].command]
        for section in sections:
            words += len(section.keys), len(section.arguments), *section.arguments
        return words

    def do_all(self, rooms: Sequence[SharedRoom]) -> None:
        """Do in one call what is to be done next in each of these."""
        sections = [section for room in rooms if (section := room.next_section(next(self._numbers), 0)) is not None]
        for room, answer in zip(rooms, self._redis.ask(*self.call(sections)), strict=True):
            room.answered(answer)

    def do(self, room: SharedRoom, steps: Sequence[Step]) -> None:
        """Do all this in a room, in as many turns as it takes."""
        for step in steps:
            room.add(step)
        while (section := room.next_section(next(self._numbers), 0)) is not None:
            room.answered(self._redis.ask(*self.call([section]))[0])


def keys(tag: str) -> Keys:
    """The keys of a room."""
    return Keys(prefix="machat", tag=tag, db=0)


def said(lines: int, ids: bool = False) -> list[Step]:
    """Lines: with ids each is a message of its own, otherwise they are one run."""
    if not ids:
        return [Saying(Said(0, "u000012", TEXT * lines, lines))]
    session = secrets.token_urlsafe(16)
    return [Saying(Said(0, "u000012", TEXT, 1, (f"{_ROUND.decode()}{i:04}",), session)) for i in range(lines)]


def claimed(caller: Caller, members: int) -> list[Step]:
    """So many come in."""
    names = [f"u{i:06}" for i in range(members)]
    return [Claiming(name, secrets.token_hex(16), caller.id, True, OURS) for name in names]


def claimed_and_released(caller: Caller, members: int) -> list[Step]:
    """So many come in, and leave."""
    names = [f"{caller.id[:4]}{i:03}".translate({ord("-"): "x", ord("_"): "x"}) for i in range(members)]
    session = secrets.token_hex(16)
    return [
        *(Claiming(name, session, caller.id, True, OURS) for name in names),
        *(Releasing(name_key(name), name, session, "bye", True) for name in names),
    ]


def _nothing(*_: Any) -> None:
    pass


@dataclass(frozen=True)
class Calling:
    """What is called again and again."""

    steps: Callable[[Caller], list[Step]] | None
    """In each room; None for a PUBLISH without a script."""
    each: int = 1
    """So many lines, or whatever else is counted, in each room."""
    rooms: int = 1
    listeners: int = LISTENERS
    apart: bool = False
    """Whether each room is a call of its own, as in a cluster; all of them are sent together."""


@dataclass(frozen=True)
class Rate:
    """What came of it."""

    per_second: float
    """Lines, or whatever else was counted."""
    cpu: float
    """Microseconds of Redis's processor time for each."""
    share: float
    """Of a core, that Redis took."""
    call: float
    """Microseconds of Redis's processor time for a call."""


def call(redis: Subject, calling: Calling, seconds: float) -> Rate | Failure:
    """Have all callers call for so long."""
    if reason := redis.missing():
        return Failure(reason)
    try:
        with (
            running(redis, core(0)) as server,
            machine.on_core(machine.load_core()),
            Calls(server.port, calling) as calls,
        ):
            return calls.run(server.pids, seconds)
    except (ServerFailed, LoadFailed, OSError) as problem:
        return Failure(str(problem))


class _Line:
    """A caller's connection."""

    def __init__(self, connection: socket.socket, calls: Sequence[bytes], expected: int, done: bytes) -> None:
        self.socket: socket.socket = connection
        self._calls = calls
        self._expected, self._done = expected, done
        self._sent = 0
        self._answer = b""

    def send(self) -> None:
        """The next call."""
        round_, which = divmod(self._sent, len(self._calls))
        self._sent += 1
        number = b"%d" % (int(_NUMBER) + self._sent)  # the script takes no number twice, and none that is lower
        self.socket.sendall(self._calls[which].replace(_ROUND, b"%08d" % round_).replace(_NUMBER, number))

    def read(self) -> bool:
        """Whether the answer is here; then the next call is on its way."""
        self._answer += self.socket.recv(_READ)
        if self._answer.count(self._done) < self._expected:
            if any(refusal in self._answer for refusal in _REFUSALS):
                raise LoadFailed(f"Redis answered {self._answer[:200]!r}")
            return False
        self._answer = b""
        self.send()
        return True


class Calls:
    """All callers and listeners."""

    def __init__(self, port: int, calling: Calling) -> None:
        self._port = port
        self._calling = calling
        self._ends = contextlib.ExitStack()
        self._selector = self._ends.enter_context(selectors.DefaultSelector())
        self._lines: list[_Line] = []

    def __enter__(self) -> Calls:
        with self._ends:
            tags = [f"r{number:04}" for number in range(self._calling.rooms)]
            for _ in range(CALLERS):
                line = self._line(self._ends.enter_context(Redis(self._port)), tags)
                self._selector.register(line.socket, selectors.EVENT_READ, line)
                self._lines.append(line)
            for _ in range(self._calling.listeners):
                listener = self._ends.enter_context(Redis(self._port)).socket
                listener.sendall(request(["SUBSCRIBE", *(keys(tag).channel for tag in tags)]))
                self._selector.register(listener, selectors.EVENT_READ, None)
            self._ends = self._ends.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def _line(self, redis: Redis, tags: Sequence[str]) -> _Line:
        steps = self._calling.steps
        if steps is None:
            return _Line(redis.socket, [request(["PUBLISH", keys(tags[0]).channel, TEXT])], 1, b"\r\n")
        caller = Caller(redis)
        rooms = [caller.room(tag) for tag in tags]
        for room in rooms:
            caller.do(room, said(1))  # a room in which nothing was said ends when nobody is left
        made = [[caller.turn(room, steps(caller)) for room in rooms] for _ in range(_CYCLE)]
        if self._calling.apart:
            calls = [b"".join([request(caller.call([section])) for section in sections]) for sections in made]
        else:
            calls = [request(caller.call(sections)) for sections in made]
        return _Line(redis.socket, calls, len(rooms), _DONE)

    def run(self, pids: Sequence[int], seconds: float) -> Rate:
        """Measure, after a moment."""
        for line in self._lines:
            line.send()
        self._until(time.monotonic() + _WARM)
        began, before = time.monotonic(), cpu_seconds(pids)
        calls = self._until(began + seconds)
        took, used = time.monotonic() - began, cpu_seconds(pids) - before
        if not calls:
            raise LoadFailed(f"Redis answered no call within {seconds:g} s")
        each = calls * self._calling.rooms * self._calling.each
        return Rate(each / took, 1e6 * used / each, used / took, 1e6 * used / calls)

    def _until(self, end: float) -> int:
        done = 0
        while time.monotonic() < end:
            for key, _ in self._selector.select(_STUCK):
                if key.data is None:
                    key.fileobj.recv(_READ)  # type: ignore[union-attr]
                else:
                    done += key.data.read()
        return done
