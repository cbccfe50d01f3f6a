"""The fan-out: what is new in a room goes to everybody who is up to date, one send for each."""

from __future__ import annotations

from collections.abc import Iterator

from .entries import AnyEntry
from .limits import CHUNK_BYTES
from .render import Batch
from .rooms import Room

SLICE = 32
"""Sends between two chances for the rest of the program: half a millisecond at most, where they are large."""


def fan_out(room: Room) -> Iterator[None]:
    """One pass over a room; it yields now and then, so that nobody else is held up for long.

    Whoever is not exactly where the batch begins when its turn comes (it read on by itself meanwhile, or joined) is
    woken to read for itself; so nothing is sent twice and nothing is left out, whatever happens between two slices.
    """
    stop = room.log.head  # what comes while this pass yields has the next one
    while room.fresh and room.fresh[0].position < stop:
        batch = Batch(_take(room))
        start, end, origins = batch.start, batch.end, batch.origins
        members = list(room.current.values())
        style, shared = None, b""
        for at in range(0, len(members), SLICE):
            for client in members[at : at + SLICE]:
                if client.room is not room or client.away:  # meanwhile; what it is owed it reads by itself
                    continue
                if client.position != start:
                    if client.position < end:
                        client.outlet.wake()
                    continue
                client.position = end
                if client.style is not style:
                    style = client.style
                    shared = batch.shared(style)
                data = batch.own(client.style, client.id, client.echo) if client.id in origins else shared
                if not data:
                    continue
                outlet = client.outlet
                try:
                    try:
                        sent = outlet.send(data)
                    except BlockingIOError:
                        outlet.keep(data)
                    except OSError:
                        outlet.broken()
                    else:
                        if sent < len(data):
                            outlet.keep(memoryview(data)[sent:])
                except Exception:
                    outlet.crashed()
            yield


def _take(room: Room) -> list[AnyEntry]:
    """About a chunk of what is fresh, but at least one entry."""
    fresh = room.fresh
    size = taken = 0
    for entry in fresh:
        size += entry.size
        if size > CHUNK_BYTES and taken:
            break
        taken += 1
    room.fresh = fresh[taken:]
    return fresh[:taken]
