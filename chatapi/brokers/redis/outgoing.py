"""The steps of one node in one room that are not done yet: those that wait, and the turns that are sent."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.broker import unavailable
from ...errors import RefusalCode, Refused
from .batches import Header
from .scripts import Keys
from .turns import MOST_BYTES, MOST_STEPS, Claiming, Deleting, NodeSettings, Releasing, Renaming, Saying, Step, Turn


class Outgoing:
    """The steps that are not done, in their order. Only the last one of `turns` can still be without an answer."""

    __slots__ = ("_keys", "_node", "_room", "turns", "waiting")

    def __init__(self, room: str, keys: Keys, node: NodeSettings) -> None:
        self.waiting: list[Step] = []  # lists, because an empty deque takes 700 bytes
        self.turns: list[Turn] = []
        self._room, self._keys, self._node = room, keys, node

    def __bool__(self) -> bool:
        return bool(self.waiting or self.turns)

    def add(self, step: Step) -> bool:
        """Have a step wait; return False if it became part of the last one."""
        if isinstance(step, Saying) and self.waiting and step.said[0].ids is None:
            last = self.waiting[-1]
            if isinstance(last, Saying) and last.merge(step):
                return False
        self.waiting.append(step)
        return True

    @property
    def unanswered(self) -> Turn | None:
        """The turn that was sent and has no answer."""
        return self.turns[-1] if self.turns and self.turns[-1].refusals is None else None

    @property
    def deletion_to_look_up(self) -> Deleting | None:
        """The first step, if it is a deletion whose target was not looked up."""
        first = self.waiting[0] if self.waiting else None
        return first if isinstance(first, Deleting) and not first.looked_up else None

    def next_turn(self, number: int) -> Turn | None:
        """Return the turn without an answer, or else a new one with the steps that wait, if there are any."""
        if self.unanswered is None and self.waiting:
            self.turns.append(Turn(number, self._take_steps(), self._keys))
        return self.unanswered

    def _take_steps(self) -> list[Step]:
        count = size = 0
        for step in self.waiting:
            if size >= MOST_BYTES or count >= MOST_STEPS or (count and isinstance(step, Deleting)):
                break  # the target of a deletion may be in this turn
            size += step.size
            count += 1
        steps = self.waiting[:count]
        del self.waiting[:count]
        return steps

    def turn_of(self, header: Header) -> Turn | None:
        """Return the turn of a batch; None if it is another node's, or was given up."""
        if header.node != self._node.id:
            return None
        return next((turn for turn in self.turns if turn.number == header.turn), None)

    def take_settled(self, seq: int, roster_version: int) -> Turn | None:
        """Take the first turn if it was answered and everything up to its end was received."""
        turn = self.turns[0] if self.turns else None
        if turn is None or turn.refusals is None or turn.seq > seq or turn.roster_version > roster_version:
            return None
        return self.turns.pop(0)

    def give_up(self, why: str, *, sent: bool) -> Turn | None:
        """Refuse what waits and, if `sent`, the turn without an answer; return that turn.

        Releases stay, because the names must not stay behind.
        """
        reason, turn = unavailable(why), self.unanswered
        if turn is not None and sent:
            self.turns.pop()
            self._refuse_unconfirmed(turn, why)
            self.waiting[:0] = [step for step in turn.steps if isinstance(step, Releasing)]
        elif turn is not None:
            for step in turn.steps:
                if isinstance(step, Claiming | Renaming):
                    step.give_up(reason)
        steps = self.waiting
        self.waiting = [step for step in steps if isinstance(step, Releasing)]
        for step in steps:
            self._refuse(step, reason)
        return turn if sent else None

    def drop(self, why: str) -> None:
        """Refuse everything, because the room is closed."""
        turns, self.turns = self.turns, []
        for turn in turns:
            self._refuse_unconfirmed(turn, why)
        steps, self.waiting = self.waiting, []
        for step in steps:
            self._refuse(step, unavailable(why))

    def keep_releases(self, why: str) -> bool:
        """Give up all names that are asked for, and keep what is needed to release names.

        Return whether a name may be given in spite of that.
        """
        sent = [step for turn in self.turns for step in turn.steps]
        for step in (*sent, *self.waiting):
            if isinstance(step, Claiming | Renaming):
                step.give_up(unavailable(why))
        self.waiting = [step for step in self.waiting if isinstance(step, Releasing)]
        self.turns = [turn for turn in self.turns if turn.refusals is None]
        return any(isinstance(step, Claiming | Renaming) for step in sent)

    def _refuse_unconfirmed(self, turn: Turn, why: str) -> None:
        for step in turn.unconfirmed():
            self._refuse(step, unavailable(why, sure=False))

    def _refuse(self, step: Step, reason: Refused) -> None:
        rooms = self._node.rooms
        if isinstance(step, Saying):
            rooms.refuse(self._room, step.said, reason)
        elif isinstance(step, Deleting):
            rooms.refuse(self._room, [step.entry], reason)
        elif not isinstance(step, Releasing):
            step.settle(reason)


def name_refusal(step: Claiming | Renaming, why: Sequence[str] | None, room: str, member_limit: int) -> Refused:
    """Return the refusal for a name. It may have been given for a moment, while this node was disconnected."""
    if why is not None and why[0] == "taken":
        return Refused(RefusalCode.NAME_TAKEN, f"{step.name!r} is already in {room!r}")
    if why is not None and why[0] == "full":
        return Refused(RefusalCode.ROOM_FULL, f"{room!r} is full; members allowed: {member_limit:,}")
    return unavailable("the name could not be claimed; try again")
