"""`Room`: a log, the members that read it, and their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..clock import Clock
from ..errors import RefusalCode, Refused
from ..events import Joined, Left, Renamed
from ..limits import TICK, Limits
from ..pending import Pending
from .broker import Broker, Past, Presence, unavailable
from .entries import REFUSED, AnyEntry, AnyKept, Arrived, Deletion, Departed, KeptEntry, NameChanged, Said
from .flow_control import FlowControl, Sender, SlowPenalties
from .member import Member
from .names import Naming
from .readers import Readers
from .room_log import RoomLog
from .roster import Roster
from .timers import Timers


class Keeper(Protocol):
    """The chat that a room belongs to, as the room needs it: its `Hub`."""

    limits: Limits
    clock: Clock
    broker: Broker
    timers: Timers
    draining: bool
    naming: Naming
    slow_penalties: SlowPenalties

    def now(self) -> float:
        """Return the time in seconds, without those in which the server stood still."""
        ...

    def changed(self, room: Room, entries: int) -> None:
        """Have a fan-out pass over the room, whose log has so many new entries."""
        ...

    def told(self, room: Room, event: Joined | Left | Renamed) -> None:
        """Tell the program's hook that a member has joined, has left or has another name."""
        ...

    def needed(self, room: Room) -> None:
        """Keep a room open that has no members, until `emptied` is called."""
        ...

    def emptied(self, room: Room) -> None:
        """Close a room in due time: it has no members, and nothing of it is on its way through the broker."""
        ...

    def attendance_changed(self, room: Room) -> None:
        """Note that the first member here came into a room, or that the last one left it."""
        ...

    def grew(self, by: int) -> None:
        """Count so many bytes more (or less) in the logs of all rooms."""
        ...

    def refused(self, room: Room, said: Said, author: Member | None, reason: Refused) -> None:
        """Tell the author of messages, if it has a connection, that the broker refused them."""
        ...

    def reserved_for(self, client: Member) -> float | None:
        """Return the seconds that the name of a member without a connection stays reserved; None if it has one."""
        ...


class Room(RoomLog):
    """A room of the chat."""

    __slots__ = (
        "_flow_control", "_in_hand", "_keeper", "_members", "_most_in_hand", "behind", "current", "fresh", "key",
        "listeners", "name", "naming", "presence", "roster", "trouble",
    )  # fmt: skip

    seq: int  # declared again: type checkers would infer another type from `deliver`
    ts: int

    def __init__(self, past: Past, keeper: Keeper) -> None:
        super().__init__(past, keeper.limits)
        self.name: str = past.name
        self.naming: Naming = keeper.naming
        self.key: str = self.naming.room_key(past.name)
        self._keeper = keeper
        self.presence: Presence | None = keeper.broker.presence
        """The broker's names on all servers, if several share the room; otherwise None."""
        self.trouble: str = ""
        """Why messages cannot be kept now; empty if they can."""
        self.roster: Roster = Roster(self.naming.key)
        """The names of its members."""
        self._members = self.roster.here
        self._flow_control = FlowControl(self.limits.room_wait, self.log)
        self._in_hand = 0  # bytes that were submitted and are neither delivered nor refused
        self._most_in_hand = self.limits.in_hand_bytes
        self.fresh: list[AnyEntry] = []
        """The entries that are still to be taken by a fan-out pass."""
        self.current: Readers = Readers()
        """The members that a fan-out pass serves."""
        self.behind: dict[int, Member] = {}
        """The members that read from the log at their own pace."""
        self.listeners: dict[int, Member] = {}
        """The program's own members that read: each delivery wakes them, without a fan-out pass."""

    def __repr__(self) -> str:
        return f"<Room {self.name!r}, {len(self)} members>"

    def __len__(self) -> int:
        return len(self.roster)

    def __bool__(self) -> bool:
        return True  # also without members: ``if hub.room(name)`` asks whether there is such a room

    @property
    def members(self) -> list[Member]:
        """The members that are in the room through this server, sorted by name."""
        return [self._members[key] for key in sorted(self._members)]

    def first_members(self, most: int, after: str | None = None) -> list[str]:
        """Return the first `most` names behind `after`, sorted, of all members."""
        return self.roster.first(most, after)

    def member(self, name: str) -> Member | None:
        """Return the member with this name, in any spelling, if it is in the room through this server."""
        return self._members.get(self.naming.key(name))

    def micros(self) -> int:
        """Return the time in microseconds since 1970."""
        return self._keeper.clock.micros()

    # Its members

    def check_free(self, key: str) -> None:
        """Raise `Refused` (``name_taken``, ``room_full``, ``unavailable``) unless a member of this name can enter."""
        if (holder := self._members.get(key)) is not None:
            raise self._taken_by(holder)
        if self.presence is not None and not self.roster.is_granted(key):
            raise unavailable("the name could not be claimed; try again")
        if len(self.roster) >= self.limits.room_members:
            raise Refused(
                RefusalCode.ROOM_FULL, f"{self.name!r} is full; members allowed: {self.limits.room_members:,}"
            )

    def _taken_by(self, holder: Member) -> Refused:
        after = self._keeper.reserved_for(holder)
        return Refused(RefusalCode.NAME_TAKEN, f"{holder.name!r} is already in {self.name!r}", after)

    def join(self, client: Member) -> None:
        """Let a member in. Raises `Refused` as `check_free` does."""
        self.check_free(client.key)
        self.roster.add(client)
        if len(self._members) == 1:
            self._keeper.attendance_changed(self)
        client.enter(self.log)
        self.behind[client.id] = client
        self._keeper.told(self, Joined(self.seq, client.name))
        if self.presence is None:
            arrived = Arrived(client.id, client.name)
            self._announce(arrived, len(self.roster))
            if self.log.newest is arrived:
                client.position = self.log.head  # members are not shown their own arrival

    def leave(self, client: Member, reason: str) -> None:
        """Remove a member: its name is free at once, and the others are told in the order of the log."""
        before = len(self)
        self._remove(client)
        self._keeper.told(self, Left(self.seq, client.name, reason))
        if self.presence is not None:
            self.presence.release(self.key, client.key, reason, quiet=before > self.limits.announce)
        elif before > 1:
            self._announce(Departed(client.id, client.name, reason), before)
        if not self._members:
            self._keeper.emptied(self)

    def lose(self, client: Member) -> None:
        """Remove a member whose name the broker has given to another one; the others are not told."""
        self._remove(client)
        if not self._members:
            self._keeper.emptied(self)

    def _remove(self, client: Member) -> None:
        self.roster.remove(client)
        if not self._members:
            self._keeper.attendance_changed(self)
        self.current.discard(client)
        self.behind.pop(client.id, None)
        self.listeners.pop(client.id, None)
        self._relieve(client)
        client.part()

    def rename(self, client: Member, name: str, ref: str | int | None, session_key: str) -> Pending[None]:
        """Give a member another name: at once, or later if several servers share the room. Fails with `Refused`."""
        key = self.naming.key(name)
        if (holder := self._members.get(key)) is not None and holder is not client:
            return Pending.failed(self._taken_by(holder))
        renamed = NameChanged(client.id, client.name, name, quiet=len(self) > self.limits.announce, ref=ref)
        if self.presence is not None:
            return self.presence.rename(self.key, client.key, renamed, session_key)
        self._take_name(client, name)
        client.awaits(renamed)
        self.submit(renamed)
        return Pending.resolved(None)

    def _take_name(self, client: Member, name: str) -> None:
        """Give a member another name, and tell the program's hook."""
        old = client.name
        self.roster.rename(client, name)
        self._keeper.told(self, Renamed(self.seq, old, name))

    def _announce(self, entry: AnyEntry, members: int) -> None:
        """Announce a join or leave, unless the room has too many members or the server is shutting down."""
        if members <= self.limits.announce and not self._keeper.draining:
            self.submit(entry)

    def renamed(self, key: str, name: str) -> None:
        """Note that the broker has given another name to a member, here or elsewhere."""
        if (client := self._members.get(key)) is not None:
            self._take_name(client, name)
        elif self.roster.is_elsewhere(key):
            self.roster.elsewhere(key, None)
            self.roster.elsewhere(self.naming.key(name), name)

    # Its messages

    def submit(self, entry: AnyEntry) -> None:
        """Give an entry to the broker, which calls `deliver`, `refuse` or `already_sent` with it."""
        if not self._members:
            self._keeper.needed(self)
        self._in_hand += entry.weight
        self._keeper.broker.submit(self.key, (entry,))

    def deliver(self, entries: Sequence[AnyEntry], ours: bool = True) -> None:
        """Append entries to the log, in their final order; `ours` if they were submitted here."""
        log = self.log
        held = log.held
        for entry in entries:
            log.append(entry)
            if ours:
                self._in_hand -= entry.weight
            if isinstance(entry, KeptEntry):
                more = entry.count - 1
                self.seq, self.ts = entry.seq + more, entry.ts + more
                if isinstance(entry, Deletion):
                    self.erase(entry.target)
                if entry.settled is not None:
                    entry.settled.resolve(None)
        self._keeper.grew(log.held - held)
        readers = self.current.by_style
        if readers:
            self.fresh += entries
        if readers or self.behind:
            self._keeper.changed(self, len(entries))
        else:
            self._resume()
        if self.listeners:
            for client in self.listeners.values():
                client.outlet.wake()
        if not self._members and not self._in_hand:
            self._keeper.emptied(self)

    def refuse(self, entries: Sequence[AnyKept], reason: Refused) -> None:
        """Tell the authors of these entries that the broker refused them."""
        for entry in entries:
            self._in_hand -= entry.weight
            entry.seq = REFUSED
            if isinstance(entry, Said):
                self._keeper.refused(self, entry, self._author(entry), reason)
            if entry.settled is not None:  # last: what waits for it may be sent now, under ids that must be free
                entry.settled.fail(reason)
        self._less_in_hand()

    def already_sent(self, said: Said, seq: int, ts: int) -> None:
        """Tell the author of a message that the broker has it already, and its place."""
        self._in_hand -= said.weight
        said.seq, said.ts = seq, ts
        if (author := self._author(said)) is not None and author.peer is not None:
            author.peer.already_sent(said)
        if said.settled is not None:
            said.settled.resolve(None)
        self._less_in_hand()

    def _author(self, said: Said) -> Member | None:
        """Return the author of messages, if it has a connection."""
        return self.current.get(said.origin) or self.behind.get(said.origin)

    def _less_in_hand(self) -> None:
        """Let senders go on, or close an empty room, because less is on its way through the broker."""
        self._resume()
        if not self._members and not self._in_hand:
            self._keeper.emptied(self)

    @property
    def settled(self) -> bool:
        """Whether everything that was submitted is delivered or refused."""
        return not self._in_hand

    # Its readers

    def stalled(self, client: Member) -> None:
        """Let a member read at its own pace, because its socket or its lane is not empty."""
        if self.current.discard(client):
            self.behind[client.id] = client

    def went_away(self, client: Member) -> None:
        """Do not wait for a member whose connection broke, and send it nothing."""
        self.current.discard(client)
        self.behind.pop(client.id, None)
        self._relieve(client)

    def came_back(self, client: Member) -> None:
        """Let a member read that has another connection."""
        self.current.discard(client)
        self.behind[client.id] = client

    def caught_up(self, client: Member) -> None:
        """Have fan-out passes serve a member that has read everything, unless it is one of the `listeners`."""
        if client.id in self.listeners:
            self._relieve(client)
        elif self.behind.pop(client.id, None) is not None:
            self.current.add(client)
            self._relieve(client)

    def listen(self, client: Member, reads: bool) -> None:
        """Wake one of the program's own members for each delivery if it reads; otherwise it is shown nothing."""
        del self.behind[client.id]
        if reads:
            self.listeners[client.id] = client
            self.behind[client.id] = client

    @property
    def congested(self) -> bool:
        """Whether senders must wait: for a slow member, for the broker, or for the next fan-out."""
        log, flow = self.log, self._flow_control
        if flow.patient or self._in_hand > self._most_in_hand:
            return True
        return (log.written >= flow.most_written or log.head >= flow.most_entries) and self._has_passes

    @property
    def _has_passes(self) -> bool:
        """Whether the room has members that a fan-out serves, now or when they have caught up."""
        return len(self.current) + len(self.behind) > len(self.listeners)

    def _resume(self) -> None:
        """Let the senders that wait go on, unless the room is congested."""
        if self._flow_control.senders and not self.congested:
            self._flow_control.resume()

    def wait(self, sender: Sender) -> None:
        """Call `wake` of a sender once the room may no longer be congested."""
        self._flow_control.wait(sender)
        if self._has_passes and self._flow_control.is_share_used_up(self.log):  # only a pass gives more
            self._keeper.changed(self, 0)

    def unattended(self) -> None:
        """Wait for no member, because nothing checks deadlines any more."""
        self._flow_control.stop_waiting(self._keeper.now())
        self._resume()

    def look(self, now: float) -> None:
        """Look for members that lag, disconnect those whose time is up, and let the senders go on if they may."""
        flow_control, penalties = self._flow_control, self._keeper.slow_penalties

        def is_waited_for(client: Member) -> bool:
            return not penalties.has(client, now)

        late = flow_control.look(self.behind.values(), self.log, self._keeper.now(), self.limits.grace, is_waited_for)
        for client in late:
            self.evict(client)
        self._resume()
        if flow_control.lagging:
            self._keeper.timers.set(self, now + TICK, self.look)

    def after_pass(self) -> None:
        """Note that a pass has ended: `look`, if enough was written since the last look, and let the senders go on."""
        self._flow_control.allow_share(self.log)
        if self.behind and self._flow_control.is_due(self.log):
            self.look(self._keeper.clock.monotonic())
        elif self._flow_control.senders:
            self._resume()

    def evict(self, client: Member) -> None:
        """Disconnect a member for being slow."""
        self._keeper.slow_penalties.add(client, self._keeper.clock.monotonic())
        client.disconnect("slow_consumer")

    def _relieve(self, client: Member) -> None:
        if self._flow_control.lagging:
            self._flow_control.relieve(client, self._keeper.now())
        self._resume()
