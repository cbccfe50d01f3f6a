"""`Hub`: every room of a chat, and the work that is due in them. It is synchronous and needs no event loop."""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from itertools import count
from typing import Final, Protocol

from ..addresses import Address
from ..clock import Clock
from ..errors import RefusalCode, Refused
from ..events import Joined, Left, Renamed
from ..limits import MACHAT_LINE_BYTES, Limits
from ..pending import Pending
from .broker import Broker, Past
from .client import Client
from .entries import Said
from .fanout import fan_out
from .flow_control import SlowPenalties
from .hooks import Hooks, Spawn
from .member import Member
from .names import GO, OURS, Naming
from .openings import Openings
from .origins import LOOPBACK, Origin, Origins
from .presence_hook import PresenceHook
from .room import Room
from .room_list import RoomList
from .session_keys import is_signed, signed
from .sessions import Sessions
from .timers import Timers

_logger = logging.getLogger("chatapi")

LOADED: Final = 1.0
"""Seconds that a loaded room stays open, and a claimed name reserved, if no member comes in."""
TOLD: Final = 256
"""Connections above the limit that are told so, and closed in good order; further ones are closed at once."""
CROWD = 256
"""Entries that may wait for the fan-out before the poller reads on: each may be as large as one read."""


class Runnable(Protocol):
    """An object with work to do, for which it has asked with `Hub.call`."""

    def run(self, now: float) -> None:
        """Do the work that can be done now, without waiting."""
        ...


class Connected(Runnable, Protocol):
    """A connection, as the hub knows it."""

    @property
    def parked(self) -> bool:
        """Whether input that was received waits to be handled."""
        ...

    def abort(self, code: str) -> None:
        """Leave the room for a reason of `DISCONNECTS`, and close the socket at once."""
        ...

    def disconnect(self, code: str) -> None:
        """Tell the other side why, and close in good order."""
        ...


class Hub:
    """The rooms, the deadlines, and the work that is due: rooms with new entries, and connections that can go on.

    `settle` does that work; `wake` is called when there is some.
    """

    def __init__(
        self,
        limits: Limits | None,
        clock: Clock,
        broker: Broker,
        new_key: Callable[[], str],
        hooks: Hooks,
        *,
        machat: bool,
        echo: bool | None,
        commands: bool | None,
        trusted: Iterable[str] = LOOPBACK,
    ) -> None:
        limits = _as_in_go(limits or Limits()) if machat else limits or Limits()
        self.limits: Limits = limits
        self.clock = clock
        self.broker = broker
        self.naming: Naming = GO if machat else OURS
        """The rules for names here, and for when two names are the same."""
        self.echo: bool = machat if echo is None else echo
        """Whether senders get their own messages, if their handshake does not say."""
        self.commands: bool = not machat if commands is None else commands
        """Whether lines that start with ``/`` or ``@`` are commands, if the handshake does not say."""
        self.timers: Timers = Timers()
        self.origins: Origins = Origins(limits, clock, self.timers, trusted)
        """The addresses that connections come from."""
        self.slow_penalties: SlowPenalties = SlowPenalties(limits, self.origins)
        """The names and addresses that rooms do not wait for."""
        self.sessions: Sessions[Client] = Sessions(
            limits,
            clock,
            self.timers,
            self.origins,
            lambda: signed(new_key(), broker.secret),
            lambda key: is_signed(key, broker.secret),
            self._given_up,
            self.call,
        )
        """The sessions of JSON members."""
        self.draining = False
        """Whether the server is shutting down: nobody comes in, and leaves are not announced."""
        self.refusals: Counter[str] = Counter()
        """How often each code ended a connection that had not joined a room: a `RefusalCode`, or ``flood``."""
        self.disconnects: Counter[str] = Counter()
        """How often each code ended a membership."""
        self.connections: dict[Connected, None] = {}
        """Every connection that is not closed yet."""
        self.openings: Openings[Connected] = Openings(limits)
        """The connections without a member."""
        self.most_connections: int = limits.connections
        """Connections that are let in at most."""
        self.most_sockets: int = limits.connections + TOLD
        """Connections at most, with those that are only told that the server is full."""
        self.listening: dict[str, Address] = {}
        """An address of each door, by the door's name; the chat that opens the doors sets it."""
        self.hooks: Hooks = hooks
        """The program's hooks."""
        self.spawn: Spawn = _nobody_awaits
        """Awaits an async hook; the chat that runs the hub sets it."""
        self.wake: Callable[[], None] = _nothing
        """Wakes the poller, because there may be work to do; the chat that runs the hub sets it."""
        self.awake: bool = False
        """Whether a round is under way or about to begin, so that `wake` would have no effect."""
        self.ring: Callable[[], None] = _nothing
        """Does what `wake` does, from any thread, so that `settle` asks the broker."""
        self.rooms: dict[str, Room] = {}
        self.new_client_id: Callable[[], int] = count(1).__next__
        """Returns a number that no client had before."""
        self.arriving = 0
        """The number of admissions that wait for the broker, also those of clients that have left since."""
        self.room_list: RoomList = RoomList(self.rooms, lambda: broker.presence, clock)
        """The rooms that have members, also those of other servers."""
        self._new_key = new_key
        self._log_bytes = 0
        self._loading: dict[str, Pending[Room]] = {}  # the rooms that the broker is opening, by key
        self._awaited: Room | None = None  # a room that is not closed, though it may have no members for a moment
        self._empty: dict[Room, None] = {}  # open rooms without members, the one that is empty for longest first
        self._news: dict[Room, None] = {}  # rooms that need a fan-out pass
        self._crowd = 0  # entries since the last fan-out
        self._runnable: dict[Runnable, None] = {}
        self._presence_hook = PresenceHook(hooks.on_presence, lambda: self.spawn)

    def now(self) -> float:
        """Return the time in seconds, without those in which the server stood still."""
        return self.timers.counted(self.clock.monotonic())

    # Coming, going, moving

    def connected(self, connection: Connected, origin: Origin) -> None:
        """Note a new connection, which holds its origin until it is `disconnected`."""
        self.connections[connection] = None
        self.openings.add(connection, origin, self.now())

    def disconnected(self, connection: Connected, origin: Origin) -> None:
        """Note that a connection is closed, and release its origin; without effect for a second time."""
        if self.connections.pop(connection, self) is None:
            self.openings.discard(connection, origin)
            self.origins.let_go(origin)

    def room(self, name: str) -> Room | None:
        """Return the open room of this name, if there is one."""
        return self.rooms.get(self.naming.room_key(name))

    def open(self, name: str) -> Pending[Room]:
        """Return the room of this name; if it is not open yet, have the broker open it. Fails with `Refused`."""
        key = self.naming.room_key(name)
        if (room := self.rooms.get(key)) is not None:
            return Pending.resolved(room)
        if (loading := self._loading.get(key)) is not None:
            return loading
        loading = self._loading[key] = Pending()
        limits = self.limits
        opened = self.broker.open(key, name, self._new_key(), limits.history, limits.log_bytes // 2)
        opened.then(partial(self._loaded, key))
        return loading

    def _loaded(self, key: str, opened: Pending[Past]) -> None:
        loading = self._loading.pop(key)
        try:
            past = opened.result()
        except Refused as reason:
            loading.fail(reason)
            return
        try:
            self._make_way()
        except Refused as reason:
            self.broker.close(key)
            loading.fail(reason)
            return
        room = self.rooms[key] = Room(past, self)
        self.grew(room.log.held)
        loading.resolve(room)
        if self.rooms.get(key) is room and not room.roster.here and room not in self._empty:
            self._let_be(room, max(self._keep(room), LOADED))

    def leave_for(self, client: Client, room: Room, target: Room) -> None:
        """Remove a member from a room, because it will join `target`, which may be the same room and is not closed."""
        self._awaited = target
        room.leave(client, "replaced")
        self._awaited = None

    def break_off(self, client: Client) -> None:
        """Reserve the name of a JSON member whose connection broke."""
        if client.session is not None:
            self.sessions.reserve(client.session)

    def _given_up(self, client: Client) -> None:
        if client.away and client.room is not None:
            client.room.leave(client, "connection_lost")
            client.outlet.wake()  # its connection is closed, and releases it
            self.disconnects["connection_lost"] += 1
            _logger.info("%s left from %s: %s", client.name, client.address, "connection_lost")

    def _make_way(self) -> None:
        """Close a room without members if there are too many. Raises `Refused` (``server_full``)."""
        if len(self.rooms) >= self.limits.rooms:
            if not self._empty:
                raise Refused(RefusalCode.SERVER_FULL, f"no room can be added; rooms allowed: {self.limits.rooms:,}")
            self.close(next(iter(self._empty)))

    # `Keeper`, which rooms call

    def changed(self, room: Room, entries: int) -> None:
        """Have a fan-out pass over a room, whose log has this number of new entries."""
        self._crowd += entries
        self._news[room] = None
        if not self.awake:
            self.wake()

    def told(self, room: Room, event: Joined | Left | Renamed) -> None:
        """Have the program's hook called with a join, leave or rename, later."""
        self._presence_hook.add(room.name, event)
        if self.wake is _nothing:
            self.tell()
        else:
            self.wake()

    def tell(self) -> None:
        """Call the program's hook with every join, leave and rename that it was not told of yet."""
        while self._presence_hook.untold:
            self._presence_hook.tell_next()

    def needed(self, room: Room) -> None:
        """Keep a room without members open until `emptied` is called."""
        if room in self._empty:
            del self._empty[room]
            self.timers.clear(room)

    def emptied(self, room: Room) -> None:
        """Close a room without members once it has kept its history for as long as it should."""
        if room.settled and room is not self._awaited and self.rooms.get(room.key) is room:
            self._let_be(room, self._keep(room))

    def _keep(self, room: Room) -> float:
        """Return the seconds that a room without members stays open: a short time if other servers share it."""
        if self.broker.presence is not None:
            return LOADED
        return self.limits.keep if room.seq else 0

    def _let_be(self, room: Room, seconds: float) -> None:
        """Close a room without members, now or this number of seconds later."""
        if not seconds:
            self.close(room)
            return
        self._empty[room] = None
        self.timers.set(room, self.clock.monotonic() + seconds, lambda now: self.close(room))
        self.wake()  # there may be no other deadline

    def close(self, room: Room) -> None:
        """Close a room."""
        self._empty.pop(room, None)
        self._news.pop(room, None)
        self.timers.clear(room)
        self._log_bytes -= room.log.held
        del self.rooms[room.key]
        self.broker.close(room.key)

    def attendance_changed(self, room: Room) -> None:
        """Note that the first member here came into a room, or that the last one left it."""
        self.room_list.changed(room)

    def grew(self, by: int) -> None:
        """Add to the bytes of all logs; if these are too many, close rooms without members, then shrink logs."""
        self._log_bytes += by
        while self._log_bytes > self.limits.total_log_bytes:
            if self._empty:
                self.close(next(iter(self._empty)))
                continue
            largest = max(self.rooms.values(), key=lambda room: room.log.held)
            held = largest.log.held
            largest.log.shrink(held // 2)
            if largest.log.held == held:
                break
            self._log_bytes += largest.log.held - held

    def reserved_for(self, client: Member) -> float | None:
        """Return the seconds for which the name of a member whose connection broke stays reserved."""
        return self.sessions.seconds_left(client) if isinstance(client, Client) else None

    def refused(self, room: Room, said: Said, author: Member | None, reason: Refused) -> None:
        """Tell the author of messages that the broker refused them, or else the program's log."""
        if said.session and (session := self.sessions.find(said.session)) is not None:
            session.forget(said)
        if author is not None:
            author.outlet.not_kept(said, reason)
        elif said.settled is None and not said.session:  # a member with a session sends again when it comes back
            _logger.warning("messages of %s in %s were not kept: %s", said.name, room.name, reason.detail)

    # Work

    def cut(self, code: str) -> None:
        """End every connection at once, for a reason of `DISCONNECTS`, and every membership whose connection broke.

        The hook `on_presence` is called with each of them before this returns.
        """
        for connection in list(self.connections):
            connection.abort(code)
        self.sessions.close_all(code)
        self.tell()

    def unattended(self) -> None:
        """Wake nothing any more, because the chat has stopped."""
        self.wake, self.ring, self.spawn = _nothing, _nothing, _nobody_awaits

    def call(self, runnable: Runnable) -> None:
        """Have `run` of this object called in the next `settle`."""
        self._runnable[runnable] = None
        if not self.awake:
            self.wake()

    @property
    def crowded(self) -> bool:
        """Whether so many entries wait that the fan-out must come before more is read."""
        return self._crowd > CROWD

    @property
    def busy(self) -> bool:
        """Whether there is work for `settle`."""
        return bool(self._news or self._runnable or self._presence_hook.untold)

    def settle(self) -> Iterator[None]:
        """Do all the work that is due; yield where the program's other tasks may run."""
        self.broker.collect()
        news, self._news = self._news, {}
        self._crowd = 0
        for room in news:
            yield from fan_out(room)
            room.after_pass()
        runnable, self._runnable = self._runnable, {}
        now = self.clock.monotonic()
        for one in runnable:
            one.run(now)
            yield
        for _ in range(len(self._presence_hook.untold)):
            self._presence_hook.tell_next()
            yield
        self.broker.collect()  # so that the broker takes all messages of this round together


def _as_in_go(limits: Limits) -> Limits:
    """Return the limits for `machat`: if `line_bytes` was not given, it is that of Go."""
    if "line_bytes" in limits.model_fields_set:
        return limits
    return limits.model_copy(update={"line_bytes": MACHAT_LINE_BYTES})


def _nothing() -> None:
    pass


def _nobody_awaits(awaitable: Awaitable[object], *, shield: bool = False) -> Pending[object]:
    if inspect.iscoroutine(awaitable):
        awaitable.close()
    error = RuntimeError("an async hook needs a running chat: serve it, or use `async with chat`")
    return Pending.resolved(error)
