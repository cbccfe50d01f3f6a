"""A room's log with the numbers of its messages: which messages can be replayed, and where a member resumes."""

from __future__ import annotations

from collections.abc import Sequence

from ..events import Message
from ..limits import Limits
from .broker import Past
from .entries import AnyKept, Said
from .log import Log, Page, newest_of
from .member import Member
from .session_keys import hash_key


class RoomLog:
    """A room's own log, and the state of the log that its broker keeps. The base class of `Room`."""

    __slots__ = ("epoch", "first", "limits", "log", "seq", "ts")

    def __init__(self, past: Past, limits: Limits) -> None:
        self.limits: Limits = limits
        self.epoch: str = past.epoch
        """Identifies the log that the numbers belong to."""
        self.seq: int = past.seq
        """The `seq` of the newest message or deletion; 0 before the first."""
        self.ts: int = past.ts
        """Its `ts`, in microseconds since 1970."""
        self.first: int = past.first
        """The `seq` of the oldest message that the broker may still have; older ones are not shown any more."""
        self.log: Log = Log(limits.log_bytes, limits.log_entries)
        for entry in past.tail:
            self.log.append(entry)

    def history(self, messages: int) -> list[Message]:
        """Return the last `messages` messages, oldest first, as far as the log still holds them."""
        return self.page(self.seq + 1, messages, self.log.max_bytes)[0]

    def page(self, before: int, most: int, max_bytes: int) -> Page:
        """Return the newest messages with a `seq` below `before` in the log, and whether it has older ones."""
        return newest_of(self.log.before(before), self.first, before, most, max_bytes)

    @property
    def oldest(self) -> int:
        """The `seq` of the oldest message or deletion in the log, or of the next one if it has none."""
        return self.log.oldest_seq() or self.seq + 1

    def missing(self, epoch: str, seq: int) -> int:
        """Return the number of messages from `seq` on that the log does not hold any more, but the broker may."""
        seq = max(seq, 1)
        return self.oldest - seq if epoch == self.epoch and self.first <= seq < self.oldest else 0

    def restore(self, entries: Sequence[AnyKept]) -> None:
        """Hold entries of the broker again, if they come right before the oldest one that is held."""
        before = self.oldest
        older = [entry for entry in entries if entry.seq < before]
        if older and older[-1].seq + older[-1].count == before:
            self.log.prepend(older)

    def recover(self, epoch: str, seq: int, ts: int) -> int | str:
        """Return the position behind the message `seq` that was given at `ts`, or the reason why there is none."""
        if epoch != self.epoch:
            return "unknown_epoch"
        if seq > self.seq:
            return "diverged"
        if seq == 0:
            return self.log.tail if max(self.oldest, self.first) == 1 else "trimmed"
        if seq == self.seq:
            return self.log.head if ts == self.ts else "diverged"
        run = self.log.entry_of(seq)
        if run is None or seq < self.first:
            return "trimmed"
        return run.position + seq - run.seq + 1 if run.ts + seq - run.seq == ts else "diverged"

    def back(self, messages: int, *, shown: bool) -> int:
        """Return what `Log.back` does, but no position of messages that the broker does not keep any more."""
        position, forgotten = self.log.back(messages, shown=shown), self.log.entry_of(self.first - 1)
        return position if forgotten is None else max(position, forgotten.position + self.first - forgotten.seq)

    def mark_own(self, member: Member, id: str, seq: int, ts: int) -> None:  # noqa: A002
        """Make a message the member's own, under the id that it has sent; the room may have it from a store."""
        said = self.log.entry_of(seq)
        if isinstance(said, Said) and said.ts - said.seq == ts - seq:
            said.origin = member.id
            said.set_id(seq, id)
            if said.name != member.name and "name" not in said.ack_tells:
                said.ack_tells = ("name", *said.ack_tells)

    def mark_session_own(self, member: Member, session_key: str) -> None:
        """Make all messages of a session the member's own, also those that came from other servers."""
        keys = session_key, hash_key(session_key)
        for entry in self.log.before(self.seq + 1):
            if isinstance(entry, Said) and entry.session in keys:
                entry.origin = member.id

    def erase(self, target: int) -> None:
        """Empty the text of a message."""
        said = self.log.entry_of(target)
        if isinstance(said, Said):
            said.erase(target)
