"""Turns: the steps that a node wants done in a shared room together, and the result of each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Final, TypeAlias

from ...core.entries import AnyKept, Deletion, NameChanged, Said
from ...core.names import Naming
from ...core.session_keys import hash_key
from ...errors import Refused
from ...pending import Pending
from . import batches
from .scripts import Keys, Section, Value

if TYPE_CHECKING:
    from ...core.broker import SharedRooms
    from ...limits import Keep

_DAY: Final = 24 * 3600
MOST_BYTES: Final = 256 * 1024
"""Approximate bytes of text in one turn, because Redis does nothing else while the script runs."""
MOST_STEPS: Final = 2000


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """The settings that all rooms of a node share."""

    id: str
    rooms: SharedRooms
    publish: str
    """The command that publishes."""
    keep: Keep
    replicas: int
    """The number of replicas that must have a message before it is acknowledged."""

    @property
    def remember_seconds(self) -> int:
        """`Limits.remember` in whole seconds, as Redis counts them, and never less than clients are told."""
        return max(1, ceil(self.rooms.limits.remember))


class Saying:
    """Messages: one with an id, or several without ids."""

    __slots__ = ("said", "size")

    def __init__(self, said: Said) -> None:
        self.said: list[Said] = [said]
        self.size: int = said.weight
        """Approximate bytes of text."""

    def merge(self, other: Saying) -> bool:
        """Add the messages of another step; return False if they cannot be in one step."""
        if self.said[0].ids is not None or other.said[0].ids is not None or self.size > MOST_BYTES // 4:
            return False
        self.said += other.said
        self.size += other.size
        return True

    def arguments(self, key_index: Callable[[str], int]) -> list[Value]:
        """Return the arguments of the script; `key_index` gives the index of a session's key."""
        ids = [one or "" for one in self.said[0].ids or ()]
        session = key_index(hash_key(self.said[0].session)) if ids else 0
        count = sum(one.count for one in self.said)
        return ["m", count, session, len(ids), *ids, batches.encode_messages(self.said)]


class Deleting:
    """A deletion. It is the first step of its turn, because the batch with its target is looked up before."""

    size = 1000

    def __init__(self, entry: Deletion) -> None:
        self.entry: Deletion = entry
        self.looked_up: bool = False
        """Whether the batch with the target was looked up."""
        self._number, self._batch, self._redacted = 0, b"", b""

    def found(self, batch: bytes | None) -> None:
        """Take the newest batch with messages up to the target."""
        self.looked_up = True
        header = batches.parse_header(batch)[0] if batch else None
        if batch and header is not None and header.seq_before < self.entry.target <= header.seq:
            self._number, self._batch = header.seq, batch
            self._redacted = batches.redact(batch, self.entry.target)

    def arguments(self, key_index: Callable[[str], int]) -> list[Value]:
        """Return the arguments of the script."""
        return ["d", self._number, self._batch, self._redacted, batches.encode_deletion(self.entry)]


class _NameStep:
    """A step that gives somebody a name. `settled` is its result."""

    size = 500

    def __init__(self, session: str, node: str) -> None:
        self.session: str = session
        self.settled: Pending[None] = Pending()
        self._node = node

    def settle(self, refusal: Refused | None) -> None:
        """Set the result, unless it was set before."""
        if self.settled.done:
            return
        if refusal is None:
            self.settled.resolve(None)
        else:
            self.settled.fail(refusal)


class Claiming(_NameStep):
    """A name for a member that joins. `session` is the hash of its session key, or empty."""

    def __init__(self, name: str, session: str, node: str, quiet: bool, naming: Naming) -> None:
        super().__init__(session, node)
        self.name: str = name
        self.key: str = naming.key(name)
        self.quiet: bool = quiet
        self.given_up: bool = False
        """Whether it was refused although it may be done: then the name is released again."""

    def give_up(self, refusal: Refused) -> None:
        """Refuse the step although it may be done."""
        self.given_up = True
        self.settle(refusal)

    def arguments(self, key_index: Callable[[str], int]) -> list[Value]:
        """Return the arguments of the script; `key_index` gives the index of a session's key."""
        piece = batches.encode_joined(batches.MemberJoined(self.quiet, self.key, self._node, self.name))
        session = key_index(self.session) if self.session else 0
        return ["j", self.key, session, roster_value(self._node, self.session, self.name), piece]


class Renaming(_NameStep):
    """Another name for a member."""

    def __init__(self, key: str, entry: NameChanged, session: str, node: str, naming: Naming) -> None:
        super().__init__(session, node)
        self.key: str = key
        self.to_key: str = naming.key(entry.to)
        self.entry: NameChanged = entry

    @property
    def name(self) -> str:
        """The new name."""
        return self.entry.to

    def give_up(self, refusal: Refused) -> None:
        """Refuse the step although it may be done: then its member sees the new name."""
        self.settle(refusal)

    def arguments(self, key_index: Callable[[str], int]) -> list[Value]:
        """Return the arguments of the script."""
        entry = self.entry
        piece = batches.encode_renamed(batches.MemberRenamed(entry.quiet, self.key, self.to_key, entry.name, entry.to))
        return ["r", self.key, self.to_key, roster_value(self._node, self.session, entry.to), piece]


class Releasing:
    """The name of a member that has left."""

    size = 500

    def __init__(self, key: str, name: str, session: str, reason: str, quiet: bool) -> None:
        self.left: batches.MemberLeft = batches.MemberLeft(quiet, key, reason, name)
        self.session: str = session

    def arguments(self, key_index: Callable[[str], int]) -> list[Value]:
        """Return the arguments of the script; `key_index` gives the index of a session's key."""
        return ["l", self.left.key, key_index(self.session) if self.session else 0, batches.encode_left(self.left)]


Step: TypeAlias = Saying | Deleting | Claiming | Releasing | Renaming


def roster_value(node: str, session: str, name: str) -> str:
    """Return the value of a name's key in the roster."""
    return f"{node} {session or '-'} {name}"


class Turn:
    """Steps that are sent together, under one number until they are answered."""

    def __init__(self, number: int, steps: Sequence[Step], keys: Keys) -> None:
        self.number: int = number
        self.steps: Sequence[Step] = steps
        self.came_back: bool = False
        """Whether its batch was received."""
        self.dropped: frozenset[int] = frozenset()
        """Indexes of the steps that were refused, as its batch says."""
        self.refusals: dict[int, list[str]] | None = None
        """The reason for each step that was refused, as the answer says; None without an answer."""
        self.seq: int = 0
        """The room's `seq` after the turn, as the answer says."""
        self.roster_version: int = 0
        session_keys: dict[str, int] = {}
        common = keys.common()

        def key_index(session: str) -> int:
            return session_keys.setdefault(session, len(common) + len(session_keys) + 1)

        self._arguments: list[Value] = [value for step in steps for value in step.arguments(key_index)]
        self._keys: list[str] = [*common, *map(keys.sent, session_keys)]

    def answered(self, seq: int, roster_version: int, refusals: str) -> None:
        """Take the answer of the script."""
        self.seq, self.roster_version = seq, roster_version
        self.refusals = {int(index): why for index, *why in (one.split(" ") for one in refusals.split(",") if one)}

    def section(self, node: NodeSettings, epoch: str, deadline: int, *, has_members: bool) -> Section:
        """Return what to ask the script, which refuses the turn after `deadline` (by Redis' clock; 0: none)."""
        limits, keep = node.rooms.limits, node.keep
        fixed: list[Value] = [node.publish, epoch, node.id, self.number, int(has_members), limits.room_members]
        fixed += keep.messages, keep.bytes, int(keep.days * _DAY), int(keep.days * _DAY * 1_000_000)
        fixed += node.remember_seconds, limits.remember_ids, deadline
        return Section("turn", self._keys, [*fixed, *self._arguments])

    def unconfirmed(self) -> list[Step]:
        """Return the steps that are not known to be done."""
        if not self.came_back:
            return list(self.steps)
        return [
            step for i, step in enumerate(self.steps) if i in self.dropped or not isinstance(step, Saying | Deleting)
        ]

    @property
    def is_missing(self) -> bool:
        """Whether its messages were kept, as the answer says, but have not come back."""
        refusals = self.refusals
        if refusals is None or self.came_back:
            return False
        return any(isinstance(step, Saying | Deleting) and i not in refusals for i, step in enumerate(self.steps))

    def done_steps(self, header: batches.Header) -> Iterator[AnyKept | Claiming | Releasing | Renaming]:
        """Yield what was done; messages and deletions have their `seq` and `ts`."""
        seq, ts = header.seq_before + 1, header.first_ts
        for index, step in enumerate(self.steps):
            if index in header.dropped:
                continue
            if not isinstance(step, Saying | Deleting):
                yield step
                continue
            entries: Sequence[AnyKept] = step.said if isinstance(step, Saying) else [step.entry]
            for entry in entries:
                entry.seq, entry.ts = seq, ts
                seq, ts = seq + entry.count, ts + entry.count
                yield entry
