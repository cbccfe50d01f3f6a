"""Members that stop reading, in three ways: half of a room, one that comes back again and again, and all but one."""

from __future__ import annotations

import json
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Final

from chatapi import Limits

from . import machine
from .load import Figures, Load, LoadFailed
from .members import Crowd, Member
from .servers import Failure, Server, attempt
from .subjects import Subject
from .watch import LOOK, Census, Look, Watch, highest

SLICE: Final = 0.1
"""Seconds of each figure of a timeline."""
_ROOM: Final = "r0000"
"""What the load generator calls its first room."""
_HELD_UP: Final = 0.1
"""A room is held up where it delivers less than this part of what it usually does …"""
_LONG: Final = 3
"""… in so many slices at least."""
_TOO_MUCH: Final = 0.6
"""This part of a room's log is more than the room lets anybody lag behind, with what the sockets take."""
_BETWEEN: Final = 0.01
"""Seconds between two questions whether those who stall are still there."""
_PATIENCE: Final = 60
"""Seconds that they may be there."""
_REST: Final = 5
"""Looks at a server that has come to rest; and looks that it has to do so."""


@dataclass(frozen=True, kw_only=True)
class Lag:
    """A run of the load generator, and what was seen of the server meanwhile."""

    figures: Figures
    looks: Sequence[Look]
    """From the last one before the run until its end; their times are seconds from its beginning, within some 0.05."""
    evicted: Sequence[float]
    """When members were seen to be gone, in seconds from the beginning."""
    highest: int
    """Bytes of memory that the server had at most, from its start on."""

    @property
    def pauses(self) -> list[tuple[int, int]]:
        """When the room was held up: the first slice of each time, and the one behind the last."""
        timeline = self.figures.timeline
        low = _HELD_UP * statistics.median(sorted(timeline)[len(timeline) // 2 :])
        found: list[tuple[int, int]] = []
        start = None
        for at, deliveries in enumerate([*timeline, low]):
            if deliveries < low and start is None:
                start = at
            elif deliveries >= low and start is not None:
                found += [(start, at)] if at - start >= _LONG else []
                start = None
        return found

    @property
    def held_up(self) -> float:
        """Seconds that it was, all together."""
        return sum(end - start for start, end in self.pauses) * SLICE

    def rate(self, start: int = 0, end: int | None = None) -> float:
        """Deliveries a second between two slices; 0 where there are none."""
        part = self.figures.timeline[start:end]
        return sum(part) / (len(part) * SLICE) if part else 0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What it costs to disconnect members from a room in which nothing else goes on."""

    members: int
    waited: float
    """Seconds from when it was said until they were disconnected."""
    waiting_share: float
    """The part of a core that the server used meanwhile."""
    evicting: float
    """Seconds of processor time from the last look before that until all their sockets were closed."""


def half_stalls(subject: Subject, load: Load) -> Lag | Failure:
    """The load, with the server watched."""

    def watched(server: Server) -> Lag:
        with Watch(server, _ROOM) as watch:
            figures = server.run(load)
            began = _began(figures)
        looks = [look.since(began) for look in watch.looks]
        looks = [look for look in looks if -2 * LOOK < look.at < figures.seconds - LOOK]  # then all of them leave
        gone = [b.at for a, b in pairwise(looks) for _ in range(a.members - b.members)]
        return Lag(figures=figures, looks=looks, evicted=gone, highest=highest(server.pids))

    return attempt(subject, watched)


def one_returns(subject: Subject, load: Load) -> Lag | Failure:
    """The load, with a member more that never reads, and comes back whenever it was disconnected."""

    def visited(server: Server) -> Lag:
        evicted: list[float] = []
        over = threading.Event()
        visitor = threading.Thread(target=_return_often, args=(server.port, load.members, over, evicted))
        visitor.start()
        try:
            figures = server.run(load)
            began = _began(figures)
        finally:
            over.set()
            visitor.join()
        gone = [at - began for at in evicted if at - began < figures.seconds]
        return Lag(figures=figures, looks=(), evicted=gone, highest=highest(server.pids))

    return attempt(subject, visited)


def _began(figures: Figures) -> float:
    """When the run began that has just ended, by the monotonic clock."""
    return time.monotonic() - figures.drain_seconds - figures.seconds


def _return_often(port: int, others: int, over: threading.Event, evicted: list[float]) -> None:
    with machine.on_core(machine.load_core()), closing(Census(port, _ROOM)) as census, suppress(OSError, ValueError):
        while census.count() < others and not over.is_set():
            time.sleep(_BETWEEN)
        for turn in count():
            with _stalling(port, turn):
                while (members := census.count()) > others:
                    time.sleep(_BETWEEN)
            if members < others or over.is_set():
                return  # the load is over
            evicted.append(time.monotonic())


def _stalling(port: int, turn: int) -> socket.socket:
    """A member that will not read. After the first time either its name or its address is known, in turns."""
    name, address = ("slow", f"127.0.0.{2 + turn % 250}") if turn % 2 or not turn else (f"slow{turn}", "127.0.0.2")
    connection = socket.socket()
    connection.settimeout(10)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.bind((address, 0))
    connection.connect(("127.0.0.1", port))
    connection.sendall(json.dumps({"name": name, "room": _ROOM, "protocol": "json"}).encode())
    connection.recv(1)  # the first byte of the welcome: it is in
    return connection


def all_stall(subject: Subject, members: int) -> Cost | Failure:
    """So many members stop reading; one says too much for them, and then no more."""

    def silent(server: Server) -> Cost:
        with Watch(server, _ROOM) as watch, _talker(server.port) as talker, Crowd(server.port) as crowd:
            crowd.until(lambda: bool(watch.looks), "the first look")
            before = _descriptors(server)
            for i in range(members):
                crowd.connect(Member(f"slow{i}", _ROOM, json=False))
            crowd.until(lambda: crowd.present == members, "coming in")
            _wait(lambda: watch.looks[-1].members == members + 1)
            said = time.monotonic()
            with suppress(TimeoutError):
                talker.sendall((b"x" * 999 + b"\n") * int(_TOO_MUCH * Limits().log_bytes / 1000))
            _wait(lambda: watch.looks[-1].members == 1 and _descriptors(server) <= before)
            enough = len(watch.looks) + _REST
            _wait(lambda: len(watch.looks) > enough)
        return _cost(members, [look.since(said) for look in watch.looks])

    return attempt(subject, silent)


def _talker(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 1)
    connection.sendall(json.dumps({"name": "talker", "room": _ROOM}).encode())
    return connection


def _descriptors(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise LoadFailed(f"members that stall were not disconnected within {_PATIENCE} s")
        time.sleep(_BETWEEN)


def _cost(members: int, looks: Sequence[Look]) -> Cost:
    """The last looks were at a server at rest, which shows what being looked at costs."""
    closed, calm = looks[-1 - _REST], looks[-1]
    *_, last = still = [look for look in looks if look.members > members]
    first = next((look for look in still if look.at > _REST * LOOK), last)
    rest = (calm.cpu - closed.cpu) / (calm.at - closed.at)
    waited = last.at - first.at
    return Cost(
        members=members,
        waited=last.at,
        waiting_share=(last.cpu - first.cpu) / waited - rest if waited else 0,
        evicting=closed.cpu - last.cpu - rest * (closed.at - last.at),
    )
