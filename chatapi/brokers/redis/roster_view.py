"""The roster of a shared room as one node sees it: changed by batches, in their order, and compared after a gap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...core.entries import AnyEntry, Arrived, Departed, NameChanged
from .batches import MemberJoined, MemberLeft, MemberRenamed
from .turns import Renaming

if TYPE_CHECKING:
    from ...core.broker import SharedRooms


class LocalMember(NamedTuple):
    """A member on this node."""

    name: str
    session: str


class RosterView:
    """The members of one room. Every change is passed on to the `rooms` of the chat once."""

    __slots__ = ("_node", "_room", "_rooms", "leaving", "local", "remote")

    def __init__(self, room: str, node: str, rooms: SharedRooms) -> None:
        self.local: dict[str, LocalMember] = {}
        """Members on this node, by the keys of their names."""
        self.remote: dict[str, tuple[str, str]] = {}
        """Members on other nodes: node and name, by the key of the name."""
        self.leaving: dict[str, MemberLeft] = {}
        """Members that have left here, until their batch comes back."""
        self._room, self._node, self._rooms = room, node, rooms

    def __len__(self) -> int:
        return len(self.local) + len(self.remote)

    @property
    def quiet(self) -> bool:
        """Whether the room has so many members that joins and leaves are not shown."""
        return len(self) > self._rooms.limits.announce

    def remote_nodes(self) -> set[str]:
        """Return the other nodes that have members in the room."""
        return {node for node, _ in self.remote.values()}

    def joined(self, change: MemberJoined, seq: int, member: LocalMember | None = None) -> None:
        """Handle a join, or a take-over by another node, which is only shown if the spelling of the name changes.

        `member` is the member of this node that claimed the name, unless its claim was given up.
        """
        before = self._shown_name(change.key)
        self.leaving.pop(change.key, None)
        if change.node == self._node:
            if member is not None:
                self.local[change.key] = member
            self.remote.pop(change.key, None)  # for the chat the member stays remote until it has joined here
        else:
            self.remote[change.key] = change.node, change.name
            if self.local.pop(change.key, None):
                self._rooms.name_lost(self._room, change.key, "replaced")
            self._rooms.remote_member_changed(self._room, change.key, change.name)
        if change.quiet:
            return
        if before is None:
            self._deliver(Arrived(0, change.name), seq)
        elif before != change.name:
            self._deliver(NameChanged(0, before, change.name, quiet=False), seq)

    def _shown_name(self, key: str) -> str | None:
        """Return the name under a key, as the members here have seen it; None if there is none."""
        if (member := self.local.get(key)) is not None:
            return member.name
        return self.remote[key][1] if key in self.remote else self.leaving[key].name if key in self.leaving else None

    def left(self, change: MemberLeft, seq: int) -> bool:
        """Handle a leave. Return False if the member is on this node: then others took this node for dead."""
        if change.key in self.local:
            return False
        shown = self._shown_name(change.key)
        name = change.name if shown is None else shown  # the spelling may differ
        self.leaving.pop(change.key, None)
        self.remote.pop(change.key, None)
        self._rooms.remote_member_changed(self._room, change.key, None)
        if not change.quiet:
            self._deliver(Departed(0, name, change.reason), seq)
        return True

    def renamed_here(self, step: Renaming, seq: int) -> bool:
        """Handle a new name that a member here asked for. Return False if the member has left meanwhile."""
        member = self.local.pop(step.key, None)
        self.leaving.pop(step.key, None)  # it will leave under the new name
        if member is not None:
            self.local[step.to_key] = LocalMember(step.name, member.session)
            self._rooms.member_renamed(self._room, step.key, step.name)
        self._deliver(step.entry, seq)
        return member is not None

    def renamed(self, change: MemberRenamed, seq: int) -> None:
        """Handle any other new name."""
        remote, member = self.remote.pop(change.key, None), self.local.pop(change.key, None)
        self.leaving.pop(change.key, None)
        if remote is not None:
            self.remote[change.to_key] = remote[0], change.to
        if member is not None:  # it was told that it could not have the name
            self.local[change.to_key] = LocalMember(change.to, member.session)
        if remote or member:
            self._rooms.member_renamed(self._room, change.key, change.to)
        self._deliver(NameChanged(0, change.name, change.to, change.quiet), seq)

    def lost(self, names: Sequence[bytes]) -> None:
        """Handle names of members here that other members have now: keys and disconnect codes by turns."""
        for key, code in _pairs(names):
            if member := self.local.pop(key, None):
                self._rooms.name_lost(self._room, key, code)
                self.remote[key] = "", member.name  # `compare` sets the node, and nobody sees a join

    def compare(self, roster: Sequence[bytes], seq: int, *, opening: bool) -> None:
        """Handle the joins and leaves that were missed; `roster` is that of Redis."""
        local_keys: set[str] = set()
        remote: dict[str, tuple[str, str]] = {}
        for key, value in _pairs(roster):
            node, _, name = value.split(" ", 2)
            if node == self._node:
                local_keys.add(key)
            else:
                remote[key] = node, name
        for change in [change for key, change in self.leaving.items() if key not in local_keys]:
            self.left(change, seq)
        quiet = self.quiet or len(remote) + len(self.local) > self._rooms.limits.announce
        for key, (_, name) in [item for item in self.remote.items() if item[0] not in remote]:
            self.left(MemberLeft(quiet, key, "connection_lost", name), seq)
        for key, (node, name) in remote.items():
            if self.remote.get(key) != (node, name):
                self.joined(MemberJoined(quiet or opening, key, node, name), seq)

    def _deliver(self, entry: AnyEntry, seq: int) -> None:
        entry.seq = seq
        self._rooms.deliver(self._room, [entry], ours=False)


def _pairs(flat: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    return ((key.decode(), value.decode()) for key, value in zip(flat[::2], flat[1::2], strict=True))
