"""Turns: what a node has to say to a shared room in one go, step by step, and what comes of each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from ...core.entries import AnyKept, Deletion, NameChanged, Said
from ...core.names import Naming
from ...core.session_keys import hash_key
from ...errors import Refused
from ...limits import Limits
from ...pending import Pending
from . import batches

if TYPE_CHECKING:
    from ...core.broker import SharedRooms
    from ...limits import Keep
    from .room import SharedRoom

_DAY: Final = 24 * 3600
MOST_BYTES: Final = 256 * 1024
"""Bytes of text in one turn, about: the script holds Redis up for as long as it takes."""
MOST_STEPS: Final = 2000

Value: TypeAlias = str | bytes | int


class Section(NamedTuple):
    """A room's part of a call of the script."""

    command: str
    keys: Sequence[str]
    arguments: Sequence[Value]
    back: int = 0
    """Bytes that the answer may have, about."""


class Node(NamedTuple):
    """What the rooms of a node have in common."""

    id: str
    rooms: SharedRooms
    publish: str
    """The command that publishes."""
    keep: Keep
    replicas: int
    """On how many replicas a message must be before it is acknowledged."""
    mark: Callable[[SharedRoom], None]
    """Called where a room may have something to ask."""
    forget: Callable[[SharedRoom], None]
    """Called where a room that was closed has nothing on its way any more."""


class Keys:
    """The keys of a room. What stands between the braces keeps them together on one shard of a cluster."""

    __slots__ = ("_room", "channel", "tag")

    def __init__(self, prefix: str, tag: str, db: int) -> None:
        self.tag: str = tag
        self._room = f"{prefix}:{{{tag}}}"
        self.channel: str = f"{self._room}:{db}" if db else self._room  # channels are those of all databases

    def fixed(self) -> list[str]:
        """Those that every command gets."""
        room = self._room
        return [f"{room}:meta", f"{room}:log", f"{room}:mended", f"{room}:who", self.channel, f"{room}:sent:"]

    def sent(self, session: str) -> str:
        """What a session has said."""
        return f"{self._room}:sent:{session}"


class Saying:
    """Messages: one with an id, or as many as come together without."""

    __slots__ = ("said", "size")

    def __init__(self, said: Said) -> None:
        self.said: list[Said] = [said]
        self.size: int = said.weight
        """Bytes of text, and what comes with it."""

    def take(self, other: Saying) -> bool:
        """Say something else along with it; False where that does not go."""
        if self.said[0].ids is not None or other.said[0].ids is not None or self.size > MOST_BYTES // 4:
            return False
        self.said += other.said
        self.size += other.size
        return True

    def arguments(self, place: Callable[[str], int]) -> list[Value]:
        """What the script needs to know."""
        ids = [one or "" for one in self.said[0].ids or ()]
        session = place(hash_key(self.said[0].session)) if ids else 0
        count = sum(one.count for one in self.said)
        return ["m", count, session, len(ids), *ids, batches.messages(self.said)]


class Deleting:
    """A deletion. It is the first step of its turn: the batch that holds the message is looked up before."""

    size = 1000

    def __init__(self, entry: Deletion) -> None:
        self.entry: Deletion = entry
        self.is_found: bool = False
        """Whether the batch was looked up."""
        self._number, self._batch, self._mended = 0, b"", b""

    def found(self, batch: bytes | None) -> None:
        """This is the newest batch with messages up to the one that is to be deleted."""
        self.is_found = True
        where = batches.head(batch)[0] if batch else None
        if batch and where is not None and where.last_seq < self.entry.target <= where.seq:
            self._number, self._batch = where.seq, batch
            self._mended = batches.without(batch, self.entry.target)

    def arguments(self, place: Callable[[str], int]) -> list[Value]:
        """What the script needs to know."""
        return ["d", self._number, self._batch, self._mended, batches.deletion(self.entry)]


class Claiming:
    """Somebody is to get a name."""

    size = 500

    def __init__(self, name: str, session: str, node: str, quiet: bool, naming: Naming) -> None:
        self.name: str = name
        self.key: str = naming.key(name)
        self.session: str = session
        self.quiet: bool = quiet
        self.settled: Pending[None] = Pending()
        """Whether the name was given."""
        self.given_up: bool = False
        """Whether that was refused already, though it may take place: then the name is given back."""
        self._node = node

    def give_up(self, reason: Refused) -> None:
        """Refuse it without knowing."""
        self.given_up = True
        settle(self, reason)

    def arguments(self, place: Callable[[str], int]) -> list[Value]:
        """What the script needs to know."""
        piece = batches.came(batches.Came(self.quiet, self.key, self._node, self.name))
        session = place(self.session) if self.session else 0
        return ["j", self.key, session, holder(self._node, self.session, self.name), piece]


class Releasing:
    """Somebody has left."""

    size = 500

    def __init__(self, key: str, name: str, session: str, reason: str, quiet: bool) -> None:
        self.went: batches.Went = batches.Went(quiet, key, reason, name)
        self.session: str = session

    def arguments(self, place: Callable[[str], int]) -> list[Value]:
        """What the script needs to know."""
        return ["l", self.went.key, place(self.session) if self.session else 0, batches.went(self.went)]


class Renaming:
    """Somebody is to have another name."""

    size = 500

    def __init__(self, key: str, entry: NameChanged, session: str, node: str, naming: Naming) -> None:
        self.key: str = key
        self.to_key: str = naming.key(entry.to)
        self.entry: NameChanged = entry
        self.session: str = session
        self.settled: Pending[None] = Pending()
        """Whether the name was given."""
        self._node = node

    def give_up(self, reason: Refused) -> None:
        """Refuse it without knowing: who asked sees it, if it takes place all the same."""
        settle(self, reason)

    def arguments(self, place: Callable[[str], int]) -> list[Value]:
        """What the script needs to know."""
        entry = self.entry
        piece = batches.called(batches.Called(entry.quiet, self.key, self.to_key, entry.name, entry.to))
        return ["r", self.key, self.to_key, holder(self._node, self.session, entry.to), piece]


Step: TypeAlias = Saying | Deleting | Claiming | Releasing | Renaming


def seconds_to_remember(limits: Limits) -> int:
    """`Limits.remember` in whole seconds, as Redis counts them: never less than the clients are told."""
    return max(1, ceil(limits.remember))


def holder(node: str, session: str, name: str) -> str:
    """Who has a name, as the roster says it."""
    return f"{node} {session or '-'} {name}"


def settle(step: Claiming | Renaming, reason: Refused | None) -> None:
    """Set the result of the step, unless it has been given up before."""
    if step.settled.done:
        return
    if reason is None:
        step.settled.resolve(None)
    else:
        step.settled.fail(reason)


class Turn:
    """Some steps on their way; they are sent under one number until they are answered."""

    def __init__(self, number: int, steps: Sequence[Step], keys: Keys) -> None:
        self.number: int = number
        self.steps: Sequence[Step] = steps
        self.dropped: frozenset[int] = frozenset()
        """Which steps did not take place, once it has come back."""
        self.told: bool = False
        """Whether it has come back as a batch."""
        self.results: dict[int, list[str]] | None = None
        """Once it is answered, why which steps did not take place."""
        self.seq: int = 0
        """The room's number after it, once it is answered."""
        self.pv: int = 0
        sessions: dict[str, int] = {}
        fixed = keys.fixed()

        def place(session: str) -> int:
            return sessions.setdefault(session, len(fixed) + len(sessions) + 1)

        self._arguments: list[Value] = [value for step in steps for value in step.arguments(place)]
        self.keys: list[str] = [*fixed, *map(keys.sent, sessions)]

    def answered(self, seq: int, pv: int, results: str) -> None:
        """The script has said what came of it."""
        self.seq, self.pv = seq, pv
        self.results = {int(index): why for index, *why in (one.split(" ") for one in results.split(",") if one)}

    def section(self, node: Node, epoch: str, until: int, *, members_here: bool) -> Section:
        """What the script is asked: not to be done later than `until`, by the clock of Redis; 0 for never."""
        limits, keep = node.rooms.limits, node.keep
        head: list[Value] = [node.publish, epoch, node.id, self.number, int(members_here), limits.room_members]
        head += keep.messages, keep.bytes, int(keep.days * _DAY), int(keep.days * _DAY * 1_000_000)
        head += seconds_to_remember(limits), limits.remember_ids, until
        return Section("turn", self.keys, [*head, *self._arguments])

    def untold(self) -> list[Step]:
        """The steps that are not known to have taken place."""
        told = [i for i, step in enumerate(self.steps) if isinstance(step, Saying | Deleting) and i not in self.dropped]
        return [step for i, step in enumerate(self.steps) if not (self.told and i in told)]

    @property
    def is_missing(self) -> bool:
        """Whether messages of it were kept, as was answered, that have not come back."""
        results = self.results
        if results is None or self.told:
            return False
        return any(isinstance(step, Saying | Deleting) and i not in results for i, step in enumerate(self.steps))

    def placed(self, where: batches.Head) -> Iterator[AnyKept | Claiming | Releasing | Renaming]:
        """The steps that took place, messages and deletions with their places."""
        seq, ts = where.last_seq + 1, where.first_ts
        for index, step in enumerate(self.steps):
            if index in where.dropped:
                continue
            if not isinstance(step, Saying | Deleting):
                yield step
                continue
            entries: Sequence[AnyKept] = step.said if isinstance(step, Saying) else [step.entry]
            for entry in entries:
                entry.seq, entry.ts = seq, ts
                seq, ts = seq + entry.count, ts + entry.count
                yield entry
