"""The hub: every room of a chat and the work that is due in them.

Synchronous: a whole chat runs without an event loop.
"""

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
"""Seconds that a room which was loaded stays, or a name that was claimed, though nobody has entered it yet."""
TOLD: Final = 256
"""Connections above the limit that are told so, and closed in good order; those above these are just closed."""
CROWD = 256
"""Entries that may wait for the fan-out while more is read: each may be as large as one read."""


class Runnable(Protocol):
    """Something that does what it can do now when it is called."""

    def run(self, now: float) -> None:
        """Do it, without waiting."""
        ...


class Connected(Runnable, Protocol):
    """A connection as the hub knows it."""

    @property
    def parked(self) -> bool:
        """Whether something that was read waits."""
        ...

    def abort(self, code: str) -> None:
        """Leave the room for a reason of `DISCONNECTS`, and close the socket at once."""
        ...

    def disconnect(self, code: str) -> None:
        """Tell the other side why, and close in good order."""
        ...


class Hub:
    """The rooms, by name; the deadlines; and two lists of what is to be done next: rooms with news, and connections
    that can go on. `settle` works them off. Whoever adds to them from outside calls nothing else: `wake` is called."""

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
        """Whether senders get their own messages, where their handshake does not say."""
        self.commands: bool = not machat if commands is None else commands
        """Whether lines that start with ``/`` or ``@`` are commands, where the handshake does not say."""
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
            lambda sessions: self.call(sessions),
        )
        """What lets JSON members come back."""
        self.draining = False
        """Whether the server is shutting down: nobody comes in, and leaves are not announced."""
        self.refusals: Counter[str] = Counter()
        """How often each code refused a handshake."""
        self.disconnects: Counter[str] = Counter()
        """How often each code ended a membership."""
        self.connections: dict[Connected, None] = {}
        """Every connection that is not closed yet."""
        self.openings: Openings[Connected] = Openings(limits)
        """Those of them that have no member."""
        self.most_connections: int = limits.connections
        """How many of them there may be."""
        self.most_sockets: int = limits.connections + TOLD
        """The same together with those that are only told that the server is full."""
        self.listening: dict[str, Address] = {}
        """An address of each door, by the door's name; set by whoever opens them."""
        self.hooks: Hooks = hooks
        """What the program decides."""
        self.spawn: Spawn = _nobody_awaits
        """Awaits what an async hook returned; set by whoever runs the hub."""
        self.wake: Callable[[], None] = _nothing
        """Called when there may be something to do; set by whoever runs the hub."""
        self.awake: bool = False
        """Whether a round is under way or about to begin, so that `wake` would have no effect."""
        self.ring: Callable[[], None] = _nothing
        """The same, from any thread: `settle` asks the broker then."""
        self.rooms: dict[str, Room] = {}
        self.new_client_id: Callable[[], int] = count(1).__next__
        """Returns a number that no client had before."""
        self.arriving = 0
        """How many wait for what must be fetched before they can come in, those included that have gone since."""
        self.room_list: RoomList = RoomList(self.rooms, lambda: broker.presence, clock)
        """Those of them that somebody is in, and those of other servers."""
        self._new_key = new_key
        self._log_bytes = 0
        self._loading: dict[str, Pending[Room]] = {}  # the rooms that the broker is asked for, by key
        self._awaited: Room | None = None  # one that is not to be closed, though it is empty for a moment
        self._empty: dict[Room, None] = {}  # rooms that keep their history, the longest empty first
        self._news: dict[Room, None] = {}
        self._crowd = 0  # entries that came since the last fan-out
        self._runnable: dict[Runnable, None] = {}
        self._presence_hook = PresenceHook(hooks.on_presence, lambda: self.spawn)

    def now(self) -> float:
        """Return the time in seconds, without those in which the server stood still."""
        return self.timers.counted(self.clock.monotonic())

    # Coming, going, moving

    def connected(self, connection: Connected, origin: Origin) -> None:
        """A connection begins, for which its origin is held until it is `disconnected`."""
        self.connections[connection] = None
        self.openings.add(connection, origin, self.now())

    def disconnected(self, connection: Connected, origin: Origin) -> None:
        """A connection is closed, and its origin let go. Further calls for the same connection change nothing."""
        if self.connections.pop(connection, self) is None:
            self.openings.discard(connection, origin)
            self.origins.let_go(origin)

    def room(self, name: str) -> Room | None:
        """The room of this name, if there is one."""
        return self.rooms.get(self.naming.room_key(name))

    def open(self, name: str) -> Pending[Room]:
        """Return the room of this name, with what the broker has of it if it is not open yet. Fails with `Refused`."""
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
        """Take a member out of a room to make another membership in `target`, which stays open if that is the same."""
        self._awaited = target
        room.leave(client, "replaced")
        self._awaited = None

    def break_off(self, client: Client) -> None:
        """The connection of a JSON member broke: its name stays its own for a while."""
        if client.session is not None:
            self.sessions.reserve(client.session)

    def _given_up(self, client: Client) -> None:
        if client.away and client.room is not None:
            client.room.leave(client, "connection_lost")
            client.outlet.wake()  # a connection that is closed lets go of who is gone
            self.disconnects["connection_lost"] += 1
            _logger.info("%s left from %s: %s", client.name, client.address, "connection_lost")

    def _make_way(self) -> None:
        """See that one more room can be open; raises `Refused` (``server_full``)."""
        if len(self.rooms) >= self.limits.rooms:
            if not self._empty:
                raise Refused(RefusalCode.SERVER_FULL, f"no room can be added; rooms allowed: {self.limits.rooms:,}")
            self.close(next(iter(self._empty)))

    # What rooms tell (the Keeper that they expect)

    def changed(self, room: Room, entries: int) -> None:
        """A room has news."""
        self._crowd += entries
        self._news[room] = None
        if not self.awake:
            self.wake()

    def told(self, room: Room, event: Joined | Left | Renamed) -> None:
        """Somebody joined, left or has another name: the program's hook hears of it, apart from what is under way."""
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
        """Somebody is about to enter or change an empty room: from here on it does not give way to another."""
        if room in self._empty:
            del self._empty[room]
            self.timers.clear(room)

    def emptied(self, room: Room) -> None:
        """Nobody is in a room: it is freed once its history is past its keep time."""
        if room.settled and room is not self._awaited and self.rooms.get(room.key) is room:
            self._let_be(room, self._keep(room))

    def _keep(self, room: Room) -> float:
        """For how long a room stays open that nobody is in; where others share it, no longer than it is needed here."""
        if self.broker.presence is not None:
            return LOADED
        return self.limits.keep if room.seq else 0

    def _let_be(self, room: Room, seconds: float) -> None:
        """Nobody is in a room: close it, now or so many seconds later."""
        if not seconds:
            self.close(room)
            return
        self._empty[room] = None
        self.timers.set(room, self.clock.monotonic() + seconds, lambda now: self.close(room))
        self.wake()  # it may be the only deadline there is

    def close(self, room: Room) -> None:
        """A room ends here."""
        self._empty.pop(room, None)
        self._news.pop(room, None)
        self.timers.clear(room)
        self._log_bytes -= room.log.held
        del self.rooms[room.key]
        self.broker.close(room.key)

    def attendance_changed(self, room: Room) -> None:
        """The first member here came into a room, or the last one left it."""
        self.room_list.changed(room)

    def grew(self, by: int) -> None:
        """A log grew: where all of them are too much, empty rooms go first, then the largest logs shrink."""
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
        """The broker did not take what somebody said: its author is told, or the log where nobody can be."""
        if said.session and (session := self.sessions.find(said.session)) is not None:
            session.forget(said)
        if author is not None:
            author.outlet.not_kept(said, reason)
        elif said.settled is None and not said.session:  # who has a session asks again when it comes back
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
        """Nobody runs it any more."""
        self.wake, self.ring, self.spawn = _nothing, _nothing, _nobody_awaits

    def call(self, runnable: Runnable) -> None:
        """Have something run when its turn comes."""
        self._runnable[runnable] = None
        if not self.awake:
            self.wake()

    @property
    def crowded(self) -> bool:
        """Whether so much was said that it should go out before more is read."""
        return self._crowd > CROWD

    @property
    def busy(self) -> bool:
        """Whether anything is left for `settle`."""
        return bool(self._news or self._runnable or self._presence_hook.untold)

    def settle(self) -> Iterator[None]:
        """Do everything that is to be done; it yields wherever others may have a turn."""
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
        self.broker.collect()  # whatever was said in this round begins its way together


def _as_in_go(limits: Limits) -> Limits:
    """The limits that Go has, where they were not given."""
    if "line_bytes" in limits.model_fields_set:
        return limits
    return limits.model_copy(update={"line_bytes": MACHAT_LINE_BYTES})


def _nothing() -> None:
    pass


def _nobody_awaits(awaitable: Awaitable[object], *, shield: bool = False) -> Pending[object]:
    if inspect.iscoroutine(awaitable):
        awaitable.close()
    error = RuntimeError("an async hook needs a chat that runs: serve it, or use `async with chat`")
    return Pending.resolved(error)
