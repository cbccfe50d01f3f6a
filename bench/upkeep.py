"""What Redis holds of rooms, members and messages, and what it takes to look after them."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from typing import Final

from chatapi.brokers.redis import scripts
from chatapi.brokers.redis.turns import Saying
from chatapi.core.entries import Said
from chatapi.limits import Keep

from .across import core
from .resp import Redis
from .script import TEXT, Caller, claimed
from .servers import Failure, ServerFailed, running
from .subjects import Subject
from .watch import cpu_seconds

_MEMBERS: Final = 10
"""Of a room."""
_BATCHES: Final = 100
"""In the log of a room."""
_MESSAGES: Final = (
    ("a message of 64 bytes that came alone", 1, False),
    ("a message that came as one of ten", 10, False),
    ("a message with an id that came alone", 1, True),
)
"""What, in how many lines at once, and whether with an id."""
_RENEWALS: Final = 100
_MILLISECONDS: Final = 1_000_000
"""That a lease lasts: longer than this does."""

Upkeep = dict[str, float]
"""Bytes, or microseconds of Redis's processor time, by what they are for."""


def measure(redis: Subject, scale: float) -> tuple[Upkeep, Upkeep] | Failure:
    """What is held, in bytes, and what is taken, in microseconds."""
    if reason := redis.missing():
        return Failure(reason)
    try:
        with running(redis, core(0)) as server, Redis(server.port) as connection:
            rooms = max(len(_MESSAGES), round(1000 * scale))
            held = _held(connection, server.port, rooms)

            def taken(do: Callable[[], object]) -> float:
                before = cpu_seconds(server.pids)
                do()
                return 1e6 * (cpu_seconds(server.pids) - before)

            return held, {**_of_crowds(connection, scale, taken), **_of_nodes(connection, scale, taken)}
    except (ServerFailed, OSError) as problem:
        return Failure(str(problem))


def _held(redis: Redis, port: int, count: int) -> Upkeep:
    caller = Caller(redis, Keep(days=30))
    held: Upkeep = {}
    last = _memory(redis)

    def note(what: str, number: int) -> None:
        nonlocal last
        before, last = last, _memory(redis)
        held[what] = (last - before) / number

    rooms = [caller.room(f"r{number:06}") for number in range(count)]
    note("a room", count)
    with Redis(port) as listener:
        listener.ask("SUBSCRIBE", *(room.keys.channel for room in rooms))
        note("a node that has members in a room", count)
    last = _memory(redis)
    for room in rooms:
        caller.do(room, claimed(caller, _MEMBERS))
    note("a member with a session", count * _MEMBERS)
    few = max(1, count // 20)
    for start, (what, lines, ids) in enumerate(_MESSAGES):
        for room in rooms[start :: len(_MESSAGES)][:few]:
            session = secrets.token_urlsafe(16)
            for number in range(_BATCHES):
                named = (f"{number:08}",) if ids else None
                caller.do(room, [Saying(Said(0, "u000012", TEXT * lines, lines, named, session))])
        note(what, few * _BATCHES * lines)
    return held


def _of_crowds(redis: Redis, scale: float, taken: Callable[[Callable[[], object]], float]) -> Upkeep:
    caller, other = Caller(redis), Caller(redis)
    found: Upkeep = {}
    for members in (10, 1000, 10_000, 100_000):
        members = max(2, round(members * scale))
        room = caller.room(f"crowd{members}")
        caller.do(room, claimed(caller, members))
        found[f"a node opens a room of {members:,}"] = taken(partial(other.room, room.keys.tag))
    rooms = [caller.room(f"dead{number}") for number in range(_BATCHES)]
    for room in rooms:
        caller.do(room, claimed(caller, _MEMBERS))
    seen = [other.room(room.keys.tag) for room in rooms]
    for room in seen:
        room.connection_lost()
    found[f"a node looks at a room of {_MEMBERS} again, one of many"] = taken(partial(other.do_all, seen)) / len(seen)
    for room in seen:
        room.reap({caller.id})
    found[f"{_MEMBERS} members of a node that died leave a room, one of many"] = taken(
        partial(other.do_all, seen)
    ) / len(seen)
    return found


def _of_nodes(redis: Redis, scale: float, taken: Callable[[Callable[[], object]], float]) -> Upkeep:
    found: Upkeep = {}
    sha = redis.ask("SCRIPT", "LOAD", scripts.source(scripts.NODES))
    names = [secrets.token_urlsafe(9) for _ in range(1000)]

    def renew(some: list[str]) -> None:
        for name in some:
            redis.ask("EVALSHA", sha, 1, "machat:{nodes}", name, _MILLISECONDS)

    for count in (2, 10, 100, 1000):
        count = max(2, round(count * scale))
        renew(names[:count])
        some = (names[:count] * _RENEWALS)[:_RENEWALS]
        found[f"a node renews its lease, one of {count:,}"] = taken(partial(renew, some)) / len(some)
    return found


def _memory(redis: Redis) -> int:
    return int(redis.counters("memory")["used_memory"])
