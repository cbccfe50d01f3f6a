"""The fan-out: sends a room's new entries to its up-to-date members, with one send for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice

from ..limits import CHUNK_BYTES, ENTRY_COST
from .entries import AnyEntry, Said
from .log import chunk
from .member import Member
from .room import Room
from .style import Batch, Style

SLICE = 32
"""Sends between two yields to the rest of the program: half a millisecond at most, if the sends are large."""


def fan_out(room: Room) -> Iterator[None]:
    """Make one pass over a room; yield after every `SLICE` sends, so that others need not wait for long.

    A member that is not exactly where the batch begins (it joined or read on by itself during the pass) gets no send,
    and is woken to read by itself. So nothing is sent twice and nothing is left out, whatever happens between slices.
    """
    stop = room.log.head  # entries that come while this pass yields are for the next pass
    done, yielded = 0, False
    while room.fresh and room.fresh[0].position < stop:
        fresh = room.fresh
        if is_small(len(fresh), room.log.written - fresh[0].offset, room.naming.name_bytes):
            room.fresh = []
            batch = Batch(fresh)
        else:
            batch = Batch(_take(room, done))
        done = batch.end
        start, end, origins = batch.start, batch.end, batch.origins
        for style, readers in list(room.current.by_style.items()):
            members = list(readers.values())
            try:
                shared = batch.shared(style)
            except Exception:  # of a style that the program has added
                _end(members)
                continue
            for at in range(0, len(members), SLICE):
                served = members[at : at + SLICE]
                if yielded:  # those that left or went away meanwhile read the rest by themselves
                    served = [client for client in served if client.room is room and not client.away]
                for client in served:
                    if (peer := client.peer) is None:
                        continue
                    if client.position != start:
                        if client.position < end:
                            peer.wake()
                        continue
                    client.position = end
                    send = peer.send  # `peer.send(…)` would look up the attribute by its name each time
                    try:
                        data = batch.own(style, client.id, client.echo) if client.id in origins else shared
                        if not data:
                            continue
                        try:
                            sent = send(data)
                        except BlockingIOError:
                            peer.buffer(data)
                        except OSError:
                            peer.broken()
                        else:
                            if sent < len(data):
                                peer.buffer(memoryview(data)[sent:])
                    except Exception:
                        peer.crashed()
                yielded = True
                yield


def _take(room: Room, done: int) -> list[AnyEntry]:
    """Take at most one chunk of `room.fresh`, from position `done` on.

    A run that is cut stays in `room.fresh` until its last part is taken.
    """
    fresh = room.fresh
    first = fresh[0]
    if first.position < done and isinstance(first, Said):
        first = first.between(done, first.end)
    found = chunk(
        chain((first,), islice(fresh, 1, None)),
        CHUNK_BYTES,
        lambda entry: max((_size(room, style, entry) for style in list(room.roster.styles)), default=0),
    )
    taken = len(found)
    room.fresh = fresh[taken if found[-1].end == fresh[taken - 1].end else taken - 1 :]
    return found


def _size(room: Room, style: Style, entry: AnyEntry) -> int:
    """Return the size of an entry in a style; if that raises, end the members that have the style, and return 0."""
    try:
        return max(style.size(entry), 0)  # raises too if it is not a number
    except Exception:
        _end([member for member in room.roster.here.values() if member.style == style])
        return 0


def _end(members: Iterable[Member]) -> None:
    """End these members, except those without a connection, because of the exception that is being handled."""
    for member in members:
        if member.peer is not None and not member.away:
            member.peer.crashed()


def is_small(entries: int, weight: int, name_bytes: int) -> bool:
    """Return whether entries of this weight together are certainly at most one chunk. Measuring them takes longer.

    A message of many lines of one character grows most: each line has two bytes, its line feed included, and is
    rendered with a name and at most five bytes. A join, leave or rename has at most two names, and a `ref`.
    """
    return (weight - entries * ENTRY_COST) * (name_bytes // 2 + 3) + entries * 8 * name_bytes <= CHUNK_BYTES
