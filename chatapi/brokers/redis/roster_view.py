"""Who is in a shared room, through which node: told by its batches, in their order, and compared after a gap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...core.entries import AnyEntry, Arrived, Departed, NameChanged
from .batches import Called, Came, Went

if TYPE_CHECKING:
    from ...core.broker import SharedRooms
    from .turns import Renaming


class Own(NamedTuple):
    """A name that somebody has here."""

    name: str
    session: str


class Attendance:
    """The roster of one room as a node sees it; every change is told to the `rooms` of the chat, once."""

    __slots__ = ("_node", "_room", "_rooms", "leaving", "others", "ours")

    def __init__(self, room: str, node: str, rooms: SharedRooms) -> None:
        self.ours: dict[str, Own] = {}
        """Who is here through this node."""
        self.others: dict[str, tuple[str, str]] = {}
        """Who is here through other nodes: the node, and the name."""
        self.leaving: dict[str, Went] = {}
        """Who has left here, while that is not told yet."""
        self._room, self._node, self._rooms = room, node, rooms

    def __len__(self) -> int:
        return len(self.ours) + len(self.others)

    @property
    def quiet(self) -> bool:
        """Whether so many are here that others are not told of who comes and goes."""
        return len(self) > self._rooms.limits.announce

    def nodes(self) -> set[str]:
        """The other nodes through which somebody is here."""
        return {node for node, _ in self.others.values()}

    def came(self, came: Came, seq: int, own: Own | None = None) -> None:
        """Somebody came in, or came back through another node, which nobody is told but for another spelling."""
        before = self._called(came.key)
        self.leaving.pop(came.key, None)
        if came.node == self._node:
            if own is not None:
                self.ours[came.key] = own
            self.others.pop(came.key, None)  # the chat takes it for elsewhere until it comes in here
        else:
            self.others[came.key] = came.node, came.name
            if self.ours.pop(came.key, None):
                self._rooms.lost(self._room, came.key, "replaced")
            self._rooms.elsewhere(self._room, came.key, came.name)
        if came.quiet:
            return
        if before is None:
            self._tell(Arrived(0, came.name), seq)
        elif before != came.name:
            self._tell(NameChanged(0, before, came.name, quiet=False), seq)

    def _called(self, key: str) -> str | None:
        """Who is taken to be here under a key, as the members here were told; None for nobody."""
        if (own := self.ours.get(key)) is not None:
            return own.name
        return self.others[key][1] if key in self.others else self.leaving[key].name if key in self.leaving else None

    def left(self, went: Went, seq: int) -> bool:
        """Somebody left; False where that is said of one who is here: then this node was taken for dead."""
        if went.key in self.ours:
            return False
        called = self._called(went.key)
        name = went.name if called is None else called  # whoever left may have said so in another spelling
        self.leaving.pop(went.key, None)
        self.others.pop(went.key, None)
        self._rooms.elsewhere(self._room, went.key, None)
        if not went.quiet:
            self._tell(Departed(0, name, went.reason), seq)
        return True

    def renamed(self, step: Renaming, seq: int) -> bool:
        """A member here has another name; False where it has left meanwhile."""
        own = self.ours.pop(step.key, None)
        self.leaving.pop(step.key, None)  # under the other name, then
        if own is not None:
            self.ours[step.to_key] = Own(step.entry.to, own.session)
            self._rooms.renamed(self._room, step.key, step.entry.to)
        self._tell(step.entry, seq)
        return own is not None

    def called(self, called: Called, seq: int) -> None:
        """Somebody has another name, of whom that was not expected."""
        other, own = self.others.pop(called.key, None), self.ours.pop(called.key, None)
        self.leaving.pop(called.key, None)
        if other is not None:
            self.others[called.to_key] = other[0], called.to
        if own is not None:  # a member here, who was told that it could not be
            self.ours[called.to_key] = Own(called.to, own.session)
        if other or own:
            self._rooms.renamed(self._room, called.key, called.to)
        self._tell(NameChanged(0, called.name, called.to, called.quiet), seq)

    def lose(self, lost: Sequence[bytes]) -> None:
        """Names of members here are others' now, each with the code that says how."""
        for key, code in _pairs(lost):
            if own := self.ours.pop(key, None):
                self._rooms.lost(self._room, key, code)
                self.others[key] = "", own.name  # whose it is now follows, and nobody is told of that

    def compare(self, who: Sequence[bytes], seq: int, *, opening: bool) -> None:
        """See who came and left while this node did not look."""
        here: set[str] = set()
        now: dict[str, tuple[str, str]] = {}
        for key, held in _pairs(who):
            node, _, name = held.split(" ", 2)
            if node == self._node:
                here.add(key)
            else:
                now[key] = node, name
        for went in [went for key, went in self.leaving.items() if key not in here]:  # that was done meanwhile
            self.left(went, seq)
        quiet = self.quiet or len(now) + len(self.ours) > self._rooms.limits.announce
        for key, (_, name) in [item for item in self.others.items() if item[0] not in now]:
            self.left(Went(quiet, key, "connection_lost", name), seq)
        for key, (node, name) in now.items():
            if self.others.get(key) != (node, name):
                self.came(Came(quiet or opening, key, node, name), seq)

    def _tell(self, entry: AnyEntry, seq: int) -> None:
        entry.seq = seq
        self._rooms.deliver(self._room, [entry], ours=False)


def _pairs(flat: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    return ((key.decode(), value.decode()) for key, value in zip(flat[::2], flat[1::2], strict=True))
