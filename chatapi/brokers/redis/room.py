"""A room that several nodes share, as one of them sees it: how far it has read, who is there, what is on its way.

Redis gives the order. What this node submits waits for its turn, goes to the script, and comes back with everybody
else's as batches, each of which must begin where the one before it ended. After every connection, and whenever one
does not, the room is synchronised: what was missed is read from the log, the roster is compared, and the names of
members here are claimed again before anything else is delivered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from ...core.broker import Past, unavailable
from ...core.entries import AnyEntry, Deletion, Said
from ...errors import RefusalCode, Refused
from ...pending import Pending
from . import batches
from .batches import Called, Came, Head, Went
from .roster_view import Attendance, Own
from .turns import (
    MOST_BYTES,
    MOST_STEPS,
    Claiming,
    Deleting,
    Keys,
    Node,
    Releasing,
    Renaming,
    Saying,
    Section,
    Step,
    Turn,
    Value,
    holder,
    seconds_to_remember,
    settle,
)

if TYPE_CHECKING:
    from .shard import Shard

_EARLY: Final = 1000
"""Batches that are held back while a room is synchronised; if there are more, it is done once more."""
_MISSED: Final = 256 * 1024
"""Bytes of missed messages that are asked for at once, about."""


class State(Enum):
    """How a room stands."""

    OPENING = 1
    BEHIND = 2
    """Something may be missing: it is to be synchronised."""
    LIVE = 3
    CLOSED = 4


class SharedRoom:
    """One room; `key` is its name's key, and `keys` are those in Redis."""

    __slots__ = (
        "_asked", "_closing", "_early", "_epoch", "_look_again", "_node", "_pv", "_seq", "_to_reap", "_ts", "_turns",
        "_waiting", "_wanted", "key", "keys", "name", "opened", "shard", "state", "who",
    )  # fmt: skip

    def __init__(self, key: str, name: str, epoch: str, wanted: tuple[int, int], node: Node, keys: Keys) -> None:
        self.key: str = key
        self.keys: Keys = keys
        self.state: State = State.OPENING
        self.opened: Pending[Past] = Pending()
        """Whom to tell once it is open."""
        self.who: Attendance = Attendance(key, node.id, node.rooms)
        self.name: str = name
        self.shard: Shard | None = None
        """Where its keys are."""
        self._node = node
        self._epoch, self._wanted = epoch, wanted
        self._seq = self._ts = self._pv = 0
        self._waiting: list[Step] = []
        self._turns: list[Turn] = []  # those that are not done: at most the last is not answered
        self._early: list[bytes] = []  # lists, since an empty deque has 700 bytes, and a node many quiet rooms
        self._asked: Turn | Deleting | str | None = None  # what the script is asked, until it answers
        self._to_reap: set[str] = set()
        self._closing = self._look_again = False

    def close(self) -> None:
        """Nobody looks at it any more; names that are on their way back still are."""
        self._closing = True
        self._early.clear()
        asked = [step for turn in self._turns for step in turn.steps]
        for step in (*asked, *self._waiting):
            if isinstance(step, Claiming | Renaming):
                step.give_up(unavailable("the room was closed meanwhile; try again"))
        if self._asked == "sync" or self.who.ours or any(isinstance(step, Claiming | Renaming) for step in asked):
            self.who.ours.clear()
            self._look_again = True  # which gives back whatever nobody has here
        self._waiting = [step for step in self._waiting if isinstance(step, Releasing)]
        self._turns = [turn for turn in self._turns if turn.results is None]  # nobody hears of the others any more
        self._node.mark(self)

    @property
    def busy(self) -> bool:
        """Whether anything is on its way."""
        leaving = self._closing and (self._look_again or self.state is State.BEHIND)
        return bool(self._waiting or self._turns or leaving)

    # What is on its way

    def put(self, step: Step) -> None:
        """Something is to be said or done."""
        if isinstance(step, Saying) and self._waiting and step.said[0].ids is None:
            last = self._waiting[-1]
            if isinstance(last, Saying) and last.take(step):
                return
        if isinstance(step, Releasing):
            self.who.leaving[step.went.key] = step.went
        self._waiting.append(step)
        self._node.mark(self)

    def reap(self, nodes: set[str]) -> None:
        """These nodes are gone, and who came through them."""
        self._to_reap |= nodes & self.who.nodes()
        if self._to_reap:
            self._node.mark(self)

    def next(self, new_number: int, until: int) -> Section | None:
        """What to ask the script now, if anything; it is to be `answered`, or `lost`.

        `until` is when it is not to be done any more, in microseconds by the clock of Redis; 0 for never.
        """
        node = self._node
        if self._asked is not None or self.state is State.CLOSED:
            return None
        if self._look_again:
            self._look_again, self.state = False, State.BEHIND
        if self.state is not State.LIVE:
            self._asked = "sync"
            return self._synchronise()
        if self._to_reap:
            self._asked = "reap"
            gone, self._to_reap = self._to_reap, set()
            seconds = seconds_to_remember(node.rooms.limits)
            return Section("reap", self.keys.fixed(), [node.publish, node.id, seconds, *sorted(gone)])
        first = self._waiting[0] if self._waiting else None
        if self._turns and self._turns[-1].results is None:
            turn = self._turns[-1]
        elif isinstance(first, Deleting) and not first.is_found:
            self._asked = first
            return Section("page", self.keys.fixed(), [first.entry.target + 1, 1, 1], MOST_BYTES)
        elif self._waiting:
            turn = Turn(new_number, self._cut(), self.keys)
            self._turns.append(turn)
        else:
            return None
        self._asked = turn
        return turn.section(node, self._epoch, until, members_here=bool(self.who.ours))

    def _cut(self) -> list[Step]:
        count = size = 0
        for step in self._waiting:
            if size >= MOST_BYTES or count >= MOST_STEPS or (count and isinstance(step, Deleting)):
                break  # what a deletion is about may be among these
            size += step.size
            count += 1
        steps = self._waiting[:count]
        del self._waiting[:count]
        return steps

    def _synchronise(self) -> Section:
        node = self._node
        opening = self.state is State.OPENING
        messages, size = self._wanted if opening else (0, _MISSED)
        known: list[Value] = [self._epoch, self._seq, self._ts, self._pv]
        if opening or self._closing:
            known = ["", 0, 0, 0]
        members: list[Value] = []
        quiet = self.who.quiet
        for key, own in self.who.ours.items():
            piece = batches.came(Came(quiet, key, node.id, own.name))
            members += key, holder(node.id, own.session, own.name), piece
        arguments = [
            node.publish,
            node.id,
            "" if self._closing else self._epoch,
            self.name,
            *known,
            messages,
            size,
            *members,
        ]
        return Section("sync", self.keys.fixed(), arguments, size)

    # What comes back

    def lost(self) -> None:
        """The connection broke: whatever was asked may or may not have been done."""
        self._asked = None
        self._early.clear()
        if self.state is State.LIVE:
            self.state = State.BEHIND
        self._node.mark(self)

    suspect = lost  # the same where it may be that this node was taken for dead

    def answered(self, answer: Any) -> str:
        """What the script says; returns a reason where it could not do it."""
        asked, self._asked = self._asked, None
        status = answer[0].decode()
        if self.state is State.CLOSED or asked is None:
            return ""
        self._node.mark(self)
        if self._closing and status != "error":
            self._turns.clear()
            if asked == "sync" and not self._look_again:  # which has given back all names
                self._waiting.clear()
                self.state = State.LIVE
            if not self.busy:
                self._node.forget(self)
            return ""
        if status == "error":
            return str(answer[1].decode(errors="replace"))
        if asked == "sync":
            self._synchronised(status, answer)
        elif isinstance(asked, Deleting):
            asked.found(answer[1][-1] if answer[1] else None)
        elif isinstance(asked, Turn):
            if status in ("ok", "again"):
                asked.answered(int(answer[1]), int(answer[2]), answer[3].decode())
                self._take_early()
            elif status == "late":
                self.lost()
                return "it took the last turn for one that came too late"
            else:  # the log is another one, or this node was taken for dead
                self.lost()
        return ""

    def published(self, batch: bytes) -> None:
        """A batch of anybody's."""
        if self._closing or self.is_closed:
            return
        self._early.append(batch)
        if len(self._early) > _EARLY:
            del self._early[0]
        self._take_early()

    def _take_early(self) -> None:
        while self.state is State.LIVE and self._early and not self._is_held(self._early[0]):
            self._take(self._early.pop(0))
        self._settle()

    def _take(self, batch: bytes) -> None:
        where, at = batches.head(batch)
        if where.epoch == self._epoch and where.seq <= self._seq and where.pv <= self._pv:
            return  # from before this node has looked
        last = where.epoch, where.last_seq, where.last_ts, where.last_pv
        if last != (self._epoch, self._seq, self._ts, self._pv):
            self.state = State.BEHIND
            self._early.insert(0, batch)
            self._node.mark(self)
            return
        self._apply(where, batch, at)
        self._pv = where.pv

    def _apply(self, where: Head, batch: bytes, at: int) -> None:
        """Deliver what a batch has."""
        rooms, turn = self._node.rooms, self._turn_of(where)
        seq, entries = where.last_seq, list[AnyEntry]()
        for step in self._steps(where, batch, at):
            if isinstance(step, Said | Deletion):
                entries.append(step)
                seq = step.seq + step.count - 1
                continue
            if entries:
                rooms.deliver(self.key, entries, ours=turn is not None)
                entries = []
            self._change(step, seq)
        if entries:
            rooms.deliver(self.key, entries, ours=turn is not None)
        self._stand_behind(where)
        rooms.trimmed(self.key, where.first)

    def _steps(self, where: Head, batch: bytes, at: int) -> Iterator[Step | batches.Step]:
        """What was done, by this node or another, messages and deletions with their places."""
        turn = self._turn_of(where)
        if turn is None:
            return batches.steps(batch, where, at)
        turn.told, turn.dropped = True, where.dropped
        return turn.placed(where)

    def _stand_behind(self, where: Head) -> None:
        if where.seq > where.last_seq:
            self._seq, self._ts = where.seq, where.first_ts + where.seq - where.last_seq - 1

    def _change(self, step: Step | batches.Step, seq: int) -> None:
        """Somebody came, left, or is called something else, here or elsewhere."""
        if isinstance(step, Claiming):
            came = Came(step.quiet, step.key, self._node.id, step.name)
            self.who.came(came, seq, None if step.given_up else Own(step.name, step.session))
            self._give_back(came, step.session)
            settle(step, None)
        elif isinstance(step, Renaming):
            self._renamed(step, seq)
        elif isinstance(step, Came):
            self.who.came(step, seq)
            self._give_back(step, "")
        elif isinstance(step, Called):
            self.who.called(step, seq)
        elif isinstance(step, Releasing | Went):
            self._left(step.went if isinstance(step, Releasing) else step, seq)

    def _give_back(self, came: Came, session: str) -> None:
        """Give a name back that was given to this node too late, when whoever asked for it had been refused."""
        if came.node == self._node.id and came.key not in self.who.ours:
            self.put(Releasing(came.key, came.name, session, "bye", came.quiet))

    def _left(self, went: Went, seq: int) -> None:
        if not self.who.left(went, seq):  # the name is claimed again
            self.state = State.BEHIND
            self._node.mark(self)

    def _renamed(self, step: Renaming, seq: int) -> None:
        if not self.who.renamed(step, seq):
            self.put(Releasing(step.to_key, step.entry.to, step.session, "bye", step.entry.quiet))
        settle(step, None)

    # Standing where the log stands

    def _synchronised(self, status: str, answer: Any) -> None:
        if status != "ok":
            self.cut(names_are_known=status != "unknown_epoch")
            return
        epoch, name, seq, ts, first, pv, more, who, lost, found = answer[1:]
        self.who.lose(lost)  # before anything is delivered
        self._epoch = epoch.decode()
        opening = self.state is State.OPENING
        if opening:
            self._open(name.decode(), int(seq), int(ts), int(first), found)
        else:
            for batch in found:
                where, at = batches.head(batch)
                if where.last_seq == self._seq:
                    self._catch_up(where, batch, at)
            if more == b"1":
                return  # and the rest
        if self.is_closed:  # by whom that was told
            return
        self._seq, self._ts, self._pv = int(seq), int(ts), int(pv)
        if who != b"same":
            self.who.compare(who, self._seq, opening=opening)
        if any(turn.is_missing for turn in self._turns):  # Redis had it, and has lost it
            self.cut()
            return
        for turn in self._turns:
            turn.seq = turn.pv = 0  # whatever came of those that are answered is known here by now
        self.state = State.LIVE
        mine = epoch + b" "  # others are from before this answer
        self._early = [batch for batch in self._early if batch.startswith(mine)]
        self._take_early()

    @property
    def is_closed(self) -> bool:
        """Whether nobody looks at it any more."""
        return self.state is State.CLOSED

    def _open(self, name: str, seq: int, ts: int, first: int, found: Sequence[bytes]) -> None:
        if not self.opened.done:
            tail = batches.newest(found, seq + 1, *self._wanted)
            self.name = name
            self.opened.resolve(Past(self._epoch, name, seq, ts, first, tail))

    def _catch_up(self, where: Head, batch: bytes, at: int) -> None:
        """Deliver the messages of a batch that was missed; what it says of who came and left is in the roster."""
        ours = self._turn_of(where) is not None
        entries = [step for step in self._steps(where, batch, at) if isinstance(step, Said | Deletion)]
        self._stand_behind(where)
        if entries:
            self._node.rooms.deliver(self.key, entries, ours)

    def _turn_of(self, where: Head) -> Turn | None:
        """The turn of this node that came back as a batch; None for anybody else's, and what was given up."""
        if where.node != self._node.id:
            return None
        return next((turn for turn in self._turns if turn.number == where.turn), None)

    # What came of it

    def _is_held(self, batch: bytes) -> bool:
        """Whether a batch of this node's own waits until it is on enough replicas."""
        if not self._node.replicas:
            return False
        turn = self._turn_of(batches.head(batch)[0])
        return turn is not None and turn.results is None

    def _settle(self) -> None:
        """Tell what came of the turns that are done, in order."""
        while self.state is State.LIVE and self._turns:
            turn = self._turns[0]
            if turn.results is None or turn.seq > self._seq or turn.pv > self._pv:
                return
            del self._turns[0]
            for index, step in enumerate(turn.steps):
                self._settle_step(step, turn.results.get(index))

    def _settle_step(self, step: Step, why: Sequence[str] | None) -> None:
        rooms = self._node.rooms
        if isinstance(step, Saying):
            if why is not None:
                rooms.known(self.key, step.said[0], int(why[1]), int(why[2]))
        elif isinstance(step, Deleting):
            if why is not None:
                self._waiting.insert(0, Deleting(step.entry))
                self._node.mark(self)
        elif isinstance(step, Releasing):
            if why is not None and step.went.key in self.who.leaving:  # gone already: then it was not told here
                self._left(step.went, self._seq)
        elif isinstance(step, Claiming | Renaming):
            settle(step, self._why_not(step.name if isinstance(step, Claiming) else step.entry.to, why))

    def _why_not(self, name: str, why: Sequence[str] | None) -> Refused:
        """Why somebody does not get a name; not known where it was theirs for a moment, while nobody looked."""
        if why is not None and why[0] == "taken":
            return Refused(RefusalCode.NAME_TAKEN, f"{name!r} is already in {self.name!r}")
        if why is not None and why[0] == "full":
            most = self._node.rooms.limits.room_members
            return Refused(RefusalCode.ROOM_FULL, f"{self.name!r} is full; members allowed: {most:,}")
        return unavailable("the name could not be claimed; try again")

    def give_up(self, why: str, *, asked: bool = True) -> None:
        """Refuse what waits and, where that is so for what was `asked`, whatever is not known to be kept."""
        if self._closing:
            return
        reason = unavailable(why)
        if asked and self._turns and self._turns[-1].results is None:
            turn = self._turns.pop()
            if self._asked is turn:
                self._asked = None
            for step in turn.untold():
                self._refuse(step, unavailable(why, sure=False))
            self._waiting[:0] = [step for step in turn.steps if isinstance(step, Releasing)]
        elif self._turns:
            for step in self._turns[-1].steps:
                if isinstance(step, Claiming | Renaming) and self._turns[-1].results is None:
                    step.give_up(reason)
        steps = self._waiting
        self._waiting = [step for step in steps if isinstance(step, Releasing)]  # a name must not stay behind
        if not self.opened.done:
            self._node.forget(self)
            self.opened.fail(reason)
        for step in steps:
            self._refuse(step, reason)

    def _refuse(self, step: Step, reason: Refused) -> None:
        rooms = self._node.rooms
        if isinstance(step, Saying):
            rooms.refuse(self.key, step.said, reason)
        elif isinstance(step, Deleting):
            rooms.refuse(self.key, [step.entry], reason)
        elif not isinstance(step, Releasing):
            settle(step, reason)

    def cut(self, *, names_are_known: bool = True) -> None:
        """Something is missing that cannot be had, or nothing is known of the room any more."""
        why = "messages of this room are missing; come in again"
        if self.state is State.OPENING:
            self.give_up(why)
            return
        turns, self._turns = self._turns, []
        for turn in turns:
            for step in turn.untold():
                self._refuse(step, unavailable(why, sure=False))
        steps, self._waiting = self._waiting, []
        for step in steps:
            self._refuse(step, unavailable(why))
        self.who.ours.clear()
        self.state = State.CLOSED
        if names_are_known:  # they are to be given back
            self._closing, self.state = True, State.BEHIND
            self._node.mark(self)
        self._node.rooms.cut(self.key)
