"""A shared room as one node sees it: its position in the log, its roster, and the steps that are under way.

Redis makes the order. The steps of this node wait for its turn, go to the script, and come back like those of others:
as batches, each of which must begin at the position where the last one ended. After each new connection, and if a batch
does not fit, the room is synchronised: it reads the batches that it missed, compares the roster, and claims the names
of its members again before anything else is delivered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

from ...core.broker import Past, unavailable
from ...core.entries import AnyEntry, Deletion, Said
from ...pending import Pending
from . import batches
from .batches import Change, Header, MemberJoined, MemberLeft, MemberRenamed
from .outgoing import Outgoing, name_refusal
from .roster_view import LocalMember, RosterView
from .scripts import Keys, Section, Value
from .turns import MOST_BYTES, Claiming, Deleting, NodeSettings, Releasing, Renaming, Saying, Step, Turn, roster_value

_MOST_BUFFERED: Final = 1000
"""Batches that are buffered while a room is synchronised. If there are more, it is synchronised again."""
_MISSED_BYTES: Final = 256 * 1024
"""Approximate bytes of missed batches in one answer."""


class State(Enum):
    """Whether a room can take batches."""

    OPENING = 1
    BEHIND = 2
    """Batches may be missing, so the room must be synchronised."""
    LIVE = 3
    CLOSED = 4


@dataclass(frozen=True, slots=True)
class Node(NodeSettings):
    """The objects that all rooms of a node share."""

    schedule: Callable[[SharedRoom], None]
    """Called when a room may have a section for the script."""
    forget: Callable[[SharedRoom], None]
    """Called when a closed room has nothing under way any more."""


class RoomShard(Protocol):
    """The part of a `Shard` that the owner of a room needs."""

    trouble: str

    def schedule(self, room: SharedRoom) -> None:
        """Have the room asked for its next section."""
        ...

    def remove(self, room: SharedRoom) -> None:
        """Forget the room."""
        ...


class SharedRoom:
    """One room. `key` is its name's key, and `keys` are its keys in Redis."""

    __slots__ = (
        "_buffered", "_closing", "_dead_nodes", "_epoch", "_first_page", "_in_flight", "_must_synchronise", "_node",
        "_outgoing", "_roster_version", "_seq", "_ts", "key", "keys", "name", "opened", "roster", "shard", "state",
    )  # fmt: skip

    def __init__(self, key: str, name: str, epoch: str, first_page: tuple[int, int], node: Node, keys: Keys) -> None:
        self.key: str = key
        self.keys: Keys = keys
        self.state: State = State.OPENING
        self.opened: Pending[Past] = Pending()
        """The state of the room when it was opened."""
        self.roster: RosterView = RosterView(key, node.id, node.rooms)
        self.name: str = name
        self.shard: RoomShard | None = None
        self._node = node
        self._epoch, self._first_page = epoch, first_page
        self._seq = self._ts = self._roster_version = 0
        self._outgoing = Outgoing(key, keys, node)
        self._buffered: list[bytes] = []  # batches that cannot be taken so far
        self._in_flight: Turn | Deleting | str | None = None  # what the script was asked, until it answers
        self._dead_nodes: set[str] = set()
        self._closing = self._must_synchronise = False

    @property
    def is_closed(self) -> bool:
        """Whether the room is closed, and has nothing under way."""
        return self.state is State.CLOSED

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._outgoing) or (self._closing and (self._must_synchronise or self.state is State.BEHIND))

    def close(self) -> None:
        """Deliver nothing more; release the remaining names before the room is dropped."""
        self._closing = True
        self._buffered.clear()
        names_may_come = self._outgoing.keep_releases("the server has just closed the room; try again")
        if self._in_flight == "sync" or self.roster.local or names_may_come:
            self.roster.local.clear()
            self._must_synchronise = True  # which releases every name that no member here has
        self._node.schedule(self)

    # To the script

    def add(self, step: Step) -> None:
        """Have a step done."""
        if isinstance(step, Releasing):
            self.roster.leaving[step.left.key] = step.left
        if self._outgoing.add(step):
            self._node.schedule(self)

    def reap(self, dead_nodes: set[str]) -> None:
        """Have the members of dead nodes removed."""
        self._dead_nodes |= dead_nodes & self.roster.remote_nodes()
        if self._dead_nodes:
            self._node.schedule(self)

    def next_section(self, turn_number: int, deadline: int) -> Section | None:
        """Return what to ask the script now, if anything; `answered` or `connection_lost` follows.

        The script refuses a turn after `deadline`, in microseconds by Redis' clock; 0 is none.
        """
        node = self._node
        if self._in_flight is not None or self.state is State.CLOSED:
            return None
        if self._must_synchronise:
            self._must_synchronise, self.state = False, State.BEHIND
        if self.state is not State.LIVE:
            self._in_flight = "sync"
            return self._synchronisation()
        if self._dead_nodes:
            self._in_flight = "reap"
            dead, self._dead_nodes = self._dead_nodes, set()
            return Section("reap", self.keys.common(), [node.publish, node.id, node.remember_seconds, *sorted(dead)])
        deletion = self._outgoing.deletion_to_look_up
        if deletion is not None and self._outgoing.unanswered is None:
            self._in_flight = deletion
            return Section("page", self.keys.common(), [deletion.entry.target + 1, 1, 1], MOST_BYTES)
        turn = self._outgoing.next_turn(turn_number)
        if turn is None:
            return None
        self._in_flight = turn
        return turn.section(node, self._epoch, deadline, has_members=bool(self.roster.local))

    def _synchronisation(self) -> Section:
        node = self._node
        opening = self.state is State.OPENING
        messages, size = self._first_page if opening else (0, _MISSED_BYTES)
        position: list[Value] = [self._epoch, self._seq, self._ts, self._roster_version]
        if opening or self._closing:
            position = ["", 0, 0, 0]
        members: list[Value] = []
        quiet = self.roster.quiet
        for key, member in self.roster.local.items():
            piece = batches.encode_joined(MemberJoined(quiet, key, node.id, member.name))
            members += key, roster_value(node.id, member.session, member.name), piece
        new_epoch = "" if self._closing else self._epoch
        arguments = [node.publish, node.id, new_epoch, self.name, *position, messages, size, *members]
        return Section("sync", self.keys.common(), arguments, size)

    # From the script

    def connection_lost(self) -> None:
        """Handle a broken connection: the last section may or may not have been done."""
        self._in_flight = None
        self._buffered.clear()
        if self.state is State.LIVE:
            self.state = State.BEHIND
        self._node.schedule(self)

    suspect_dead = connection_lost  # the same if other nodes may have taken this node for dead

    def answered(self, answer: Any) -> str:
        """Handle the script's answer; return a reason if the script could not do what it was asked."""
        in_flight, self._in_flight = self._in_flight, None
        status = answer[0].decode()
        if self.state is State.CLOSED or in_flight is None:
            return ""
        self._node.schedule(self)
        if self._closing and status != "error":
            self._outgoing.turns.clear()
            if in_flight == "sync" and not self._must_synchronise:  # this has released all names
                self._outgoing.waiting.clear()
                self.state = State.LIVE
            if not self.busy:
                self._node.forget(self)
            return ""
        if status == "error":
            return str(answer[1].decode(errors="replace"))
        if in_flight == "sync":
            self._synchronised(status, answer)
        elif isinstance(in_flight, Deleting):
            in_flight.found(answer[1][-1] if answer[1] else None)
        elif isinstance(in_flight, Turn):
            if status in ("ok", "again"):
                in_flight.answered(int(answer[1]), int(answer[2]), answer[3].decode())
                self._take_buffered()
            else:  # the log is another one, this node was taken for dead, or the turn came too late
                self.connection_lost()
                return "the last request reached Redis too late" if status == "late" else ""
        return ""

    def received(self, batch: bytes) -> None:
        """Handle a batch that was published."""
        if self._closing or self.is_closed:
            return
        self._buffered.append(batch)
        if len(self._buffered) > _MOST_BUFFERED:
            del self._buffered[0]
        self._take_buffered()

    def _take_buffered(self) -> None:
        while self.state is State.LIVE and self._buffered and not self._awaits_replicas(self._buffered[0]):
            self._take(self._buffered.pop(0))
        self._settle()

    def _awaits_replicas(self, batch: bytes) -> bool:
        """Whether a batch of this node must wait for the answer, which comes when enough replicas have it."""
        if not self._node.replicas:
            return False
        turn = self._outgoing.turn_of(batches.parse_header(batch)[0])
        return turn is not None and turn.refusals is None

    def _take(self, batch: bytes) -> None:
        header, at = batches.parse_header(batch)
        if header.epoch == self._epoch and header.seq <= self._seq and header.roster_version <= self._roster_version:
            return  # the synchronisation had it already
        begin = header.epoch, header.seq_before, header.ts_before, header.roster_version_before
        if begin != (self._epoch, self._seq, self._ts, self._roster_version):
            self.state = State.BEHIND
            self._buffered.insert(0, batch)
            self._node.schedule(self)
            return
        self._apply(header, batch, at, with_roster=True)
        self._roster_version = header.roster_version
        self._node.rooms.trimmed(self.key, header.first)

    def _apply(self, header: Header, batch: bytes, at: int, *, with_roster: bool) -> None:
        """Deliver what a batch says, without joins and leaves if the roster has them already."""
        rooms, ours = self._node.rooms, self._outgoing.turn_of(header) is not None
        seq, entries = header.seq_before, list[AnyEntry]()
        for change in self._changes(header, batch, at):
            if isinstance(change, Said | Deletion):
                entries.append(change)
                seq = change.seq + change.count - 1
            elif with_roster:
                if entries:
                    rooms.deliver(self.key, entries, ours=ours)
                    entries = []
                self._change_roster(change, seq)
        if entries:
            rooms.deliver(self.key, entries, ours=ours)
        if header.seq > header.seq_before:
            self._seq, self._ts = header.seq, header.first_ts + header.seq - header.seq_before - 1

    def _changes(self, header: Header, batch: bytes, at: int) -> Iterator[Step | Change]:
        """Return what was done, by this node or another; messages and deletions have their `seq` and `ts`."""
        turn = self._outgoing.turn_of(header)
        if turn is None:
            return batches.changes(batch, header, at)
        turn.came_back, turn.dropped = True, header.dropped
        return turn.done_steps(header)

    def _change_roster(self, change: Step | Change, seq: int) -> None:
        """Handle a join, a leave or a new name, of this node or another."""
        if isinstance(change, Claiming):
            joined = MemberJoined(change.quiet, change.key, self._node.id, change.name)
            self.roster.joined(joined, seq, None if change.given_up else LocalMember(change.name, change.session))
            self._release_unwanted(joined, change.session)
            change.settle(None)
        elif isinstance(change, Renaming):
            if not self.roster.renamed_here(change, seq):
                self.add(Releasing(change.to_key, change.name, change.session, "bye", change.entry.quiet))
            change.settle(None)
        elif isinstance(change, MemberJoined):
            self.roster.joined(change, seq)
            self._release_unwanted(change, "")
        elif isinstance(change, MemberRenamed):
            self.roster.renamed(change, seq)
        elif isinstance(change, Releasing | MemberLeft):
            self._left(change.left if isinstance(change, Releasing) else change, seq)

    def _release_unwanted(self, joined: MemberJoined, session: str) -> None:
        """Release a name that this node got too late, after its claim was refused."""
        if joined.node == self._node.id and joined.key not in self.roster.local:
            self.add(Releasing(joined.key, joined.name, session, "bye", joined.quiet))

    def _left(self, change: MemberLeft, seq: int) -> None:
        if not self.roster.left(change, seq):  # the synchronisation claims the name again
            self.state = State.BEHIND
            self._node.schedule(self)

    # Synchronising

    def _synchronised(self, status: str, answer: Any) -> None:
        if status != "ok":
            self.disconnect(names_are_known=status != "unknown_epoch")
            return
        epoch, name, seq, ts, first, roster_version, more, roster, lost, missed = answer[1:]
        self.roster.lost(lost)  # before anything is delivered
        self._epoch = epoch.decode()
        opening = self.state is State.OPENING
        if opening:
            self._open(name.decode(), int(seq), int(ts), int(first), missed)
        else:
            for batch in missed:
                header, at = batches.parse_header(batch)
                if header.seq_before == self._seq:
                    self._apply(header, batch, at, with_roster=False)
            if more == b"1":
                return  # the next section asks for the rest
        if self.is_closed:  # by the callbacks of what was delivered
            return
        self._seq, self._ts, self._roster_version = int(seq), int(ts), int(roster_version)
        if roster != b"same":
            self.roster.compare(roster, self._seq, opening=opening)
        if any(turn.is_missing for turn in self._outgoing.turns):  # Redis had them, and has lost them
            self.disconnect()
            return
        for turn in self._outgoing.turns:
            turn.seq = turn.roster_version = 0  # everything up to the end of answered turns was received
        self.state = State.LIVE
        current = epoch + b" "
        self._buffered = [batch for batch in self._buffered if batch.startswith(current)]
        self._take_buffered()

    def _open(self, name: str, seq: int, ts: int, first: int, found: Sequence[bytes]) -> None:
        if not self.opened.done:
            self.name = name
            tail = batches.newest_entries(found, seq + 1, *self._first_page)
            self.opened.resolve(Past(self._epoch, name, seq, ts, first, tail))

    # Results of steps

    def _settle(self) -> None:
        """Give the steps of settled turns their results, in order."""
        while self.state is State.LIVE:
            turn = self._outgoing.take_settled(self._seq, self._roster_version)
            if turn is None or turn.refusals is None:
                return
            for index, step in enumerate(turn.steps):
                self._settle_step(step, turn.refusals.get(index))

    def _settle_step(self, step: Step, why: Sequence[str] | None) -> None:
        rooms = self._node.rooms
        if isinstance(step, Claiming | Renaming):
            step.settle(name_refusal(step, why, self.name, rooms.limits.room_members))
        elif why is None:
            return
        elif isinstance(step, Saying):
            rooms.already_sent(self.key, step.said[0], int(why[1]), int(why[2]))
        elif isinstance(step, Deleting):  # the batch with the target has changed: look it up again
            self._outgoing.waiting.insert(0, Deleting(step.entry))
            self._node.schedule(self)
        elif step.left.key in self.roster.leaving:  # released already, which was not shown here
            self._left(step.left, self._seq)

    def give_up(self, why: str, *, sent: bool = True) -> None:
        """Refuse what waits and, unless `sent` is false, what was sent and not answered."""
        if self._closing:
            return
        turn = self._outgoing.give_up(why, sent=sent)
        if turn is not None and self._in_flight is turn:
            self._in_flight = None
        if not self.opened.done:
            self._node.forget(self)
            self.opened.fail(unavailable(why))

    def disconnect(self, *, names_are_known: bool = True) -> None:
        """Close the room for its members here, because messages are missing or Redis does not know the room."""
        why = "the server missed messages of this room; try again"
        if self.state is State.OPENING:
            self.give_up(why)
            return
        self._outgoing.drop(why)
        self.roster.local.clear()
        self.state = State.CLOSED
        if names_are_known:  # they must be released
            self._closing, self.state = True, State.BEHIND
            self._node.schedule(self)
        self._node.rooms.disconnect_room(self.key)
